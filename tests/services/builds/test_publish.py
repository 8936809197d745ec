"""Build events are stored as NativeLink stores them, acknowledged in order, and resumable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from nativelink.core.digest import StoreKey
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.core.streams import Source
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import events_pb2
from nativelink.proto.google.devtools.build.v1 import build_events_pb2
from nativelink.proto.google.devtools.build.v1 import publish_build_event_pb2 as pb
from nativelink.proto.google.protobuf import empty_pb2
from nativelink.proto.nativelink.v1 import builds_pb2
from nativelink.services.builds.events import BATCH
from nativelink.services.builds.history import BuildHistory
from nativelink.services.builds.publish import PublishBuildEventService
from nativelink.testing.calls import Caller, FakeMessageSink, FakeMessageSource
from nativelink.testing.fakes import DictStore, FakeClock, wait_until
from nativelink.testing.faults import Gate
from tests.services.builds.tool import Request, Tool, finish, start

Ack = pb.PublishBuildToolEventStreamResponse
METHOD = "PublishBuildToolEventStream"


class CountingStore(DictStore):
    """Counts writes of events; a write may be made to wait, or to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, Gate] = {}
        self.failures: list[NativeLinkError] = []
        self.written: list[str] = []
        self.asked = 0

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        self.asked += 1
        return await super().has(keys)

    async def put(self, key: StoreKey, source: Source) -> int:
        assert isinstance(key, str)
        if key.startswith("BepEvent:"):
            if self.failures:
                raise self.failures.pop(0)
            gate = self.gates.get(key) or self.gates.get("")
            if gate is not None:
                await gate.wait()
            self.written.append(key)
        return await super().put(key, source)


def service_of(store: DictStore) -> PublishBuildEventService:
    clock = FakeClock()
    history = BuildHistory(store, clock=clock)
    return PublishBuildEventService(store, history, clock=clock, pause_s=0)


def caller(store: DictStore, *metadata: tuple[bytes, bytes]) -> Caller:
    return Caller(service_of(store).methods(), metadata)


async def publish(store: DictStore, *requests: Request) -> list[int]:
    """Publish over a connection of its own; what was acknowledged."""
    acks = await caller(store).bidirectional(METHOD, FakeMessageSource(*requests), Ack)
    return [ack.sequence_number for ack in acks]


class Connection:
    """A stream that the test goes on with."""

    def __init__(self, methods: Caller, tasks: asyncio.TaskGroup, *requests: Request) -> None:
        self.source = FakeMessageSource(*requests, ended=False)
        self.sink = FakeMessageSink()
        method = methods.method(METHOD)
        self.error: NativeLinkError | None = None
        call = method.handler(self.source, methods._context(method), self.sink)
        self.task = tasks.create_task(self._run(call))

    async def _run(self, call: object) -> None:
        try:
            await call
        except* NativeLinkError as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            assert isinstance(error, NativeLinkError)
            self.error = error

    @property
    def acknowledged(self) -> list[int]:
        return [Ack.FromString(message).sequence_number for message in self.sink.messages]


@asynccontextmanager
async def connections() -> AsyncIterator[Callable[..., Connection]]:
    async with asyncio.TaskGroup() as tasks:
        opened: list[Connection] = []

        def connect(methods: Caller, *requests: Request) -> Connection:
            opened.append(Connection(methods, tasks, *requests))
            return opened[-1]

        yield connect
        for each in opened:
            each.task.cancel()


def key(number: int, tool: Tool) -> str:
    return f"BepEvent:be:{tool.build}:{tool.invocation}:{number}"


async def code_of(*requests: Request, store: DictStore | None = None) -> tuple[Code, str]:
    with pytest.raises(BaseExceptionGroup) as raised:
        await publish(store or DictStore(), *requests)
    error: BaseException = raised.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, NativeLinkError)
    return error.code, error.message


