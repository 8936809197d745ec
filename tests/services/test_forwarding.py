from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from nativelink.core.channel import Metadata
from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError, internal, not_found, unavailable
from nativelink.core.retry import Retry
from nativelink.core.rpc import CallContext, Peer, current_call
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.proto.google.rpc import status_pb2
from nativelink.scheduler.action import ActionInfo, ActionKey, Origin
from nativelink.scheduler.operation import ExecutionStage, Failure, OperationView
from nativelink.scheduler.scheduler import Watch
from nativelink.services.capabilities import CapabilitiesInstance, CapabilitiesService
from nativelink.services.execution import ExecutionInstance, ExecutionService
from nativelink.services.forwarding import ForwardingScheduler
from nativelink.services.operation_views import view_of
from nativelink.services.operations import OperationsService
from nativelink.services.request_metadata import HEADER
from nativelink.stores.store import write_bytes
from nativelink.testing.calls import Caller, FakeMessageSink, digest_message
from nativelink.testing.fakes import DictStore, FakeClock, wait_until
from tests.services.scheduling import FakeScheduler

pytestmark = pytest.mark.usefixtures("every_state_lasts")

SHA256 = DigestFunction.SHA256
EMPTY = SHA256.digest_of(b"")


class Upstream:
    """The other scheduler's services; a `core.channel.Channel` to them whose streams can break.

    Attributes:
        calls: names of the methods that were called, with their metadata.
        failures: the next calls end with these instead.
    """

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.scheduler = FakeScheduler()
        self.cas = DictStore()
        instance = CapabilitiesInstance(True, self.scheduler.known_properties)
        self._methods = [
            *ExecutionService(
                {"main": ExecutionInstance(self.cas, self.scheduler)}, clock=FakeClock()
            ).methods(),
            *OperationsService({"main": self.scheduler}, max_page_bytes=20_000).methods(),
            *CapabilitiesService({"main": instance}).methods(),
        ]
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.failures: list[NativeLinkError | None] = []
        self.waiting = 0
        self.most_waiting = 0
        self._tasks = tasks
        self._streams: list[asyncio.Queue[bytes | NativeLinkError | None]] = []
        self.handlers: list[asyncio.Task[None]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls if name != "GetCapabilities"]

    def break_stream(self, error: NativeLinkError | None) -> None:
        """End the stream that began last; None is an end without an error."""
        self._streams[-1].put_nowait(error)

    async def action(self) -> Digest:
        """Something that can be executed."""
        command = pb.Command(arguments=["true"]).SerializeToString()
        digest = SHA256.digest_of(command)
        await write_bytes(self.cas, digest, command)
        action = pb.Action(
            command_digest=digest_message(digest), input_root_digest=digest_message(EMPTY)
        ).SerializeToString()
        await write_bytes(self.cas, SHA256.digest_of(action), action)
        return SHA256.digest_of(action)

    async def _enter(self, path: str, metadata: Metadata) -> Caller:
        name = path.rpartition("/")[2]
        self.calls.append((name, dict(metadata)))
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        await asyncio.sleep(0)
        self.waiting -= 1
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        headers = [
            (key.encode(), base64.b64encode(value) if isinstance(value, bytes) else value.encode())
            for key, value in metadata
        ]
        caller = Caller(self._methods, headers)
        assert caller.method(name).path == path
        return caller

    async def unary(
        self, path: str, request: bytes, *, metadata: Metadata = (), timeout_s: float | None = None
    ) -> bytes:
        caller = await self._enter(path, metadata)
        name = path.rpartition("/")[2]
        reply: Any = type("Raw", (), {"FromString": bytes})
        answer: Any = await caller.unary(name, request, reply)
        return bytes(answer)

    async def server_stream(
        self, path: str, request: bytes, *, metadata: Metadata = (), timeout_s: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        caller = await self._enter(path, metadata)
        queue: asyncio.Queue[bytes | NativeLinkError | None] = asyncio.Queue()
        self._streams.append(queue)

        class Sink(FakeMessageSink):
            async def write(self, *parts: Any) -> None:
                queue.put_nowait(b"".join(parts))

        async def run() -> None:
            try:
                await caller.server_stream(
                    path.rpartition("/")[2], request, operations_pb2.Operation, Sink()
                )
                queue.put_nowait(None)
            except NativeLinkError as error:
                queue.put_nowait(error)

        handler = self._tasks.create_task(run())
        self.handlers.append(handler)
        try:
            while (message := await queue.get()) is not None:
                if isinstance(message, NativeLinkError):
                    raise message
                yield message
        finally:
            handler.cancel()

    async def client_stream(self, *args: Any, **kwargs: Any) -> bytes:
        raise AssertionError("not needed")

    def duplex(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("not needed")


class Edge:
    """The scheduler that passes on, and the other one."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.upstream = Upstream(tasks)
        self.pauses: list[float] = []
        self.scheduler = self.make(max_retries=2, delay_s=1.0)

    def make(self, *, max_concurrent_requests: int = 0, **retry: Any) -> ForwardingScheduler:
        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        return ForwardingScheduler(
            self.upstream,
            retry=Retry(sleep=sleep, **retry),
            max_concurrent_requests=max_concurrent_requests,
        )

    async def action(self, **fields: Any) -> ActionInfo:
        return ActionInfo(ActionKey("main", SHA256, await self.upstream.action()), **fields)

    async def execute(self, **fields: Any) -> Watch:
        return await self.scheduler.execute(await self.action(**fields))


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with asyncio.TaskGroup() as tasks:
        edge = Edge(tasks)
        async with edge.scheduler:
            yield edge
        for handler in edge.upstream.handlers:
            handler.cancel()


async def view(watch: Watch) -> OperationView:
    found = await watch.next()
    assert found is not None
    return found


class TestExecutions:
    async def test_an_execution_is_followed_there(self, edge: Edge) -> None:
        origin = Origin("build", "//a", "CppCompile")
        watch = await edge.execute(priority=5, skip_cache_lookup=True, origin=origin)
        (there,) = edge.upstream.scheduler.views.values()
        assert there.action.priority == 5
        assert there.action.skip_cache_lookup
        assert there.action.origin == origin
        queued = await view(watch)
        assert (queued.name, queued.stage) == (there.name, ExecutionStage.QUEUED)
        edge.upstream.scheduler.update(
            stage=ExecutionStage.EXECUTING,
            worker_id="w",
            started_at=3.5,
            note="a note",
            attempts=2,
            queue_position=7,
        )
        running = await view(watch)
        assert (running.worker_id, running.started_at, running.note) == ("w", 3.5, "a note")
        assert (running.attempts, running.queue_position, running.priority) == (2, 7, 5)
        response = pb.ExecuteResponse(cached_result=True).SerializeToString() + b"\xba\x3e\x01x"
        edge.upstream.scheduler.finish(response)
        done = await view(watch)
        assert (done.response, done.cached, done.finished_at) == (response, True, 9.5)
        assert await watch.next() is None
        watch.close()

    async def test_a_priority_of_0_is_not_sent(self, edge: Edge) -> None:
        seen: list[bytes] = []
        stream = edge.upstream.server_stream

        def spy(path: str, request: bytes, **kwargs: Any) -> AsyncGenerator[bytes, None]:
            seen.append(request)
            return stream(path, request, **kwargs)

        edge.upstream.server_stream = spy
        await edge.execute()
        (request,) = map(pb.ExecuteRequest.FromString, seen)
        assert not request.HasField("execution_policy")

    async def test_who_asks_is_passed_on_as_it_came(self, edge: Edge) -> None:
        metadata = pb.RequestMetadata(action_id="id", tool_invocation_id="build")
        current_call.set(
            CallContext(
                "/x",
                [
                    (HEADER, base64.b64encode(metadata.SerializeToString())),
                    (b"baggage", b"enduser.id=me"),
                    (b"authorization", b"secret"),
                ],
                Peer("here"),
            )
        )
        await edge.execute()
        (there,) = edge.upstream.scheduler.views.values()
        assert there.action.origin == Origin("build", identity="me")
        assert edge.upstream.calls[0][1] == {
            HEADER.decode(): metadata.SerializeToString(),
            "baggage": "enduser.id=me",
        }

    @pytest.mark.parametrize("baggage", [b"enduser.id=\xe9", b"enduser.id=\t"])
    async def test_what_grpc_cannot_carry_is_not_passed_on(
        self, edge: Edge, baggage: bytes
    ) -> None:
        current_call.set(CallContext("/x", [(b"baggage", baggage)], Peer("here")))
        await edge.execute()
        assert edge.upstream.calls[0][1] == {}

    async def test_missing_blobs_are_named_through_it(self, edge: Edge) -> None:
        digest = SHA256.digest_of(b"missing")
        with pytest.raises(NativeLinkError) as raised:
            await edge.scheduler.execute(ActionInfo(ActionKey("main", SHA256, digest)))
        assert raised.value.code is Code.FAILED_PRECONDITION
        assert [detail.digest for detail in raised.value.details] == [digest]
        assert edge.upstream.names == ["Execute"]

    async def test_a_watch_that_is_closed_ends_the_call_and_nothing_else(self, edge: Edge) -> None:
        watch = await edge.execute()
        await watch.next()
        watch.close()
        watch.close()
        await wait_until(lambda: edge.upstream.handlers[0].done())
        assert edge.upstream.scheduler.watches[0].closed
        assert not edge.upstream.scheduler.cancelled


class TestFailures:
    async def test_a_request_that_fails_is_tried_again(self, edge: Edge) -> None:
        edge.upstream.failures = [unavailable("no"), unavailable("no"), None]
        watch = await edge.execute()
        assert (await view(watch)).stage is ExecutionStage.QUEUED
        assert edge.pauses == [2.0, 4.0]

    async def test_it_is_not_tried_for_ever(self, edge: Edge) -> None:
        edge.upstream.failures = [unavailable("no")] * 3
        with pytest.raises(NativeLinkError, match="no"):
            await edge.execute()
        assert edge.upstream.names == ["Execute"] * 3

    @pytest.mark.parametrize("error", [unavailable("broken"), None])
    async def test_a_broken_stream_is_taken_up_again(
        self, edge: Edge, error: NativeLinkError | None
    ) -> None:
        watch = await edge.execute()
        first = await view(watch)
        edge.upstream.break_stream(error)
        edge.upstream.scheduler.update(note="changed meanwhile")
        again = await view(watch)
        while again.note != "changed meanwhile":
            again = await view(watch)
        assert again.name == first.name
        assert edge.upstream.names == ["Execute", "WaitExecution"]
        assert edge.pauses == []
        edge.upstream.scheduler.finish(b"")
        assert (await view(watch)).done

    async def test_what_is_forgotten_there_is_asked_for_again(self, edge: Edge) -> None:
        watch = await edge.execute()
        first = await view(watch)
        await wait_until(lambda: bool(edge.scheduler.known_properties()))
        edge.upstream.failures = [unavailable("restarting"), not_found("never heard of it")]
        edge.upstream.break_stream(unavailable("broken"))
        again = await view(watch)
        assert again.name != first.name
        assert edge.upstream.names == ["Execute", "WaitExecution", "WaitExecution", "Execute"]
        assert edge.pauses == [2.0]

    async def test_a_final_error_ends_the_watch(self, edge: Edge) -> None:
        watch = await edge.execute()
        await watch.next()
        edge.upstream.break_stream(NativeLinkError(Code.PERMISSION_DENIED, "not you"))
        with pytest.raises(NativeLinkError, match="not you"):
            await watch.next()

    async def test_waiting_for_what_is_not_there_is_not_found(self, edge: Edge) -> None:
        with pytest.raises(NativeLinkError) as raised:
            await edge.scheduler.watch("main/9")
        assert raised.value.code is Code.NOT_FOUND
        watch = await edge.execute()
        name = (await view(watch)).name
        other = await edge.scheduler.watch(name)
        assert (await view(other)).name == name

    async def test_an_answer_that_is_garbage_is_an_error(self, edge: Edge) -> None:
        watch = await edge.execute()
        await watch.next()
        edge.upstream._streams[-1].put_nowait(b"\xff\xff")
        with pytest.raises(NativeLinkError) as raised:
            await watch.next()
        assert raised.value.code is Code.INTERNAL


class TestTheRest:
    async def test_operations_are_looked_after_there(self, edge: Edge) -> None:
        assert [*await edge.scheduler.operations()] == []
        watches = [await edge.execute() for _ in range(2)]
        names = [(await view(watch)).name for watch in watches]
        assert [each.name for each in await edge.scheduler.operations()] == names
        found = await edge.scheduler.get(names[0])
        assert found.action.key == ActionKey("main", SHA256, await edge.upstream.action())
        assert found.operation_id == "op-1"
        await edge.scheduler.cancel(names[0])
        assert edge.upstream.scheduler.cancelled == [names[0]]
        edge.upstream.scheduler.finish(b"", names[0])
        await edge.scheduler.delete(names[0])
        assert list(edge.upstream.scheduler.views) == names[1:]

    async def test_a_long_list_comes_in_pages(self, edge: Edge) -> None:
        for number in range(120):
            key = ActionKey("main", SHA256, SHA256.digest_of(b"%d" % number))
            await edge.upstream.scheduler.execute(ActionInfo(key))
        await edge.execute()
        assert len([*await edge.scheduler.operations()]) == 121
        assert edge.upstream.names.count("ListOperations") > 1

    async def test_properties_are_learnt_from_there(self, edge: Edge) -> None:
        assert edge.scheduler.known_properties() == []
        await edge.execute()
        await wait_until(lambda: bool(edge.scheduler.known_properties()))
        assert edge.scheduler.known_properties() == ["cpu_count"]
        await edge.execute()
        assert [name for name, _ in edge.upstream.calls].count("GetCapabilities") == 1

    async def test_properties_are_asked_for_again_if_that_failed(self, edge: Edge) -> None:
        edge.upstream.failures = [None, internal("no"), internal("no"), internal("no")]
        await edge.execute()
        await wait_until(lambda: not edge.scheduler._background)
        assert edge.scheduler.known_properties() == []
        await edge.execute()
        await wait_until(lambda: bool(edge.scheduler.known_properties()))

    async def test_only_so_many_requests_wait_for_their_answer(self, edge: Edge) -> None:
        scheduler = edge.make(max_concurrent_requests=2)
        action = await edge.action()
        async with scheduler, asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(scheduler.execute(action)) for _ in range(6)]
            await asyncio.wait(waiting)
        assert edge.upstream.most_waiting <= 2
        # What was answered does not count, however long it streams.
        assert len(edge.upstream.scheduler.views) == 6


class TestOperationsOfOthers:
    def test_an_operation_of_another_server_is_understood_as_far_as_it_goes(self) -> None:
        found = view_of(operations_pb2.Operation(name="a/b/c"))
        assert (found.name, found.operation_id) == ("a/b/c", "c")
        assert found.action.key.instance_name == "a/b"
        assert found.stage is ExecutionStage.UNKNOWN
        garbled = operations_pb2.Operation(name="x")
        garbled.metadata.type_url = (
            "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteOperationMetadata"
        )
        garbled.metadata.value = b"\xff"
        assert view_of(garbled).stage is ExecutionStage.UNKNOWN

    @pytest.mark.parametrize(
        ("operation", "failure"),
        [
            (operations_pb2.Operation(done=True), Code.INTERNAL),
            (
                operations_pb2.Operation(
                    done=True, error=status_pb2.Status(code=7, message="not you")
                ),
                Code.PERMISSION_DENIED,
            ),
        ],
    )
    def test_an_end_without_a_response_is_a_failure(
        self, operation: operations_pb2.Operation, failure: Code
    ) -> None:
        found = view_of(operation)
        assert found.done
        assert isinstance(found.failure, Failure)
        assert found.failure.code is failure
