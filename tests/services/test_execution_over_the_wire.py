"""Clients and workers, both gRPC's own, at a scheduler of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest

from nativelink.core.clock import SystemClock
from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.eager import run_all
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as api,
)
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.proto.google.protobuf import empty_pb2
from nativelink.proto.google.rpc import code_pb2, error_details_pb2, status_pb2
from nativelink.scheduler.local import LocalScheduler
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.scheduler import WorkerGateway
from nativelink.services.execution import ExecutionInstance, ExecutionService
from nativelink.services.farm import farm_routes
from nativelink.services.operations import OperationsService
from nativelink.services.worker_api import WorkerApiService
from nativelink.stores.store import write_bytes
from nativelink.telemetry.execution import ExecutionRecorder, FarmMetrics
from nativelink.telemetry.meter import Registry
from nativelink.telemetry.prometheus import render
from nativelink.testing.calls import digest_message
from nativelink.testing.fakes import DictStore, wait_until
from nativelink.transport.server import Server
from tests import plain_http

pytestmark = pytest.mark.usefixtures("every_state_lasts")

SHA256 = DigestFunction.SHA256
INSTANCE = "a/b"
REAPI = "/build.bazel.remote.execution.v2.Execution/"
OPERATIONS = "/google.longrunning.Operations/"
CONNECT = "/com.github.trace_machina.nativelink.remote_execution.WorkerApi/ConnectWorker"
STAGE = pb.ExecutionStage


class Farm:
    """A server with everything, and a channel to it."""

    def __init__(self, server: Server, channel: grpc.aio.Channel, cas: DictStore) -> None:
        self.address = "{}:{}".format(*server.address)
        self.channel = channel
        self.cas = cas
        self.registry = Registry()
        self.workers: list[Worker] = []

    async def put(self, data: Any) -> Digest:
        data = data if isinstance(data, bytes) else data.SerializeToString()
        digest = SHA256.digest_of(data)
        await write_bytes(self.cas, digest, data)
        return digest

    async def action(self, name: str = "true", **fields: Any) -> Digest:
        """An action that can be executed."""
        command = await self.put(pb.Command(arguments=[name]))
        return await self.put(
            pb.Action(
                command_digest=digest_message(command),
                input_root_digest=digest_message(SHA256.digest_of(b"")),
                **fields,
            )
        )

    def execute(self, digest: Digest, **fields: Any) -> Any:
        return self.stream(
            "Execute",
            pb.ExecuteRequest(
                instance_name=INSTANCE, action_digest=digest_message(digest), **fields
            ),
        )

    def stream(self, name: str, request: Any) -> Any:
        call: Any = self.channel.unary_stream(
            REAPI + name,
            request_serializer=lambda each: (
                each if isinstance(each, bytes) else each.SerializeToString()
            ),
            response_deserializer=operations_pb2.Operation.FromString,
        )
        return call(request, timeout=60)

    async def unary(self, name: str, request: Any, reply: Any) -> Any:
        call: Any = self.channel.unary_unary(
            OPERATIONS + name,
            request_serializer=lambda each: each.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return await call(request, timeout=60)

    async def join(self, **hello: Any) -> Worker:
        worker = Worker(self.channel)
        self.workers.append(worker)
        await worker.introduce(**hello)
        return worker


class Worker:
    """A worker as NativeLink's is: it says nothing beyond NativeLink's protocol."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        connect: Any = channel.stream_stream(
            CONNECT,
            request_serializer=lambda each: (
                each if isinstance(each, bytes) else each.SerializeToString()
            ),
            response_deserializer=api.UpdateForWorker.FromString,
        )
        self.call = connect()
        self.worker_id = ""

    async def introduce(self, **hello: Any) -> None:
        await self.send(
            connect_worker_request=api.ConnectWorkerRequest(worker_id_prefix="nl-", **hello)
        )
        first = await self.call.read()
        assert first.WhichOneof("update") == "connection_result"
        self.worker_id = first.connection_result.worker_id

    async def send(self, **update: Any) -> None:
        await self.call.write(api.UpdateForScheduler(**update))

    async def order(self) -> api.StartExecute:
        update = await self.call.read()
        assert update.WhichOneof("update") == "start_action", update
        assert isinstance(update.start_action, api.StartExecute)
        return update.start_action

    async def finish(self, order: api.StartExecute, **result: Any) -> None:
        await self.send(execute_complete=api.ExecuteComplete(operation_id=order.operation_id))
        response = pb.ExecuteResponse(result=pb.ActionResult(**result))
        await self.send(
            execute_result=api.ExecuteResult(
                instance_name=order.execute_request.instance_name,
                operation_id=order.operation_id,
                execute_response=response,
            )
        )

    async def work(self) -> None:
        """Finish whatever comes, until the connection ends."""
        while isinstance(update := await self.call.read(), api.UpdateForWorker):
            if update.HasField("start_action"):
                await self.finish(update.start_action)


#: It gives up no worker of a test, however long that takes.
PATIENT = Policy(worker_timeout_s=600)


