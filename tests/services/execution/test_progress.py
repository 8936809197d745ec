"""What a client is told while its action waits and runs, and at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.proto.google.rpc import error_details_pb2
from nativelink.scheduler.operation import ExecutionStage, Failure
from nativelink.services import operation_stream
from nativelink.testing.calls import digest_message
from nativelink.testing.fakes import wait_until
from tests.services.execution.server import BLAKE3, SHA256, Server, metadata_of, progress_of

OUT = b"standard output"


def response_of(operation: operations_pb2.Operation) -> pb.ExecuteResponse:
    assert operation.done
    assert operation.WhichOneof("result") == "response"
    assert operation.response.type_url.endswith("/" + pb.ExecuteResponse.DESCRIPTOR.full_name)
    return pb.ExecuteResponse.FromString(operation.response.value)


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