async def test_events_are_stored_byte_for_byte_under_nativelinks_keys() -> None:
    store, tool = DictStore(), Tool()
    start(tool)
    finish(tool)
    baggage = (b"baggage", b"enduser.id=ada%40example.org")

    acks = await caller(store, baggage).bidirectional(
        METHOD, FakeMessageSource(*tool.events, tool.end()), Ack
    )

    assert acks == [
        Ack(stream_id=each.ordered_build_event.stream_id, sequence_number=number)
        for number, each in enumerate(tool.events, start=1)
    ]
    for number, event in enumerate(tool.events, start=1):
        value = store.blobs[f"BepEvent:be:build-1:invocation-1:{number}"]
        expected = events_pb2.BepEvent(identity="ada@example.org", build_tool_event=event)
        assert value == expected.SerializeToString()
    first = events_pb2.BepEvent.FromString(store.blobs[key(1, tool)])
    assert first.build_tool_event.project_id == "acme"
    assert first.build_tool_event.notification_keywords[1] == "user_keyword=nightly"


async def test_lifecycle_events_are_stored_under_nativelinks_keys() -> None:
    store = DictStore()
    for invocation, number in (("", 1), ("invocation-1", 1), ("invocation-1", 2)):
        request = pb.PublishLifecycleEventRequest(
            service_level=pb.PublishLifecycleEventRequest.INTERACTIVE,
            build_event=pb.OrderedBuildEvent(
                stream_id=build_events_pb2.StreamId(
                    build_id="build-1",
                    invocation_id=invocation,
                    component=build_events_pb2.StreamId.CONTROLLER,
                ),
                sequence_number=number,
            ),
            project_id="acme",
            notification_keywords=["a"],
        )
        await caller(store).unary("PublishLifecycleEvent", request, empty_pb2.Empty)
        value = store.blobs[f"BepEvent:le:build-1:{invocation}:{number}"]
        assert value == events_pb2.BepEvent(lifecycle_event=request).SerializeToString()


async def test_acknowledgements_keep_the_order_of_the_events_whatever_the_store_does() -> None:
    store, tool = CountingStore(), Tool()
    tool.chatter(3)
    store.gates[key(1, tool)] = Gate()
    async with connections() as connect:
        stream = connect(caller(store), *tool.events)
        await wait_until(lambda: key(3, tool) in store.written)
        assert stream.acknowledged == []
        store.gates[key(1, tool)].open()
        await wait_until(lambda: stream.acknowledged == [1, 2, 3])


async def test_nothing_is_acknowledged_before_it_is_stored() -> None:
    store, tool = CountingStore(), Tool()
    tool.chatter(2)
    store.gates[key(2, tool)] = Gate()
    async with connections() as connect:
        stream = connect(caller(store), *tool.events)
        await wait_until(lambda: stream.acknowledged == [1])
        assert key(2, tool) not in store.blobs


async def test_a_client_that_comes_back_goes_on_where_it_was() -> None:
    store, tool = CountingStore(), Tool()
    tool.chatter(5)
    assert await publish(store, *tool.events[:3]) == [1, 2, 3]

    assert await publish(store, *tool.events[3:]) == [4, 5]

    assert store.written == [key(number, tool) for number in range(1, 6)]


async def test_what_is_stored_already_is_acknowledged_and_not_stored_again() -> None:
    store, tool = CountingStore(), Tool()
    tool.chatter(8)
    await publish(store, *tool.events[:6])
    # A crash in the middle of several writes leaves holes.
    del store.blobs[key(4, tool)], store.blobs[key(5, tool)]
    store.written.clear()

    assert await publish(store, *tool.events[1:]) == [2, 3, 4, 5, 6, 7, 8]

    assert sorted(store.written) == [key(number, tool) for number in (4, 5, 7, 8)]


async def test_a_client_that_lost_all_acknowledgements_of_a_long_stream_stores_nothing_twice() -> (
    None
):
    store, tool = CountingStore(), Tool()
    tool.chatter(3 * BATCH)
    await publish(store, *tool.events[:-3])
    store.written.clear()

    assert await publish(store, *tool.events) == list(range(1, 3 * BATCH + 1))

    assert len(store.written) == 3


async def test_a_long_stream_asks_the_store_once_what_it_has() -> None:
    store, tool = CountingStore(), Tool()
    tool.chatter(5 * BATCH)
    await publish(store, *tool.events)
    events_asked = 1
    assert store.asked == events_asked


