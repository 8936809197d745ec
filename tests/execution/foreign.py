"""The worker API's other sides by grpcio, as NativeLink v1.6.6 speaks it and nothing more."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Final

import grpc

from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as api,
)
from nativelink.proto.google.protobuf import empty_pb2, timestamp_pb2
from nativelink.testing.execution import ExecutionClient
from nativelink.testing.reapi import digest_of

__all__ = ["ForeignScheduler", "ForeignWorker"]

_PACKAGE: Final = "com.github.trace_machina.nativelink.remote_execution.WorkerApi"
_STEPS: Final = (
    "queued",
    "worker_start",
    "input_fetch_start",
    "input_fetch_completed",
    "execution_start",
    "execution_completed",
    "output_upload_start",
    "output_upload_completed",
    "worker_completed",
)


class ForeignWorker:
    """A worker that runs commands without inputs; use it as a context manager.

    Args:
        port: of the worker API.
        cas: where actions are and outputs go.

    Attributes:
        worker_id: as the scheduler named it.
        orders: what it was told to run.
        killed: operations that it was told to end.
    """

    def __init__(self, port: int, cas: ExecutionClient) -> None:
        self._channel = grpc.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self._cas = cas
        self._outbox: queue.SimpleQueue[api.UpdateForScheduler | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self.worker_id = ""
        self.orders: list[api.StartExecute] = []
        self.killed: list[str] = []

    def __enter__(self) -> ForeignWorker:
        hello = api.ConnectWorkerRequest(worker_id_prefix="foreign-", max_inflight_tasks=1)
        hello.properties.add(name="OSFamily", value="linux")
        self._outbox.put(api.UpdateForScheduler(connect_worker_request=hello))
        call = self._channel.stream_stream(
            f"/{_PACKAGE}/ConnectWorker",
            request_serializer=api.UpdateForScheduler.SerializeToString,
            response_deserializer=api.UpdateForWorker.FromString,
        )
        self._call = call(iter(self._outbox.get, None))
        self.worker_id = next(self._call).connection_result.worker_id
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._outbox.put(api.UpdateForScheduler(going_away_request=api.GoingAwayRequest()))
        self._outbox.put(None)
        self._thread.join(60)
        self._channel.close()

    def _read(self) -> None:
        try:
            for update in self._call:
                match update.WhichOneof("update"):
                    case "start_action":
                        self.orders.append(update.start_action)
                        self._run(update.start_action)
                    case "kill_operation_request":
                        self.killed.append(update.kill_operation_request.operation_id)
                    case "disconnect":
                        return
        except grpc.RpcError:
            return

    def _run(self, order: api.StartExecute) -> None:
        action = re.Action.FromString(self._cas.read(order.execute_request.action_digest))
        command = re.Command.FromString(self._cas.read(action.command_digest))
        done = subprocess.run(
            command.arguments,
            env={each.name: each.value for each in command.environment_variables},
            capture_output=True,
            check=False,
        )
        self._outbox.put(
            api.UpdateForScheduler(
                execute_complete=api.ExecuteComplete(operation_id=order.operation_id)
            )
        )
        self._cas.batch_update([done.stdout, done.stderr])
        result = re.ActionResult(
            exit_code=done.returncode,
            stdout_digest=digest_of(done.stdout),
            stderr_digest=digest_of(done.stderr),
        )
        result.execution_metadata.worker = order.worker_id
        for step in _STEPS:
            now = timestamp_pb2.Timestamp()
            now.GetCurrentTime()
            getattr(result.execution_metadata, f"{step}_timestamp").CopyFrom(now)
        self._outbox.put(
            api.UpdateForScheduler(
                execute_result=api.ExecuteResult(
                    instance_name=order.execute_request.instance_name,
                    operation_id=order.operation_id,
                    execute_response=re.ExecuteResponse(result=result),
                )
            )
        )


class ForeignScheduler:
    """A scheduler for one worker, which a test plays; use it as a context manager.

    Attributes:
        port: of its worker API, on 127.0.0.1.
        hellos: how workers introduced themselves, one for each connection.
        updates: what workers said, in order, without the introductions.
    """

    def __init__(self) -> None:
        self._server = grpc.server(
            futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)]
        )
        handler = grpc.stream_stream_rpc_method_handler(
            self._connect,
            request_deserializer=api.UpdateForScheduler.FromString,
            response_serializer=api.UpdateForWorker.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(_PACKAGE, {"ConnectWorker": handler})]
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.hellos: queue.SimpleQueue[api.ConnectWorkerRequest] = queue.SimpleQueue()
        self.updates: queue.SimpleQueue[api.UpdateForScheduler] = queue.SimpleQueue()
        self._orders: queue.SimpleQueue[api.UpdateForWorker | None] = queue.SimpleQueue()
        self._connections = 0

    def __enter__(self) -> ForeignScheduler:
        self._server.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self.hang_up()
        self._server.stop(0).wait()

    def start(self, operation_id: str, request: re.ExecuteRequest) -> None:
        """Have an action run."""
        order = api.StartExecute(operation_id=operation_id, execute_request=request)
        order.queued_timestamp.GetCurrentTime()
        self._orders.put(api.UpdateForWorker(start_action=order))

    def kill(self, operation_id: str) -> None:
        """Have an action ended."""
        order = api.KillOperationRequest(operation_id=operation_id)
        self._orders.put(api.UpdateForWorker(kill_operation_request=order))

    def disconnect(self) -> None:
        """Tell the worker to go."""
        self._orders.put(api.UpdateForWorker(disconnect=empty_pb2.Empty()))

    def hang_up(self) -> None:
        """End the worker's call."""
        self._orders.put(None)

    def result(self) -> api.ExecuteResult:
        """The next result; signs of life and announcements before it are passed over."""
        while True:
            update = self.updates.get(timeout=120)
            if update.WhichOneof("update") == "execute_result":
                return update.execute_result

    def _connect(
        self, updates: Iterator[api.UpdateForScheduler], _context: grpc.ServicerContext
    ) -> Iterator[api.UpdateForWorker]:
        self._connections += 1
        first = next(updates)
        assert first.WhichOneof("update") == "connect_worker_request"
        self.hellos.put(first.connect_worker_request)
        worker_id = f"{first.connect_worker_request.worker_id_prefix}{self._connections}"
        yield api.UpdateForWorker(connection_result=api.ConnectionResult(worker_id=worker_id))
        threading.Thread(target=self._take, args=[updates], daemon=True).start()
        yield from iter(self._orders.get, None)

    def _take(self, updates: Iterator[api.UpdateForScheduler]) -> None:
        try:
            for update in updates:
                self.updates.put(update)
        except grpc.RpcError:
            return
