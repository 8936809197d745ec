"""Events that no build tool sends: they cost their sender, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from nativelink.proto.build_event_stream import build_event_stream_pb2 as bep
from nativelink.proto.google.devtools.build.v1 import publish_build_event_pb2
from nativelink.proto.google.protobuf.timestamp_pb2 import Timestamp
from nativelink.proto.nativelink.v1 import builds_pb2 as pb
from nativelink.services.builds import history
from nativelink.services.builds.events import StreamName
from nativelink.services.builds.history import BuildHistory
from nativelink.services.builds.live import LiveBuild
from nativelink.services.builds.publish import PublishBuildEventService
from nativelink.services.builds.readings import processes_of, public_option
from nativelink.services.builds.service import BuildsService
from nativelink.services.builds.summary import BuildSummary
from nativelink.testing.calls import Caller, FakeMessageSource
from nativelink.testing.fakes import DictStore, FakeClock, wait_until
from nativelink.testing.patience import beside
from tests.services.builds.tool import Id, Tool, completed, configured, finish, ran_test, start

MIB = 1 << 20


class Farm:
    """A server that takes events and shows builds."""

    def __init__(self) -> None:
        self.store = DictStore()
        clock = FakeClock()
        builds = BuildHistory(self.store, clock=clock)
        publish = PublishBuildEventService(self.store, builds, clock=clock)
        shows = BuildsService(self.store, builds)
        self.caller = Caller([*publish.methods(), *shows.methods()])

    async def publish(self, tool: Tool) -> list[int]:
        kind = publish_build_event_pb2.PublishBuildToolEventStreamResponse
        acks = await self.caller.bidirectional(
            "PublishBuildToolEventStream", FakeMessageSource(*tool.events), kind
        )
        return [ack.sequence_number for ack in acks]

    async def listed(self) -> pb.ListBuildsResponse:
        return await self.caller.unary("ListBuilds", pb.ListBuildsRequest(), pb.ListBuildsResponse)


def summed_up(tool: Tool) -> pb.Build:
    summary = BuildSummary(pb.Build())
    for event in tool.events:
        summary.add(event, "")
    return summary.build


def says_log(tool: Tool, name: str, contents: bytes) -> None:
    log = bep.File(name=name, contents=contents)
    tool.say(build_tool_logs=bep.BuildToolLogs(log=[log]))


@pytest.mark.parametrize(
    "contents",
    [
        b"1 process: " + b" " * 2 * MIB + b"x",
        b"1" * 2 * MIB,
        b"1 process: " * (MIB // 8),
        b"1 process: " + b"1 a, " * (MIB // 4),
        b"Critical Path: " + b"1" * 2 * MIB,
        b"Critical Path: 1" * (MIB // 8),
    ],
)
@pytest.mark.parametrize("name", ["process stats", "critical path"])
def test_a_log_takes_no_longer_than_it_is_long(name: str, contents: bytes) -> None:
    # With an expression that goes back and forth over it, the first two take days.
    tool = Tool()
    says_log(tool, name, contents)
    assert summed_up(tool).ByteSize() < 200_000


def test_the_last_line_of_bazel_is_still_understood() -> None:
    assert processes_of("12 processes: 3 remote cache hit, 9 linux-sandbox.\n") == {
        "remote cache hit": 3,
        "linux-sandbox": 9,
    }
    assert processes_of("1 process: 1 internal") == {"internal": 1}
    assert processes_of("1 process: 99999999999999999999 a, ² b, 2 c") == {"c": 2}


def strange_numbers() -> list[Tool]:
    """Builds that say a number which its field in a summary does not hold."""
    tools = []
    for text in (b"1.2.3", b".", b"9" * 400, b"99999999999999999999"):
        tools.append(Tool(f"critical-path-{len(tools)}"))
        says_log(tools[-1], "critical path", b"Critical Path: " + text + b" s")
    tools.append(Tool("processes"))
    says_log(tools[-1], "process stats", b"1 process: " + b"9" * 5000 + b" internal")
    tools.append(Tool("wall-time"))
    timing = bep.BuildMetrics.TimingMetrics(
        wall_time_in_ms=2**63 - 1, cpu_time_in_ms=-(2**63), analysis_phase_time_in_ms=2**62
    )
    tools[-1].say(build_metrics=bep.BuildMetrics(timing_metrics=timing))
    tools.append(Tool("cached"))
    about = Id(test_summary=Id.TestSummaryId(label="//t"))
    most = 2**31 - 1
    tools[-1].say(
        about=about, test_summary=bep.TestSummary(total_run_count=most, total_num_cached=most)
    )
    ran_test(tools[-1], "//t", cached=True)
    tools.append(Tool("nanos"))
    tools[-1].say(started=bep.BuildStarted(start_time=Timestamp(seconds=1, nanos=-1)))
    for seconds in (2**63 - 1, -(2**63), 300_000_000_000):
        tools.append(Tool(f"started-{len(tools)}"))
        tools[-1].say(started=bep.BuildStarted(start_time=Timestamp(seconds=seconds)))
        tools.append(Tool(f"finished-{len(tools)}"))
        tools[-1].say(finished=bep.BuildFinished(finish_time=Timestamp(seconds=seconds)))
        tools.append(Tool(f"happened-{len(tools)}"))
        start(tools[-1])
        first = tools[-1].events[0].ordered_build_event.event
        first.event_time.CopyFrom(Timestamp(seconds=seconds))
        tools.append(Tool(f"millis-{len(tools)}"))
        millis = max(min(seconds * 1000, 2**63 - 1), -(2**63))
        tools[-1].say(started=bep.BuildStarted(start_time_millis=millis))
    return tools


@pytest.mark.parametrize("tool", strange_numbers(), ids=lambda tool: tool.invocation)
async def test_a_number_that_no_summary_holds_does_not_hold_up_the_events(tool: Tool) -> None:
    farm = Farm()
    finish(tool)
    tool.end()
    assert await farm.publish(tool) == list(range(1, len(tool.events) + 1))
    build = pb.Build.FromString(farm.store.blobs[f"BuildSummary:{tool.invocation}"])
    assert build.state == pb.Build.SUCCEEDED
    # Whoever shows it makes a date of it.
    assert 0 <= build.start_time.ToDatetime().year <= 3000
    assert 0 <= build.finish_time.ToDatetime().year <= 3000


def test_long_names_make_no_long_summary() -> None:
    tool = Tool()
    long = "x" * 5_000
    started = bep.BuildStarted(command=long, build_tool_version=long, workspace_directory=long)
    tool.say(started=started, project=long)
    for number in range(600):
        configured(tool, f"{number}{long}", kind=long)
        completed(tool, f"{number}{long}", success=False, message=f"{number}{long}")
        ran_test(tool, f"{number}{long}", bep.FAILED, strategy=long)
    action = bep.ActionExecuted(type=long, label=long)
    tool.say(action=action)
    runners = [
        bep.BuildMetrics.ActionSummary.RunnerCount(name=f"{number}{long}", count=1)
        for number in range(200)
    ]
    summary = bep.BuildMetrics.ActionSummary(runner_count=runners)
    tool.say(build_metrics=bep.BuildMetrics(action_summary=summary))
    finish(tool, long, 1)
    # 1,000 labels of a kilobyte with as much beside them, and 200 failures of five.
    assert summed_up(tool).ByteSize() < 4 * MIB


def test_of_a_list_without_end_the_beginning_counts() -> None:
    tool = Tool()
    child = Id(pattern=Id.PatternExpandedId(pattern=["//a"] * 10_000))
    tool.say(*[child] * 3, started=bep.BuildStarted())
    items = [bep.WorkspaceStatus.Item(key="BUILD_USER", value="ada")] * 10_000
    tool.say(workspace_status=bep.WorkspaceStatus(item=items))
    build = summed_up(tool)
    assert (len(build.patterns), build.user) == (100, "ada")


async def test_one_builds_long_summary_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "_MAX_SUMMARY_BYTES", MIB)
    farm = Farm()
    modest = Tool("modest")
    start(modest)
    finish(modest)
    await farm.publish(modest)
    greedy = Tool("greedy")
    start(greedy)
    uris = [f"file:///{number}/{'é' * 4000}" for number in range(10)]
    for number in range(20):
        logs = [bep.File(name="test.log", uri=f"{number}{uri}") for uri in uris]
        summary = bep.TestSummary(overall_status=bep.FAILED, failed=logs)
        about = Id(test_summary=Id.TestSummaryId(label=f"//{number}"))
        greedy.say(about=about, test_summary=summary)
    await farm.publish(greedy)
    listed = await farm.listed()
    assert {build.invocation_id for build in listed.builds} == {"modest", "greedy"}
    [build] = [build for build in listed.builds if build.invocation_id == "greedy"]
    assert (build.incomplete, build.tests_failed) == (True, 20)


async def test_a_list_fits_into_a_message_and_says_that_there_are_more() -> None:
    farm = Farm()
    for number in range(10):
        tool = Tool(f"invocation-{number}")
        start(tool)
        metadata = {f"{key}": "x" * 4000 for key in range(100)}
        tool.say(build_metadata=bep.BuildMetadata(metadata=metadata))
        await farm.publish(tool)
    listed = await farm.listed()
    assert listed.more
    assert 0 < len(listed.builds) < 10
    assert listed.ByteSize() < 4 * MIB


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("--define=api_token=xyzzy", "--define=api_token=…"),
        ("--define=mode=fast", "--define=mode=fast"),
        ("--remote_cache=grpcs://ada:xyzzy@cache:443", "--remote_cache=grpcs://…@cache:443"),
        ("--remote_cache=grpcs://ada:xy@zzy@cache:443", "--remote_cache=grpcs://…@cache:443"),
        ("--remote_cache=grpcs://cache/a@b", "--remote_cache=grpcs://cache/a@b"),
        ("--bes_results_url=http://x/?auth=1", "--bes_results_url=http://x/?auth=1"),
    ],
)
def test_a_secret_within_a_value_is_no_part_of_the_summary(option: str, shown: str) -> None:
    assert public_option(option) == shown


async def test_the_larger_a_summary_is_the_less_often_it_is_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    turn, loop = asyncio.sleep, asyncio.get_running_loop()

    async def sleep(seconds: float) -> None:
        # Servers of other tests may live in other threads.
        ours = asyncio.get_running_loop() is loop
        if ours and seconds:
            pauses.append(seconds)
        await turn(0 if ours else seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    store, clock, tool = DictStore(), FakeClock(), Tool()
    name = StreamName(tool.build, tool.invocation)
    live = LiveBuild(store, BuildHistory(store, clock=clock), name, "", clock=clock)
    start(tool)
    for number in range(100):
        logs = [bep.File(name="test.log", uri=f"{at}{'x' * 5000}") for at in range(10)]
        about = Id(test_result=Id.TestResultId(label=f"//a:{number}"))
        result = bep.TestResult(status=bep.FAILED, test_action_output=logs)
        tool.say(about=about, test_result=result)
    async with beside(live.keep()):
        live.add(tool.events[0])
        await wait_until(lambda: pauses == [2.0])
        for event in tool.events[1:]:
            live.add(event)
        await wait_until(lambda: len(pauses) == 2)
    assert pauses[1] == len(store.blobs[f"BuildSummary:{tool.invocation}"]) / MIB > 3.5
