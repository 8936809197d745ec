"""Operations of another server read back: `operation_messages.py` the other way."""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.proto.google.protobuf import timestamp_pb2
from nativelink.proto.google.rpc import status_pb2
from nativelink.proto.nativelink.v1.execution_progress_pb2 import ExecutionProgress
from nativelink.scheduler.action import ActionInfo, ActionKey, Origin
from nativelink.scheduler.operation import ExecutionStage, Failure, OperationView, StoryEntry
from nativelink.services.operation_messages import METADATA_TYPE, PROGRESS_TYPE
from nativelink.services.precondition import missing_in

__all__ = ["failure_of", "view_of"]

#: It stays in memory with its operation, and every client that waits gets it: the whole message
#: must be one that gRPC peers take (4 MiB).
_MAX_MESSAGE: Final = 16 * 1024
_NOTHING: Final = Failure(
    Code.INTERNAL, "the other scheduler ended the operation without a response"
)
_FUNCTIONS: Final = {function.value: function for function in DigestFunction}
_STAGES: Final = {stage.value: stage for stage in ExecutionStage}
#: Of an operation whose metadata does not say what it executes.
_UNKNOWN_DIGEST: Final = Digest("0" * 64, 0)


def view_of(operation: operations_pb2.Operation, action: ActionInfo | None = None) -> OperationView:
    """What an Operation says. What it lacks, or nobody understands, is left out.

    Args:
        operation: from any server of the Remote Execution API.
        action: what is executed, if that is known better.
    """
    metadata = _metadata(operation)
    partial = metadata.partial_execution_metadata
    progress = _progress(partial)
    response, failure = _result(operation)
    return OperationView(
        name=operation.name,
        operation_id=progress.operation_id or operation.name.rpartition("/")[2],
        action=_action(operation.name, metadata, progress) if action is None else action,
        stage=ExecutionStage.COMPLETED
        if operation.done
        else _STAGES.get(metadata.stage, ExecutionStage.UNKNOWN),
        priority=progress.priority,
        queued_at=_seconds(partial.queued_timestamp),
        started_at=_seconds(partial.worker_start_timestamp)
        if partial.HasField("worker_start_timestamp")
        else None,
        finished_at=_seconds(partial.worker_completed_timestamp)
        if partial.HasField("worker_completed_timestamp")
        else None,
        worker_id=partial.worker,
        attempts=progress.attempts,
        queue_position=progress.queue_position if progress.HasField("queue_position") else None,
        note=progress.note,
        response=response,
        failure=failure,
        cached=response is not None and _is_cached(response),
        story=tuple(
            [StoryEntry(_seconds(each.at), each.cause, each.text) for each in progress.story]
        ),
    )


def failure_of(status: status_pb2.Status) -> Failure:
    """A `google.rpc.Status` that reports a failure, whatever its code says."""
    try:
        code = Code(status.code)
    except ValueError:
        code = Code.UNKNOWN
    if code is Code.OK:
        code = Code.UNKNOWN
    message = status.message or "no reason was given"
    if len(message) > _MAX_MESSAGE:
        message = f"{message[:_MAX_MESSAGE]}... ({len(message)} characters)"
    return Failure(code, message, missing_in(status))


def _metadata(operation: operations_pb2.Operation) -> pb.ExecuteOperationMetadata:
    if _type(operation.metadata.type_url) == _type(METADATA_TYPE):
        try:
            return pb.ExecuteOperationMetadata.FromString(operation.metadata.value)
        except DecodeError:
            pass
    return pb.ExecuteOperationMetadata()


def _progress(partial: pb.ExecutedActionMetadata) -> ExecutionProgress:
    for each in partial.auxiliary_metadata:
        if _type(each.type_url) == _type(PROGRESS_TYPE):
            try:
                return ExecutionProgress.FromString(each.value)
            except DecodeError:
                break
    return ExecutionProgress()


def _result(operation: operations_pb2.Operation) -> tuple[bytes | None, Failure | None]:
    if not operation.done:
        return None, None
    if operation.HasField("response"):
        return operation.response.value, None
    return None, failure_of(operation.error) if operation.HasField("error") else _NOTHING


def _is_cached(response: bytes) -> bool:
    try:
        return pb.ExecuteResponse.FromString(response).cached_result
    except DecodeError:
        return False


def _action(
    name: str, metadata: pb.ExecuteOperationMetadata, progress: ExecutionProgress
) -> ActionInfo:
    try:
        digest = Digest.parse(metadata.action_digest.hash, metadata.action_digest.size_bytes)
    except NativeLinkError:
        digest = _UNKNOWN_DIGEST
    function = _FUNCTIONS.get(metadata.digest_function, DigestFunction.SHA256)
    return ActionInfo(
        ActionKey(name.rpartition("/")[0], function, digest),
        priority=progress.priority,
        origin=Origin(progress.tool_invocation_id, progress.target_id, progress.action_mnemonic),
    )


def _type(type_url: str) -> str:
    return type_url.rpartition("/")[2]


def _seconds(timestamp: timestamp_pb2.Timestamp) -> float:
    return timestamp.seconds + timestamp.nanos / 1e9