@pytest.fixture
async def farm() -> AsyncIterator[Farm]:
    cas, registry = DictStore(), Registry()
    recorder = ExecutionRecorder(registry)
    async with LocalScheduler(PATIENT, clock=SystemClock(), recorder=recorder) as scheduler:
        FarmMetrics(registry, SystemClock()).add("MAIN", scheduler)
        gateway: WorkerGateway = scheduler
        server = Server(
            [
                *ExecutionService(
                    {INSTANCE: ExecutionInstance(cas, scheduler)}, clock=SystemClock()
                ).methods(),
                *OperationsService({INSTANCE: scheduler}).methods(),
                *WorkerApiService(gateway).methods(),
            ],
            farm_routes({"MAIN": scheduler}, {"MAIN": gateway}, path="/admin"),
        )
        await server.start()
        options = [("grpc.use_local_subchannel_pool", 1)]
        try:
            address = "{}:{}".format(*server.address)
            async with grpc.aio.insecure_channel(address, options=options) as channel:
                farm = Farm(server, channel, cas)
                farm.registry = registry
                yield farm
                for worker in farm.workers:
                    worker.call.cancel()
        finally:
            await server.close()


def metadata_of(operation: operations_pb2.Operation) -> pb.ExecuteOperationMetadata:
    return pb.ExecuteOperationMetadata.FromString(operation.metadata.value)


def response_of(operation: operations_pb2.Operation) -> pb.ExecuteResponse:
    assert operation.done
    return pb.ExecuteResponse.FromString(operation.response.value)


async def until(stream: Any, stage: STAGE.Value) -> operations_pb2.Operation:
    """The first operation of a stream that is in a stage."""
    while True:
        operation = await stream.read()
        assert isinstance(operation, operations_pb2.Operation), "the stream ended too early"
        if metadata_of(operation).stage == stage:
            return operation


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


async def test_an_action_goes_to_a_worker_and_its_result_comes_back(farm: Farm) -> None:
    platform = pb.Platform(properties=[pb.Platform.Property(name="os", value="linux")])
    digest = await farm.action(platform=platform)
    stream = farm.execute(digest)
    await until(stream, STAGE.QUEUED)
    worker = await farm.join(properties=platform.properties)
    order = await worker.order()
    assert order.execute_request.action_digest == digest_message(digest)
    assert order.execute_request.instance_name == INSTANCE
    assert order.platform == platform
    assert order.worker_id == worker.worker_id
    running = metadata_of(await until(stream, STAGE.EXECUTING)).partial_execution_metadata
    assert running.worker == worker.worker_id
    assert running.HasField("worker_start_timestamp")
    await worker.finish(order, exit_code=3, stderr_raw=b"oh")
    result = response_of(await until(stream, STAGE.COMPLETED)).result
    assert (result.exit_code, result.stderr_raw) == (3, b"oh")
    page = render(farm.registry.collect())
    assert 'execution_result="failure"' in page
    assert "nativelink_worker_connected_count{} 1" in page


async def test_a_client_that_leaves_comes_back_to_its_result(farm: Farm) -> None:
    stream = farm.execute(await farm.action())
    name = (await until(stream, STAGE.QUEUED)).name
    stream.cancel()
    worker = await farm.join()
    await worker.finish(await worker.order(), exit_code=5)
    again = farm.stream("WaitExecution", pb.WaitExecutionRequest(name=name))
    assert response_of(await until(again, STAGE.COMPLETED)).result.exit_code == 5
    request = operations_pb2.GetOperationRequest(name=name)
    assert (await farm.unary("GetOperation", request, operations_pb2.Operation)).done
    await farm.unary(
        "DeleteOperation", operations_pb2.DeleteOperationRequest(name=name), empty_pb2.Empty
    )
    gone = farm.stream("WaitExecution", pb.WaitExecutionRequest(name=name))
    assert (await refused(anext(aiter(gone)))).code() is grpc.StatusCode.NOT_FOUND


async def test_a_cancelled_operation_ends_here_and_on_its_worker(farm: Farm) -> None:
    worker = await farm.join()
    stream = farm.execute(await farm.action())
    order = await worker.order()
    name = (await until(stream, STAGE.EXECUTING)).name
    await farm.unary(
        "CancelOperation", operations_pb2.CancelOperationRequest(name=name), empty_pb2.Empty
    )
    response = response_of(await until(stream, STAGE.COMPLETED))
    assert response.status.code == code_pb2.CANCELLED
    kill = await worker.call.read()
    assert kill.kill_operation_request.operation_id == order.operation_id


async def test_a_worker_that_breaks_off_is_replaced(farm: Farm) -> None:
    first = await farm.join()
    stream = farm.execute(await farm.action())
    await first.order()
    await until(stream, STAGE.EXECUTING)
    first.call.cancel()
    second = await farm.join()
    await second.finish(await second.order())
    assert response_of(await until(stream, STAGE.COMPLETED)).result.exit_code == 0


