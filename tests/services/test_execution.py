from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, MissingBlob, NativeLinkError, unavailable
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.proto.google.protobuf import duration_pb2
from nativelink.proto.google.rpc import error_details_pb2
from nativelink.proto.nativelink.v1.execution_progress_pb2 import ExecutionProgress
from nativelink.scheduler.action import ActionKey, Origin
from nativelink.scheduler.operation import ExecutionStage, Failure
from nativelink.services import operation_stream
from nativelink.services.execution import ExecutionInstance, ExecutionService
from nativelink.stores.store import write_bytes
from nativelink.testing.calls import Caller, FakeMessageSink, digest_message
from nativelink.testing.fakes import DictStore, FakeClock, wait_until
from tests.services.scheduling import FakeScheduler

SHA256, BLAKE3 = DigestFunction.SHA256, DigestFunction.BLAKE3
ROOT = b""
EMPTY = SHA256.digest_of(b"")
COMMAND = pb.Command(arguments=["/bin/true"])
OUT = b"standard output"


class Call:
    """One streamed call under way."""

    def __init__(self, task: asyncio.Task[Any], sink: FakeMessageSink) -> None:
        self.task = task
        self._sink = sink

    @property
    def operations(self) -> list[operations_pb2.Operation]:
        return [operations_pb2.Operation.FromString(each) for each in self._sink.messages]

    async def states(self, count: int) -> list[operations_pb2.Operation]:
        await wait_until(lambda: len(self._sink.messages) >= count or self.task.done())
        if self.task.done():
            await self.task
        return self.operations

    async def end(self) -> list[operations_pb2.Operation]:
        await self.task
        return self.operations


class Server:
    """A service over a scheduler in which nothing happens by itself."""

    def __init__(self, tasks: asyncio.TaskGroup, **settings: Any) -> None:
        self.cas = DictStore()
        self.scheduler = FakeScheduler()
        self.clock = FakeClock()
        self.calls: list[Call] = []
        self._tasks = tasks
        self.service = ExecutionService(
            {"a/b": ExecutionInstance(self.cas, self.scheduler)}, clock=self.clock, **settings
        )

    async def put(self, data: bytes | Any, function: DigestFunction = SHA256) -> Digest:
        data = data if isinstance(data, bytes) else data.SerializeToString()
        digest = function.digest_of(data)
        await write_bytes(self.cas, digest, data)
        return digest

    async def action(self, command: Any = COMMAND, root: bytes = ROOT, **fields: Any) -> Digest:
        return await self.put(
            pb.Action(
                command_digest=digest_message(await self.put(command)),
                input_root_digest=digest_message(await self.put(root)),
                **fields,
            )
        )

    def call(
        self,
        name: str,
        request: Any,
        metadata: list[tuple[bytes, bytes]] | None = None,
    ) -> Call:
        sink = FakeMessageSink()
        caller = Caller(self.service.methods(), metadata or [])
        call = Call(
            self._tasks.create_task(
                caller.server_stream(name, request, operations_pb2.Operation, sink)
            ),
            sink,
        )
        self.calls.append(call)
        return call

    def execute(self, digest: Digest, metadata: Any = None, **fields: Any) -> Call:
        request = pb.ExecuteRequest(
            instance_name="a/b", action_digest=digest_message(digest), **fields
        )
        return self.call("Execute", request, metadata)

    async def refused(self, digest: Digest, **fields: Any) -> NativeLinkError:
        """The error of an Execute that is not let in."""
        request = pb.ExecuteRequest(
            **{"instance_name": "a/b", "action_digest": digest_message(digest), **fields}
        )
        caller = Caller(self.service.methods())
        with pytest.raises(NativeLinkError) as raised:
            await caller.server_stream("Execute", request, operations_pb2.Operation)
        assert not self.scheduler.views
        return raised.value