async def test_an_event_that_is_sent_twice_over_one_connection_is_acknowledged_twice() -> None:
    store, tool = CountingStore(), Tool()
    tool.chatter(2)
    one, two = tool.events
    assert await publish(store, one, two, one) == [1, 2, 1]
    assert len(store.written) == 2


async def test_a_stream_whose_beginning_is_not_there_is_refused_for_good() -> None:
    tool = Tool()
    tool.chatter(5)
    code, message = await code_of(*tool.events[3:])
    assert code is Code.FAILED_PRECONDITION
    assert "event 3 is not in the store" in message


async def test_a_gap_within_a_stream_is_refused_for_good() -> None:
    tool = Tool()
    tool.chatter(4)
    one, _, three, _ = tool.events
    code, message = await code_of(one, three)
    assert (code, message) == (Code.INVALID_ARGUMENT, "event 3 follows event 1")


@pytest.mark.parametrize(
    ("invocation", "build"), [("", "b"), ("i", ""), ("i/j", "b"), ("i", "b:c"), ("i" * 101, "b")]
)
async def test_names_that_cannot_be_kept_are_refused(invocation: str, build: str) -> None:
    tool = Tool(invocation, build)
    tool.chatter(1)
    with pytest.raises(NativeLinkError) as raised:
        await publish(DictStore(), *tool.events)
    assert raised.value.code is Code.INVALID_ARGUMENT


async def test_an_event_of_another_stream_is_refused() -> None:
    one, two = Tool("one"), Tool("two")
    one.chatter(1)
    two.chatter(2)
    assert (await code_of(one.events[0], two.events[1]))[0] is Code.INVALID_ARGUMENT


async def test_streams_of_several_components_of_a_build_do_not_touch_each_other() -> None:
    store = DictStore()
    tool, worker = Tool(), Tool(component=build_events_pb2.StreamId.WORKER)
    tool.chatter(2)
    worker.chatter(2)
    assert await publish(store, *tool.events) == [1, 2]
    assert await publish(store, *worker.events) == [1, 2]
    kept = {key for key in store.blobs if str(key).startswith("BepEvent:")}
    assert kept == {
        "BepEvent:be:build-1:invocation-1:1",
        "BepEvent:be:build-1:invocation-1:2",
        "BepEvent:be:build-1:invocation-1:WORKER:1",
        "BepEvent:be:build-1:invocation-1:WORKER:2",
    }


async def test_several_builds_publish_at_once() -> None:
    store = DictStore()
    methods = caller(store)
    tools = [Tool(f"invocation-{number}") for number in range(5)]
    for tool in tools:
        tool.chatter(10)
    async with connections() as connect:
        streams = [connect(methods, *tool.events) for tool in tools]
        await wait_until(lambda: all(len(each.acknowledged) == 10 for each in streams))
    for tool in tools:
        assert all(key(number, tool) in store.blobs for number in range(1, 11))


async def test_a_new_connection_of_a_stream_ends_the_old_one() -> None:
    store, tool = CountingStore(), Tool()
    tool.chatter(3)
    methods = caller(store)
    async with connections() as connect:
        dead = connect(methods, *tool.events[:2])
        await wait_until(lambda: dead.acknowledged == [1, 2])
        alive = connect(methods, tool.events[2])
        await wait_until(lambda: alive.acknowledged == [3])
        await wait_until(lambda: dead.task.done())
        assert dead.error is not None
        assert dead.error.code is Code.ABORTED
        assert alive.error is None


async def test_a_dead_connection_does_not_undo_what_another_server_knows() -> None:
    store, tool = DictStore(), Tool()
    start(tool)
    finish(tool)
    async with connections() as connect:
        dead = connect(caller(store), tool.events[0])
        await wait_until(lambda: dead.acknowledged == [1])
        assert await publish(store, tool.events[1], tool.end()) == [2, 3]
        dead.task.cancel()
        await wait_until(lambda: dead.task.done())
    build = builds_pb2.Build.FromString(store.blobs["BuildSummary:invocation-1"])
    assert build.state == builds_pb2.Build.SUCCEEDED


