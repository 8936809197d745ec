from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as api,
)
from nativelink.proto.google.protobuf import timestamp_pb2
from nativelink.proto.google.rpc import error_details_pb2, status_pb2
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.operation import Failure
from nativelink.scheduler.scheduler import KillOrder, StartOrder, WorkerHello
from nativelink.services.worker_api import WorkerApiService
from nativelink.testing.calls import Caller, FakeMessageSource, digest_message
from nativelink.testing.fakes import wait_until
from tests.services.scheduling import FakeGateway, FakeLink

SHA256 = DigestFunction.SHA256
DIGEST = SHA256.digest_of(b"an action")
ACTION = ActionInfo(ActionKey("a/b", SHA256, DIGEST), (("cpu", "1"), ("os", "linux")), 7)
HELLO = api.ConnectWorkerRequest(
    worker_id_prefix="w",
    max_inflight_tasks=4,
    properties=[
        pb.Platform.Property(name="os", value="linux"),
        pb.Platform.Property(name="cpu", value="8"),
        pb.Platform.Property(name="os", value="debian"),
    ],
)


def update(**fields: Any) -> api.UpdateForScheduler:
    return api.UpdateForScheduler(**fields)


class Connection:
    """A worker's stream, played by the test."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        gateway: FakeGateway,
        *messages: Any,
    ) -> None:
        self.gateway = gateway
        self.source = FakeMessageSource(*messages, ended=False)
        method = Caller(WorkerApiService(gateway).methods()).method("ConnectWorker")
        self.sent: list[api.UpdateForWorker] = []
        context = Caller([])._context(method)
        self.task = tasks.create_task(self._run(method.handler(self.source, context, self)))
        self.error: NativeLinkError | None = None

    async def _run(self, handler: Any) -> None:
        try:
            await handler
        except* NativeLinkError as errors:
            (self.error,) = errors.exceptions

    async def write(self, *parts: Any) -> None:
        self.sent.append(api.UpdateForWorker.FromString(b"".join(parts)))

    def send(self, **fields: Any) -> None:
        self.source.send(update(**fields))

    @property
    def link(self) -> FakeLink:
        return self.gateway.links[-1]

    async def end(self) -> list[tuple[Any, ...]]:
        """Half-close, and what the scheduler was told meanwhile."""
        self.source.end()
        await self.task
        return self.link.said


class Farm:
    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.gateway = FakeGateway()
        self._tasks = tasks
        self.connections: list[Connection] = []

    def connect(self, *messages: Any) -> Connection:
        self.connections.append(Connection(self._tasks, self.gateway, *messages))
        return self.connections[-1]

    async def joined(self, **more: Any) -> Connection:
        hello = api.ConnectWorkerRequest(**more)
        hello.MergeFrom(HELLO)
        connection = self.connect(update(connect_worker_request=hello))
        await wait_until(lambda: bool(connection.sent))
        return connection


@pytest.fixture
async def farm() -> AsyncIterator[Farm]:
    async with asyncio.TaskGroup() as tasks:
        farm = Farm(tasks)
        yield farm
        for connection in farm.connections:
            connection.task.cancel()


class TestJoining:
    async def test_a_worker_introduces_itself_and_is_given_an_id(self, farm: Farm) -> None:
        connection = await farm.joined()
        assert connection.link.hello == WorkerHello(
            prefix="w",
            properties=(("cpu", "8"), ("os", "debian"), ("os", "linux")),
            max_inflight_tasks=4,
            address="127.0.0.1:1",
        )
        (first,) = connection.sent
        assert first.connection_result.worker_id == "w1"
        assert await connection.end() == [("lost",)]

    async def test_our_own_workers_say_more(self, farm: Farm) -> None:
        connection = await farm.joined(
            resumes="w7", running=["one", "two", "three"], can_resume=True
        )
        hello = connection.link.hello
        assert (hello.resumes, hello.running) == ("w7", ("one", "two", "three"))
        assert hello.can_resume
        assert connection.sent[0].connection_result.worker_id == "w7"

    @pytest.mark.parametrize(
        "message",
        [
            update(keep_alive_request=api.KeepAliveRequest()),
            update(execute_complete=api.ExecuteComplete(operation_id="x")),
            b"",
            b"\x7a\x00",
            b"\xff\xff",
            update(
                connect_worker_request=api.ConnectWorkerRequest(
                    properties=[pb.Platform.Property(name="x")] * 4097
                )
            ),
            update(
                connect_worker_request=api.ConnectWorkerRequest(
                    properties=[pb.Platform.Property(name="x", value="y" * 2**20)]
                )
            ),
            update(connect_worker_request=api.ConnectWorkerRequest(worker_id_prefix="w" * 257)),
            update(connect_worker_request=api.ConnectWorkerRequest(worker_id_prefix="w\n")),
            update(connect_worker_request=api.ConnectWorkerRequest(running=["op"] * 20_001)),
        ],
        ids=[
            "keep-alive",
            "complete",
            "empty",
            "unknown oneof",
            "garbage",
            "many",
            "huge",
            "long prefix",
            "prefix of two lines",
            "too many operations",
        ],
    )
    async def test_anything_else_in_the_beginning_is_refused(
        self, farm: Farm, message: Any
    ) -> None:
        connection = farm.connect(message)
        await connection.task
        assert connection.error is not None
        assert connection.error.code is Code.INVALID_ARGUMENT
        assert not farm.gateway.links

    async def test_a_stream_without_a_message_is_refused(self, farm: Farm) -> None:
        connection = farm.connect()
        connection.source.end()
        await connection.task
        assert connection.error is not None
        assert connection.error.code is Code.INVALID_ARGUMENT

    async def test_a_scheduler_that_stops_lets_nobody_in(self, farm: Farm) -> None:
        farm.gateway.refusal = unavailable("the scheduler stops")
        connection = farm.connect(update(connect_worker_request=HELLO))
        await connection.task
        assert connection.error is not None
        assert connection.error.code is Code.UNAVAILABLE


class TestOrders:
    async def test_an_action_is_ordered_as_nativelink_does(self, farm: Farm) -> None:
        connection = await farm.joined()
        connection.link.order(StartOrder("op", ACTION, 12.5), KillOrder("other"))
        await wait_until(lambda: len(connection.sent) == 3)
        _, start, kill = connection.sent
        assert start == api.UpdateForWorker(
            start_action=api.StartExecute(
                execute_request=pb.ExecuteRequest(
                    instance_name="a/b",
                    action_digest=digest_message(DIGEST),
                    digest_function=pb.DigestFunction.SHA256,
                ),
                operation_id="op",
                queued_timestamp=timestamp_pb2.Timestamp(seconds=12, nanos=500_000_000),
                platform=pb.Platform(
                    properties=[
                        pb.Platform.Property(name="cpu", value="1"),
                        pb.Platform.Property(name="os", value="linux"),
                    ]
                ),
                worker_id="w1",
            )
        )
        assert kill.kill_operation_request.operation_id == "other"

    async def test_what_is_not_shared_is_ordered_without_the_cache(self, farm: Farm) -> None:
        connection = await farm.joined()
        uncached = ActionInfo(ACTION.key, do_not_cache=True)
        connection.link.order(StartOrder("op", uncached, 1.0))
        await wait_until(lambda: len(connection.sent) == 2)
        assert connection.sent[1].start_action.execute_request.skip_cache_lookup

    async def test_an_evicted_worker_is_told_and_disconnected(self, farm: Farm) -> None:
        connection = await farm.joined()
        connection.link.order()
        await connection.task
        assert connection.error is None
        assert connection.sent[-1].WhichOneof("update") == "disconnect"
        assert connection.link.said == [("lost",)]


class TestResults:
    async def test_a_result_reaches_the_scheduler_whole(self, farm: Farm) -> None:
        connection = await farm.joined()
        response = pb.ExecuteResponse(
            result=pb.ActionResult(exit_code=3), message="hi", server_logs={"x": pb.LogFile()}
        )
        connection.send(execute_complete=api.ExecuteComplete(operation_id="op"))
        connection.send(
            execute_result=api.ExecuteResult(
                instance_name="a/b",
                operation_id="op",
                execute_response=response,
                resource_usage=api.ActionResourceUsage(peak_memory_kb=5, cpu_time_ms=6),
            )
        )
        complete, result, lost = await connection.end()
        assert complete == ("process_ended", "op")
        assert result[:2] == ("result", "op")
        assert pb.ExecuteResponse.FromString(result[2]) == response
        assert result[3:] == (3, 5, 6)
        assert lost == ("lost",)

    async def test_a_result_that_no_client_could_receive_is_a_failure(self, farm: Farm) -> None:
        connection = await farm.joined()
        response = pb.ExecuteResponse(
            result=pb.ActionResult(stdout_raw=b"x" * (4 * 1024 * 1024 - 1000))
        )
        connection.send(
            execute_result=api.ExecuteResult(operation_id="op", execute_response=response)
        )
        (said, _) = await connection.end()
        assert said[:2] == ("failed", "op")
        assert said[2].code is Code.INVALID_ARGUMENT
        assert "fit into what clients receive" in said[2].message

    async def test_a_novel_of_an_error_is_cut(self, farm: Farm) -> None:
        connection = await farm.joined()
        error = status_pb2.Status(code=Code.INTERNAL, message="x" * 1_000_000)
        connection.send(execute_result=api.ExecuteResult(operation_id="op", internal_error=error))
        (said, _) = await connection.end()
        assert len(said[2].message) < 20_000
        assert said[2].message.endswith("(1000000 characters)")

    async def test_what_nobody_knows_in_a_response_is_kept(self, farm: Farm) -> None:
        connection = await farm.joined()
        response = pb.ExecuteResponse(result=pb.ActionResult(exit_code=1))
        response.MergeFromString(b"\xba\x3e\x01x")
        connection.send(
            execute_result=api.ExecuteResult(operation_id="op", execute_response=response)
        )
        result, _ = await connection.end()
        assert result[2].endswith(b"\xba\x3e\x01x")

    async def test_symlinks_stand_in_the_lists_of_all_versions(self, farm: Farm) -> None:
        connection = await farm.joined()
        link = pb.OutputSymlink
        old = pb.ActionResult(
            output_file_symlinks=[link(path="b", target="x")],
            output_directory_symlinks=[link(path="a", target="y")],
        )
        new = pb.ActionResult(output_symlinks=[link(path="c", target="z")])
        for result in (old, new):
            connection.send(
                execute_result=api.ExecuteResult(
                    operation_id="op", execute_response=pb.ExecuteResponse(result=result)
                )
            )
        first, second, _ = await connection.end()
        completed = pb.ExecuteResponse.FromString(first[2]).result
        assert [each.path for each in completed.output_symlinks] == ["a", "b"]
        assert completed.output_file_symlinks == old.output_file_symlinks
        assert completed.output_directory_symlinks == old.output_directory_symlinks
        completed = pb.ExecuteResponse.FromString(second[2]).result
        assert completed.output_symlinks == new.output_symlinks
        assert completed.output_file_symlinks == new.output_symlinks

    async def test_a_workers_own_failure_names_what_it_missed(self, farm: Farm) -> None:
        connection = await farm.joined()
        details = error_details_pb2.PreconditionFailure()
        subjects = [
            f"blobs/{DIGEST.hash.upper()}/{DIGEST.size_bytes}",
            f"a/b/blobs/blake3/{DIGEST.hash}/1",
            f"blobs/{DIGEST.hash}/{DIGEST.size_bytes}",
            "blobs/nonsense/1",
        ]
        for subject in subjects:
            details.violations.add(type="MISSING", subject=subject)
        details.violations.add(type="OTHER", subject=f"blobs/{DIGEST.hash}/2")
        status = status_pb2.Status(code=9, message="inputs are gone")
        status.details.add(
            type_url="type.googleapis.com/google.rpc.PreconditionFailure",
            value=details.SerializeToString(),
        )
        status.details.add(type_url="type.googleapis.com/other", value=b"\xff")
        status.details.add(
            type_url="type.googleapis.com/google.rpc.PreconditionFailure", value=b"\xff"
        )
        connection.send(execute_result=api.ExecuteResult(operation_id="op", internal_error=status))
        failed, _ = await connection.end()
        missing = (DIGEST, DIGEST._replace(size_bytes=1))
        assert failed == (
            "failed",
            "op",
            Failure(Code.FAILED_PRECONDITION, "inputs are gone", missing),
        )

    @pytest.mark.parametrize(
        ("result", "code"),
        [
            ({"internal_error": status_pb2.Status()}, Code.UNKNOWN),
            ({"internal_error": status_pb2.Status(code=99)}, Code.UNKNOWN),
            ({"internal_error": status_pb2.Status(code=8)}, Code.RESOURCE_EXHAUSTED),
            ({}, Code.INTERNAL),
            ({"execute_response": pb.ExecuteResponse()}, Code.INTERNAL),
        ],
    )
    async def test_a_result_that_is_none_is_a_failure(
        self, farm: Farm, result: Any, code: Code
    ) -> None:
        connection = await farm.joined()
        connection.send(execute_result=api.ExecuteResult(operation_id="op", **result))
        failed, _ = await connection.end()
        assert failed[:2] == ("failed", "op")
        assert failed[2].code is code
        assert failed[2].message

    async def test_an_error_of_the_action_is_a_result(self, farm: Farm) -> None:
        connection = await farm.joined()
        response = pb.ExecuteResponse(status=status_pb2.Status(code=4, message="timed out"))
        connection.send(
            execute_result=api.ExecuteResult(operation_id="op", execute_response=response)
        )
        result, _ = await connection.end()
        assert pb.ExecuteResponse.FromString(result[2]) == response


class TestLife:
    async def test_a_keep_alive_may_say_whether_the_worker_wants_new_actions(
        self, farm: Farm
    ) -> None:
        connection = await farm.joined()
        connection.send(keep_alive_request=api.KeepAliveRequest(draining=True))
        connection.send(keep_alive_request=api.KeepAliveRequest())
        connection.send(keep_alive_request=api.KeepAliveRequest(draining=False))
        assert await connection.end() == [
            ("keep_alive",),
            ("drain", True),
            ("keep_alive",),
            ("keep_alive",),
            ("drain", False),
            ("lost",),
        ]

    async def test_a_keep_alive_is_answered(self, farm: Farm) -> None:
        connection = await farm.joined()
        connection.send(keep_alive_request=api.KeepAliveRequest())
        await wait_until(lambda: len(connection.sent) == 2)
        assert connection.sent[1].WhichOneof("update") == "keep_alive"
        assert await connection.end() == [("keep_alive",), ("lost",)]

    async def test_what_is_out_of_order_or_unknown_is_a_sign_of_life(
        self, farm: Farm, caplog: pytest.LogCaptureFixture
    ) -> None:
        connection = await farm.joined()
        connection.send(connect_worker_request=HELLO)
        connection.source.send(b"\x7a\x00")
        connection.source.send(b"")
        assert await connection.end() == [("keep_alive",)] * 3 + [("lost",)]
        assert "introduced itself twice" in caplog.text
        assert len(farm.gateway.links) == 1

    async def test_a_worker_that_leaves_says_so(self, farm: Farm) -> None:
        connection = await farm.joined()
        connection.send(going_away_request=api.GoingAwayRequest())
        assert await connection.end() == [("going_away",), ("lost",)]

    async def test_garbage_ends_the_connection(self, farm: Farm) -> None:
        connection = await farm.joined()
        connection.source.send(b"\xff\xff")
        await connection.task
        assert connection.error is not None
        assert connection.error.code is Code.INVALID_ARGUMENT
        assert connection.link.said == [("lost",)]

    async def test_a_broken_connection_is_a_lost_worker(self, farm: Farm) -> None:
        connection = await farm.joined()
        connection.task.cancel()
        await wait_until(connection.task.done)
        assert connection.link.said == [("lost",)]