async def test_every_missing_blob_reaches_the_client(farm: Farm) -> None:
    missing = [SHA256.digest_of(name) for name in (b"command", b"root")]
    digest = await farm.put(
        pb.Action(
            command_digest=digest_message(missing[0]),
            input_root_digest=digest_message(missing[1]),
        )
    )
    error = await refused(anext(aiter(farm.execute(digest))))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert subjects(status) == [f"blobs/{each.hash}/{each.size_bytes}" for each in missing]


async def test_what_a_worker_missed_reaches_the_client(farm: Farm) -> None:
    worker = await farm.join()
    stream = farm.execute(await farm.action())
    order = await worker.order()
    subject = f"blobs/{'a' * 64}/7"
    failure = error_details_pb2.PreconditionFailure()
    failure.violations.add(type="MISSING", subject=subject)
    status = status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message="no such input")
    status.details.add(
        type_url="type.googleapis.com/google.rpc.PreconditionFailure",
        value=failure.SerializeToString(),
    )
    await worker.send(
        execute_result=api.ExecuteResult(operation_id=order.operation_id, internal_error=status)
    )
    response = response_of(await until(stream, STAGE.COMPLETED))
    assert response.status.code == code_pb2.FAILED_PRECONDITION
    assert subjects(response.status) == [subject]


def subjects(status: status_pb2.Status) -> list[str]:
    (detail,) = status.details
    failure = error_details_pb2.PreconditionFailure.FromString(detail.value)
    return [each.subject for each in failure.violations]


@pytest.mark.parametrize(
    "request_bytes", [b"\xff\xff\xff", b"\x0a\xff", b"\x32\x01\x0a"], ids=["tags", "cut", "nested"]
)
async def test_a_request_that_is_garbage_is_refused(farm: Farm, request_bytes: bytes) -> None:
    error = await refused(anext(aiter(farm.stream("Execute", request_bytes))))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\xff\xff",
        b"\x7a\x00",
        api.UpdateForScheduler(going_away_request={}).SerializeToString(),
    ],
    ids=["empty", "garbage", "unknown", "out of order"],
)
async def test_a_worker_that_begins_wrongly_is_refused(farm: Farm, first: bytes) -> None:
    worker = Worker(farm.channel)
    await worker.call.write(first)
    error = await refused(worker.call.read())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_a_worker_makes_up_harms_nobody(farm: Farm) -> None:
    worker = await farm.join()
    await worker.send(execute_complete=api.ExecuteComplete(operation_id="nonsense"))
    await worker.send(
        execute_result=api.ExecuteResult(
            operation_id="nonsense", execute_response=pb.ExecuteResponse()
        )
    )
    await worker.call.write(b"\x7a\x00")
    await worker.send(keep_alive_request=api.KeepAliveRequest())
    while (update := await worker.call.read()).WhichOneof("update") != "keep_alive":
        assert update.WhichOneof("update") == "kill_operation_request"
    stream = farm.execute(await farm.action())
    await worker.finish(await worker.order())
    assert response_of(await until(stream, STAGE.COMPLETED)).result.exit_code == 0


@pytest.mark.slow
async def test_a_drained_worker_gets_nothing(farm: Farm) -> None:
    worker, other = await farm.join(), await farm.join()
    async with plain_http.async_client(base_url=f"http://{farm.address}/admin") as client:
        path = f"/scheduler/MAIN/set_drain_worker/{worker.worker_id}/1"
        assert (await client.get(path)).status_code == 405
        assert (await client.post(path, headers={"origin": "http://x"})).status_code == 403
        assert (await client.post(path)).text == f"Draining worker {worker.worker_id}\n"
        assert (await client.post(path.replace("nl-", "no-"))).status_code == 404
        shown = {each["worker_id"]: each for each in (await client.get("/workers")).json()["MAIN"]}
        assert shown[worker.worker_id]["draining"]
        streams = [farm.execute(await farm.action(name)) for name in "xyz"]
        for _ in streams:
            await other.finish(await other.order())
        for stream in streams:
            await until(stream, STAGE.COMPLETED)
        found = await client.get("/operations", params={"filter": "stage=COMPLETED"})
        assert {each["worker_id"] for each in found.json()["MAIN"]} == {other.worker_id}


@pytest.mark.slow
async def test_many_actions_at_once_all_end(farm: Farm) -> None:
    workers = [await farm.join(max_inflight_tasks=8) for _ in range(3)]
    digests = [await farm.action(str(number)) for number in range(150)]

    async def run(digest: Digest) -> int:
        stream = farm.execute(digest)
        return response_of(await until(stream, STAGE.COMPLETED)).result.exit_code

    async with asyncio.TaskGroup() as tasks:
        working = [tasks.create_task(worker.work()) for worker in workers]
        assert await run_all([run(digest) for digest in digests]) == [0] * len(digests)
        for worker in workers:
            await worker.call.done_writing()
        await wait_until(lambda: all(task.done() for task in working))
    page = render(farm.registry.collect())
    assert "nativelink_worker_connected_count{} 0" in page
