"""Builds are found again: the latest, by name, by what they were."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nativelink.core.digest import StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build_event_stream import build_event_stream_pb2 as bep
from nativelink.proto.google.devtools.build.v1 import publish_build_event_pb2
from nativelink.proto.nativelink.v1 import builds_pb2 as pb
from nativelink.services.builds.history import BuildHistory
from nativelink.services.builds.publish import PublishBuildEventService
from nativelink.services.builds.service import BuildsService
from nativelink.testing.calls import Caller, FakeMessageSource
from nativelink.testing.fakes import DictStore, FakeClock
from tests.services.builds.tool import Tool, failing_build, finish, start

DAY_S = 86_400


class Server:
    """Takes events and shows builds."""

    def __init__(self, store: DictStore) -> None:
        self.store = store
        self.clock = FakeClock()
        history = BuildHistory(store, clock=self.clock)
        publish = PublishBuildEventService(store, history, clock=self.clock)
        self.caller = Caller([*publish.methods(), *BuildsService(store, history).methods()])

    async def publish(self, tool: Tool) -> None:
        answer = publish_build_event_pb2.PublishBuildToolEventStreamResponse
        source = FakeMessageSource(*tool.events)
        await self.caller.bidirectional("PublishBuildToolEventStream", source, answer)

    async def listed(self, **request: object) -> pb.ListBuildsResponse:
        message = pb.ListBuildsRequest(**request)
        return await self.caller.unary("ListBuilds", message, pb.ListBuildsResponse)

    async def names(self, **request: object) -> list[str]:
        return [each.invocation_id for each in (await self.listed(**request)).builds]

    async def get(self, invocation: str = "", build: str = "") -> pb.Build:
        message = pb.GetBuildRequest(invocation_id=invocation, build_id=build)
        return await self.caller.unary("GetBuild", message, pb.Build)

    async def log(self, invocation: str) -> str:
        message = pb.ReadBuildLogRequest(invocation_id=invocation)
        answers = await self.caller.server_stream("ReadBuildLog", message, pb.ReadBuildLogResponse)
        return "".join(each.stderr + each.stdout for each in answers)


@pytest.fixture
def server() -> Server:
    return Server(DictStore())


async def some_builds(server: Server, count: int) -> None:
    for number in range(count):
        tool = Tool(f"invocation-{number}")
        start(tool, at=-number * DAY_S / 2, command="test" if number % 2 else "build")
        if number:
            finish(tool, *(() if number % 3 else ("BUILD_FAILURE", 1)))
        await server.publish(tool)


async def test_the_latest_build_comes_first(server: Server) -> None:
    await some_builds(server, 4)
    assert await server.names() == [f"invocation-{number}" for number in range(4)]


async def test_a_list_goes_back_as_many_days_as_it_is_told(server: Server) -> None:
    await some_builds(server, 20)
    assert len(await server.names(days=1)) == 2
    assert len(await server.names()) == 14
    assert len(await server.names(days=30)) == 20


async def test_a_list_says_that_there_are_more(server: Server) -> None:
    await some_builds(server, 4)
    answer = await server.listed(page_size=2)
    assert (len(answer.builds), answer.more) == (2, True)
    answer = await server.listed(page_size=4)
    assert (len(answer.builds), answer.more) == (4, False)


async def test_a_list_is_short_and_a_build_is_whole(server: Server) -> None:
    tool = Tool()
    failing_build(tool)
    await server.publish(tool)
    [listed] = (await server.listed()).builds
    # Nor is the rest held while a page is made.
    [kept] = (
        await BuildHistory(server.store, clock=server.clock).latest(
            1, days=1, accept=lambda build: len(build.failures) == 1
        )
    ).builds
    assert kept == listed
    assert (listed.targets_failed, len(listed.targets), len(listed.failures)) == (1, 0, 0)
    build = await server.get("invocation-1")
    assert (len(build.targets), len(build.failures)) == (5, 1)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("state=running", [0]),
        ("state=FAILED", [3]),
        ("command=test", [1, 3]),
        ("command!=test AND state!=RUNNING", [2]),
        ("project=acme AND keyword=user_keyword=nightly", [0, 1, 2, 3]),
        ("pattern=//... AND invocation=invocation-2", [2]),
        ("user=nobody", []),
    ],
)
async def test_a_list_is_filtered(server: Server, text: str, numbers: list[int]) -> None:
    await some_builds(server, 4)
    assert await server.names(filter=text) == [f"invocation-{number}" for number in numbers]


@pytest.mark.parametrize("text", ["colour=red", "state=SHY", "state", "user=a user=b"])
async def test_a_filter_that_cannot_be_understood_is_refused(server: Server, text: str) -> None:
    with pytest.raises(NativeLinkError, match="malformed filter of builds") as raised:
        await server.listed(filter=text)
    assert raised.value.code is Code.INVALID_ARGUMENT


async def test_a_build_is_found_by_the_beginning_of_its_name(server: Server) -> None:
    for name in ("abcd-1", "abce-2"):
        tool = Tool(name)
        start(tool)
        await server.publish(tool)
    assert (await server.get("abcd")).invocation_id == "abcd-1"
    tool = Tool("abcd-3")
    start(tool)
    await server.publish(tool)
    with pytest.raises(NativeLinkError, match="2 builds begin with 'abcd': "):
        await server.get("abcd")


async def test_no_name_means_the_latest_build(server: Server) -> None:
    with pytest.raises(NativeLinkError, match="no build has been published here"):
        await server.get()
    await some_builds(server, 3)
    assert (await server.get()).invocation_id == "invocation-0"


async def test_the_latest_build_is_found_without_a_look_at_earlier_days(server: Server) -> None:
    await some_builds(server, 1)
    asked: set[str] = set()
    has = server.store.has

    async def noting(keys: Sequence[StoreKey]) -> list[int | None]:
        asked.update(str(key).split(":")[1] for key in keys)
        return await has(keys)

    server.store.has = noting
    assert (await server.get()).invocation_id == "invocation-0"
    # In a bucket each day is a request for every piece of its index.
    assert len(asked) == 1


async def test_where_no_build_is_found_a_year_is_a_few_questions(server: Server) -> None:
    questions: list[int] = []
    asked: set[StoreKey] = set()
    has = server.store.has

    async def noting(keys: Sequence[StoreKey]) -> list[int | None]:
        questions.append(len(keys))
        asked.update(keys)
        return await has(keys)

    server.store.has = noting
    with pytest.raises(NativeLinkError, match="no build has been published here"):
        await server.get()
    days = [count // 32 for count in questions]
    assert days[:7] == [1, 2, 4, 8, 16, 32, 32]
    assert max(days) == 32
    assert sum(questions) == len(asked) == 366 * 32


async def test_a_build_of_long_ago_is_found_in_its_turn(server: Server) -> None:
    for name, days in (("long-ago", 100), ("longer-ago", 101)):
        tool = Tool(name)
        start(tool, at=-days * DAY_S)
        await server.publish(tool)
    assert (await server.get()).invocation_id == "long-ago"
    assert await server.names(days=101) == ["long-ago"]
    assert await server.names(days=366) == ["long-ago", "longer-ago"]


async def test_an_unknown_build_is_not_found(server: Server) -> None:
    with pytest.raises(NativeLinkError) as raised:
        await server.get("3f1c2a4e-9d0b")
    assert raised.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("name", ["abc", "a/b/c/d", "x" * 101])
async def test_what_is_no_name_is_refused(server: Server, name: str) -> None:
    with pytest.raises(NativeLinkError) as raised:
        await server.get(name)
    assert raised.value.code is Code.INVALID_ARGUMENT


async def test_what_nativelink_recorded_is_summed_up_from_its_events(server: Server) -> None:
    tool = Tool()
    failing_build(tool)
    await server.publish(tool)
    whole = await server.get("invocation-1")
    for key in list(server.store.blobs):
        if not str(key).startswith("BepEvent:"):
            del server.store.blobs[key]

    build = await server.get("invocation-1", "build-1")

    whole.ClearField("seen_time")
    assert build == whole


async def test_the_log_is_what_bazel_printed(server: Server) -> None:
    tool = Tool()
    start(tool)
    for number in range(200):
        tool.say(progress=bep.Progress(stderr=f"{number}\n", stdout="x" * 20_000))
    await server.publish(tool)
    said = await server.log("invocation-1")
    assert said.replace("x", "") == "".join(f"{number}\n" for number in range(200))


async def test_a_long_piece_of_a_log_comes_in_several_messages(server: Server) -> None:
    tool = Tool()
    start(tool)
    tool.say(progress=bep.Progress(stderr="ä" * 3_000_000, stdout="o"))
    await server.publish(tool)
    message = pb.ReadBuildLogRequest(invocation_id=tool.invocation)
    answers = await server.caller.server_stream("ReadBuildLog", message, pb.ReadBuildLogResponse)
    assert max(each.ByteSize() for each in answers) < 4 << 20
    assert await server.log(tool.invocation) == "ä" * 3_000_000 + "o"


async def test_two_servers_share_the_builds_of_a_store() -> None:
    store = DictStore()
    servers = [Server(store), Server(store)]
    for number in range(40):
        tool = Tool(f"invocation-{number}")
        start(tool)
        await servers[number % 2].publish(tool)
    assert len(await servers[0].names()) == 40


async def test_a_summary_that_was_evicted_is_passed_over(server: Server) -> None:
    await some_builds(server, 3)
    del server.store.blobs["BuildSummary:invocation-1"]
    assert await server.names() == ["invocation-0", "invocation-2"]
