"""The worker API's messages on the scheduler's side: orders written, results read."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from nativelink.core.rpc import CallContext
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as api,
)
from nativelink.proto.google.protobuf import empty_pb2
from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.scheduler import KillOrder, Order, WorkerHello
from nativelink.services.operation_messages import timestamp_message
from nativelink.stores.remote.messages import digest_message

__all__ = [
    "DISCONNECT",
    "KEEP_ALIVE",
    "complete_symlinks",
    "connection_result",
    "hello_of",
    "order_message",
    "start_message",
]

DISCONNECT: Final = api.UpdateForWorker(disconnect=empty_pb2.Empty()).SerializeToString()
KEEP_ALIVE: Final = api.UpdateForWorker(keep_alive=empty_pb2.Empty()).SerializeToString()


def hello_of(request: api.ConnectWorkerRequest, call: CallContext) -> WorkerHello:
    """How a worker introduces itself."""
    return WorkerHello(
        prefix=request.worker_id_prefix,
        properties=tuple(sorted({(each.name, each.value) for each in request.properties})),
        max_inflight_tasks=request.max_inflight_tasks,
        resumes=request.resumes,
        running=tuple(request.running),
        can_resume=request.can_resume,
        address=call.peer.address,
    )


def connection_result(worker_id: str) -> bytes:
    """The first message that a worker gets."""
    result = api.ConnectionResult(worker_id=worker_id)
    return api.UpdateForWorker(connection_result=result).SerializeToString()


def order_message(order: Order, worker_id: str) -> bytes:
    """An order, encoded."""
    if isinstance(order, KillOrder):
        kill = api.KillOperationRequest(operation_id=order.operation_id)
        return api.UpdateForWorker(kill_operation_request=kill).SerializeToString()
    start = start_message(order.operation_id, order.action, order.queued_at, worker_id)
    return api.UpdateForWorker(start_action=start).SerializeToString()


def start_message(
    operation_id: str, action: ActionInfo, queued_at: float, worker_id: str
) -> api.StartExecute:
    """An order to execute."""
    key = action.key
    return api.StartExecute(
        execute_request=pb.ExecuteRequest(
            instance_name=key.instance_name,
            skip_cache_lookup=not action.joinable,
            action_digest=digest_message(key.digest),
            digest_function=key.digest_function.name,
        ),
        operation_id=operation_id,
        queued_timestamp=timestamp_message(queued_at),
        platform=_platform(action.properties),
        worker_id=worker_id,
    )


@lru_cache(maxsize=256)
def _platform(properties: tuple[tuple[str, str], ...]) -> pb.Platform:
    """What the scheduler matched, sorted by name; actions of one build share a few of them."""
    return pb.Platform(
        properties=[pb.Platform.Property(name=name, value=value) for name, value in properties]
    )


def complete_symlinks(result: pb.ActionResult) -> bool:
    """Make the lists of symlinks agree, as clients of every version read another one.

    `output_symlinks` has all of them since REAPI 2.1; the two older lists together have the same
    ones. Older clients treat both alike, so what only the new list has goes into the first.

    Returns:
        Whether anything was changed.
    """
    older = [*result.output_file_symlinks, *result.output_directory_symlinks]
    if not older and not result.output_symlinks:
        return False
    known = {link.path for link in result.output_symlinks}
    missing = [link for link in older if link.path not in known]
    listed = {link.path for link in older}
    unlisted = [link for link in result.output_symlinks if link.path not in listed]
    result.output_file_symlinks.extend(unlisted)
    if missing:
        links = sorted((*result.output_symlinks, *missing), key=lambda link: link.path)
        del result.output_symlinks[:]
        result.output_symlinks.extend(links)
    return bool(missing or unlisted)