@pytest.fixture(autouse=True)
def _every_state_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one that there is for a turn of the loop is told."""
    monkeypatch.setattr(operation_stream, "PASSING_S", 0.0)


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Server]]:
    servers: list[Server] = []

    def made(**settings: Any) -> Server:
        servers.append(Server(tasks, **settings))
        return servers[-1]

    async with asyncio.TaskGroup() as tasks:
        yield made
        # A client that leaves ends its call.
        for server in servers:
            for call in server.calls:
                call.task.cancel()


@pytest.fixture
def server(make: Callable[..., Server]) -> Server:
    return make()


def metadata_of(operation: operations_pb2.Operation) -> pb.ExecuteOperationMetadata:
    assert operation.metadata.type_url.endswith(
        "/" + pb.ExecuteOperationMetadata.DESCRIPTOR.full_name
    )
    return pb.ExecuteOperationMetadata.FromString(operation.metadata.value)


def progress_of(operation: operations_pb2.Operation) -> ExecutionProgress:
    (own,) = metadata_of(operation).partial_execution_metadata.auxiliary_metadata
    assert own.type_url == "type.googleapis.com/nativelink.v1.ExecutionProgress"
    return ExecutionProgress.FromString(own.value)


def response_of(operation: operations_pb2.Operation) -> pb.ExecuteResponse:
    assert operation.done
    assert operation.WhichOneof("result") == "response"
    assert operation.response.type_url.endswith("/" + pb.ExecuteResponse.DESCRIPTOR.full_name)
    return pb.ExecuteResponse.FromString(operation.response.value)


class TestWhatIsExecuted:
    async def test_an_action_reaches_the_scheduler_as_it_is_described(self, server: Server) -> None:
        platform = pb.Platform(
            properties=[
                pb.Platform.Property(name="os", value="linux"),
                pb.Platform.Property(name="cpu_count", value="2"),
            ]
        )
        digest = await server.action(
            timeout=duration_pb2.Duration(seconds=3, nanos=500_000_000),
            platform=platform,
            do_not_cache=True,
        )
        call = server.execute(
            digest, execution_policy=pb.ExecutionPolicy(priority=7), skip_cache_lookup=True
        )
        await call.states(1)
        (view,) = server.scheduler.views.values()
        action = view.action
        assert action.key == ActionKey("a/b", SHA256, digest)
        assert action.properties == (("cpu_count", "2"), ("os", "linux"))
        assert (action.priority, action.timeout_s) == (7, 3.5)
        assert action.skip_cache_lookup
        assert action.do_not_cache

    async def test_the_commands_platform_counts_where_the_action_has_none(
        self, server: Server
    ) -> None:
        command = pb.Command(
            arguments=["x"],
            platform=pb.Platform(properties=[pb.Platform.Property(name="os", value="mac")]),
        )
        call = server.execute(await server.action(command))
        await call.states(1)
        (view,) = server.scheduler.views.values()
        assert view.action.properties == (("os", "mac"),)
        assert view.action.timeout_s is None
        server.scheduler.finish(b"")

    async def test_who_asks_is_read_from_the_headers(self, server: Server) -> None:
        metadata = pb.RequestMetadata(
            tool_invocation_id="build", target_id="//a:b", action_mnemonic="CppCompile"
        )
        headers = [
            (
                b"build.bazel.remote.execution.v2.requestmetadata-bin",
                base64.b64encode(metadata.SerializeToString()).rstrip(b"="),
            ),
            (b"baggage", b"enduser.id=me"),
        ]
        call = server.execute(await server.action(), headers)
        (state,) = await call.states(1)
        (view,) = server.scheduler.views.values()
        assert view.action.origin == Origin("build", "//a:b", "CppCompile", "me")
        assert progress_of(state).tool_invocation_id == "build"
        server.scheduler.finish(b"")

    async def test_a_digest_function_reaches_the_scheduler(self, server: Server) -> None:
        action = pb.Action(
            command_digest=digest_message(await server.put(COMMAND, BLAKE3)),
            input_root_digest=digest_message(await server.put(b"", BLAKE3)),
        )
        digest = await server.put(action, BLAKE3)
        call = server.execute(digest, digest_function=BLAKE3)
        (state,) = await call.states(1)
        (view,) = server.scheduler.views.values()
        assert view.action.key.digest_function is BLAKE3
        assert metadata_of(state).digest_function == pb.DigestFunction.BLAKE3
        server.scheduler.finish(b"")


class TestWhatIsRefused:
    async def test_a_missing_action_is_named(self, server: Server) -> None:
        digest = SHA256.digest_of(b"an action")
        error = await server.refused(digest)
        assert error.code is Code.FAILED_PRECONDITION
        assert error.details == (MissingBlob(digest),)

    async def test_a_missing_blob_is_named_with_its_digest_function(self, server: Server) -> None:
        digest = BLAKE3.digest_of(b"an action")
        error = await server.refused(digest, digest_function=BLAKE3)
        assert error.details == (MissingBlob(digest, "blake3/"),)

    async def test_every_missing_blob_is_named_at_once(self, server: Server) -> None:
        command, root = SHA256.digest_of(b"command"), SHA256.digest_of(b"root")
        digest = await server.put(
            pb.Action(
                command_digest=digest_message(command), input_root_digest=digest_message(root)
            )
        )
        error = await server.refused(digest)
        assert error.code is Code.FAILED_PRECONDITION
        assert error.details == (MissingBlob(command), MissingBlob(root))
        await write_bytes(server.cas, command, COMMAND.SerializeToString())
        assert (await server.refused(digest)).details == (MissingBlob(root),)

    @pytest.mark.parametrize(
        ("action", "text"),
        [
            (b"\xff\xff\xff", "is no Action message"),
            (pb.Action(), "command_digest"),
            (
                pb.Action(
                    command_digest=digest_message(EMPTY),
                    input_root_digest=pb.Digest(hash="xyz", size_bytes=1),
                ),
                "input_root_digest",
            ),
            (
                pb.Action(
                    command_digest=digest_message(EMPTY), input_root_digest=digest_message(EMPTY)
                ),
                "has no arguments",
            ),
            (
                pb.Action(
                    command_digest=pb.Digest(hash="a" * 64, size_bytes=2**40),
                    input_root_digest=digest_message(EMPTY),
                ),
                "too large",
            ),
        ],
    )
    async def test_what_is_no_action_is_an_invalid_argument(
        self, server: Server, action: Any, text: str
    ) -> None:
        error = await server.refused(await server.put(action))
        assert error.code is Code.INVALID_ARGUMENT
        assert text in error.message

    async def test_what_is_no_command_is_an_invalid_argument(self, server: Server) -> None:
        error = await server.refused(await server.action(b"\xff\xff\xff"))
        assert error.code is Code.INVALID_ARGUMENT
        assert "is no Command message" in error.message

    async def test_a_negative_timeout_is_an_invalid_argument(self, server: Server) -> None:
        digest = await server.action(timeout=duration_pb2.Duration(seconds=-1))
        error = await server.refused(digest)
        assert error.code is Code.INVALID_ARGUMENT
        assert "-1" in error.message

    @pytest.mark.parametrize(
        "properties",
        [
            [pb.Platform.Property(name=str(number)) for number in range(257)],
            [pb.Platform.Property(name="x", value="y" * 40_000)] * 2,
        ],
        ids=["many", "long"],
    )
    async def test_a_huge_platform_is_an_invalid_argument(
        self, server: Server, properties: list[pb.Platform.Property]
    ) -> None:
        digest = await server.action(platform=pb.Platform(properties=properties))
        error = await server.refused(digest)
        assert error.code is Code.INVALID_ARGUMENT
        assert "platform properties" in error.message

    async def test_unknown_instances_and_digest_functions_are_refused(self, server: Server) -> None:
        digest = await server.action()
        assert (await server.refused(digest, instance_name="c")).code is Code.NOT_FOUND
        error = await server.refused(digest, digest_function=pb.DigestFunction.MD5)
        assert error.code is Code.INVALID_ARGUMENT
        error = await server.refused(Digest("nonsense", 1))
        assert error.code is Code.INVALID_ARGUMENT

    async def test_what_the_scheduler_refuses_ends_the_call(self, server: Server) -> None:
        server.scheduler.refusal = unavailable("the scheduler stops")
        assert (await server.refused(await server.action())).code is Code.UNAVAILABLE


class TestWhatIsTold:
    async def test_every_stage_is_told_with_its_times(self, server: Server) -> None:
        digest = await server.action()
        call = server.execute(digest)
        (queued,) = await call.states(1)
        assert not queued.done
        metadata = metadata_of(queued)
        assert metadata.stage == pb.ExecutionStage.QUEUED
        assert metadata.action_digest == digest_message(digest)
        assert metadata.partial_execution_metadata.queued_timestamp.seconds == 1
        assert not metadata.partial_execution_metadata.HasField("worker_start_timestamp")
        server.scheduler.update(queue_position=3, note="no worker has os=linux", attempts=1)
        progress = progress_of((await call.states(2))[-1])
        assert progress.queue_position == 3
        assert (progress.note, progress.attempts) == ("no worker has os=linux", 1)
        server.scheduler.update(
            stage=ExecutionStage.EXECUTING, worker_id="w1", started_at=2.25, queue_position=None
        )
        running = (await call.states(3))[-1]
        metadata = metadata_of(running)
        assert metadata.stage == pb.ExecutionStage.EXECUTING
        assert metadata.partial_execution_metadata.worker == "w1"
        start = metadata.partial_execution_metadata.worker_start_timestamp
        assert (start.seconds, start.nanos) == (2, 250_000_000)
        assert not progress_of(running).HasField("queue_position")
        server.scheduler.finish(pb.ExecuteResponse(message="hi").SerializeToString())
        done = (await call.end())[-1]
        assert metadata_of(done).stage == pb.ExecutionStage.COMPLETED
        assert response_of(done).message == "hi"
        assert {each.name for each in call.operations} == {"a/b/1"}
        assert server.scheduler.watches[0].closed

    async def test_a_response_travels_as_the_bytes_that_it_is(self, server: Server) -> None:
        # Two fields in another order than protobuf writes them, and one that nobody knows.
        odd = b"\x2a\x02hi" + b"\x10\x01" + b"\xba\x3e\x01x"
        call = server.execute(await server.action())
        await call.states(1)
        server.scheduler.finish(odd)
        (*_, done) = await call.end()
        assert done.response.value == odd
        assert response_of(done).message == "hi"

    @pytest.mark.parametrize(("function", "segment"), [(SHA256, ""), (BLAKE3, "blake3/")])
    async def test_a_failure_is_a_status_inside_of_the_response(
        self, server: Server, function: DigestFunction, segment: str
    ) -> None:
        missing = tuple(function.digest_of(bytes((number,))) for number in range(3))
        call = server.execute(await server.action(), digest_function=function)
        await call.states(1)
        server.scheduler.fail(
            Failure(Code.FAILED_PRECONDITION, "inputs are gone", missing), note="it waited"
        )
        response = response_of((await call.end())[-1])
        assert response.status.code == Code.FAILED_PRECONDITION
        assert response.status.message == "inputs are gone"
        assert response.message == "it waited"
        assert not response.HasField("result")
        (detail,) = response.status.details
        assert detail.type_url == "type.googleapis.com/google.rpc.PreconditionFailure"
        failure = error_details_pb2.PreconditionFailure.FromString(detail.value)
        assert [(each.type, each.subject) for each in failure.violations] == [
            ("MISSING", f"blobs/{segment}{digest.hash}/{digest.size_bytes}") for digest in missing
        ]

    async def test_outputs_are_inlined_on_request(self, server: Server) -> None:
        out = await server.put(OUT)
        result = pb.ActionResult(
            stdout_digest=digest_message(out),
            stderr_digest=digest_message(out),
            output_files=[pb.OutputFile(path="x", digest=digest_message(out))],
        )
        server.scheduler.at_once = {
            "stage": ExecutionStage.COMPLETED,
            "response": pb.ExecuteResponse(result=result, cached_result=True).SerializeToString(),
        }
        call = server.execute(
            await server.action(), inline_stdout=True, inline_output_files=["x", "y"]
        )
        response = response_of((await call.end())[-1])
        assert response.cached_result
        assert response.result.stdout_raw == OUT
        assert response.result.stderr_raw == b""
        assert response.result.output_files[0].contents == OUT

    async def test_what_does_not_fit_is_not_inlined(self, make: Callable[..., Server]) -> None:
        server = make(max_inlined_bytes=80)
        out = await server.put(OUT)
        response = pb.ExecuteResponse(result=pb.ActionResult(stdout_digest=digest_message(out)))
        server.scheduler.at_once = {
            "stage": ExecutionStage.COMPLETED,
            "response": response.SerializeToString(),
        }
        call = server.execute(await server.action(), inline_stdout=True)
        assert response_of((await call.end())[-1]) == response

    async def test_the_last_state_is_repeated_while_nothing_changes(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        timers: list[Timer] = []

        @dataclass(eq=False)
        class Timer:
            due: float
            callback: Callable[[], None]

            def cancel(self) -> None:
                if self in timers:
                    timers.remove(self)

        def call_later(delay: float, callback: Callable[[], None]) -> Timer:
            timers.append(Timer(server.clock.monotonic() + delay, callback))
            return timers[-1]

        def ring() -> float:
            timer = min(timers, key=lambda timer: timer.due)
            timer.cancel()
            waited = timer.due - server.clock.monotonic()
            server.clock.advance(waited)
            timer.callback()
            return waited

        digest = await server.action()
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)
        call = server.execute(digest)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert call.operations == []
        assert ring() <= 0.1
        assert len(call.operations) == 1
        assert ring() <= 30
        assert len(call.operations) == 2
        server.clock.advance(10)
        server.scheduler.update(note="still")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(call.operations) == 2
        assert ring() <= 0.1
        assert len(call.operations) == 3
        # The new state was news enough: the pause begins again with it.
        left = ring()
        assert len(call.operations) == 3
        assert 0 < left + ring() <= 30
        first, second, third, fourth = call.operations
        assert first == second
        assert third == fourth
        assert progress_of(fourth).note == "still"
        server.scheduler.finish(b"")
        assert len(await call.end()) == 5
        assert not timers

    async def test_states_that_pass_at_once_are_not_worth_a_message(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(operation_stream, "PASSING_S", 60.0)
        call = server.execute(await server.action())
        await wait_until(lambda: bool(server.scheduler.views))
        server.scheduler.update(stage=ExecutionStage.EXECUTING)
        await asyncio.sleep(0)
        server.scheduler.finish(b"")
        stages = [metadata_of(operation).stage for operation in await call.end()]
        assert stages == [pb.ExecutionStage.COMPLETED]


class TestComingAndGoing:
    async def test_a_client_that_leaves_only_stops_watching(self, server: Server) -> None:
        call = server.execute(await server.action())
        await call.states(1)
        call.task.cancel()
        await wait_until(call.task.done)
        assert server.scheduler.watches[0].closed
        assert not server.scheduler.cancelled
        assert list(server.scheduler.views) == ["a/b/1"]

    async def test_a_client_that_comes_back_goes_on_where_the_operation_is(
        self, server: Server
    ) -> None:
        call = server.execute(await server.action())
        await call.states(1)
        again = server.call("WaitExecution", pb.WaitExecutionRequest(name="a/b/1"))
        await again.states(1)
        server.scheduler.finish(b"")
        assert (await again.end())[-1] == (await call.end())[-1]
        late = server.call("WaitExecution", pb.WaitExecutionRequest(name="a/b/1"))
        (only,) = await late.end()
        assert only.done

    @pytest.mark.parametrize("name", ["a/b/9", "c/1", "", "no-slash", "/1"])
    async def test_an_unknown_operation_is_not_found(self, server: Server, name: str) -> None:
        caller = Caller(server.service.methods())
        with pytest.raises(NativeLinkError) as raised:
            await caller.server_stream(
                "WaitExecution", pb.WaitExecutionRequest(name=name), operations_pb2.Operation
            )
        assert raised.value.code is Code.NOT_FOUND

    async def test_a_scheduler_that_stops_ends_the_stream(self, server: Server) -> None:
        request = pb.ExecuteRequest(
            instance_name="a/b", action_digest=digest_message(await server.action())
        )
        caller = Caller(server.service.methods())

        async def stopped() -> Code:
            with pytest.raises(NativeLinkError) as raised:
                await caller.server_stream("Execute", request, operations_pb2.Operation)
            return raised.value.code

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(stopped())
            await wait_until(lambda: bool(server.scheduler.views))
            server.scheduler.stop(unavailable("the scheduler stops"))
        assert task.result() is Code.UNAVAILABLE
        assert server.scheduler.watches[0].closed