async def test_a_client_that_goes_away_leaves_a_summary_of_what_it_told() -> None:
    store, tool = DictStore(), Tool()
    start(tool)
    tool.chatter(3)
    async with connections() as connect:
        stream = connect(caller(store), *tool.events)
        await wait_until(lambda: stream.acknowledged == [1, 2, 3, 4])
        stream.task.cancel()
        await wait_until(lambda: stream.task.done())
    build = builds_pb2.Build.FromString(store.blobs["BuildSummary:invocation-1"])
    assert (build.state, build.last_sequence_number) == (builds_pb2.Build.RUNNING, 4)


async def test_a_server_that_stops_sends_its_clients_to_the_next_one() -> None:
    store, tool = CountingStore(), Tool()
    tool.chatter(2)
    service = service_of(store)
    async with connections() as connect:
        stream = connect(Caller(service.methods()), *tool.events)
        await wait_until(lambda: stream.acknowledged == [1, 2])
        assert service.streams == 1
        service.end_streams()
        await wait_until(lambda: stream.task.done())
        assert stream.error is not None
        assert stream.error.code is Code.UNAVAILABLE
    assert service.streams == 0


async def test_a_slow_store_slows_the_client_down() -> None:
    store, tool = CountingStore(), Tool()
    tool.chatter(3 * BATCH)
    store.gates[""] = Gate()
    async with connections() as connect:
        stream = connect(caller(store), *tool.events)
        await wait_until(lambda: store.gates[""].waiting >= BATCH)
        for _ in range(50):
            await asyncio.sleep(0)
        assert stream.source.reads <= BATCH + 3
        store.gates[""].open()
        await wait_until(lambda: len(stream.acknowledged) == 3 * BATCH)


async def test_large_events_wait_for_each_other() -> None:
    store, tool = CountingStore(), Tool()
    for _ in range(4):
        tool.say(progress={"stderr": "x" * 700_000})
    store.gates[""] = Gate()
    async with connections() as connect:
        stream = connect(caller(store), *tool.events)
        await wait_until(lambda: store.gates[""].waiting == 1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert stream.source.reads == 2
        store.gates[""].open()
        await wait_until(lambda: stream.acknowledged == [1, 2, 3, 4])


async def test_a_write_that_fails_is_tried_five_times() -> None:
    store, tool = CountingStore(), Tool()
    tool.chatter(1)
    store.failures = [unavailable("busy")] * 4
    assert await publish(store, *tool.events) == [1]


async def test_a_store_that_stays_down_ends_the_stream_with_its_error() -> None:
    store, tool = CountingStore(), Tool()
    tool.chatter(3)
    store.failures = [unavailable("down")] * 15
    assert await code_of(*tool.events, store=store) == (Code.UNAVAILABLE, "down")


async def test_a_client_that_goes_away_leaves_no_task_behind() -> None:
    store, tool = CountingStore(), Tool()
    tool.chatter(4)
    store.gates[key(2, tool)] = Gate()
    async with connections() as connect:
        stream = connect(caller(store), *tool.events)
        await wait_until(lambda: stream.acknowledged == [1])
        stream.task.cancel()
        await wait_until(lambda: stream.task.done())
    assert store.gates[key(2, tool)].waiting == 0


async def test_a_stream_without_events_is_no_error() -> None:
    assert await publish(DictStore()) == []


async def test_a_summary_that_cannot_be_saved_does_not_hold_up_the_events(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Forgetful(DictStore):
        async def put(self, key: StoreKey, source: Source) -> int:
            if not str(key).startswith("BepEvent:"):
                raise unavailable("full")
            return await super().put(key, source)

    tool = Tool()
    start(tool)
    assert await publish(Forgetful(), *tool.events, tool.end()) == [1, 2]
    assert "its summary cannot be saved: full" in caplog.text


async def test_the_summary_of_a_resumed_stream_tells_of_all_its_events() -> None:
    store, tool = DictStore(), Tool()
    start(tool)
    tool.chatter(10)
    await publish(store, *tool.events)
    # As if the server had died before it saved anything.
    del store.blobs["BuildSummary:invocation-1"]
    before = len(tool.events)
    finish(tool)
    await publish(store, *tool.events[before:], tool.end())

    build = builds_pb2.Build.FromString(store.blobs["BuildSummary:invocation-1"])
    assert build.state == builds_pb2.Build.SUCCEEDED
    assert build.command == "build"
    assert build.last_sequence_number == len(tool.events)
    assert not build.incomplete
