"""Operations as clients get them: `google.longrunning.Operation` made of an `OperationView`."""

from __future__ import annotations

from typing import Final, TypeAlias

from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.proto.google.protobuf import any_pb2, timestamp_pb2
from nativelink.proto.nativelink.v1.execution_progress_pb2 import ExecutionProgress
from nativelink.scheduler.operation import OperationView
from nativelink.services.precondition import missing_status
from nativelink.services.wire import varint
from nativelink.stores.remote.messages import digest_message

__all__ = [
    "METADATA_TYPE",
    "PROGRESS_TYPE",
    "RESPONSE_TYPE",
    "Parts",
    "operation_parts",
    "response_of",
    "timestamp_message",
]

#: The parts of one encoded message.
Parts: TypeAlias = tuple[bytes, ...]

_PREFIX: Final = "type.googleapis.com/"
METADATA_TYPE: Final = _PREFIX + pb.ExecuteOperationMetadata.DESCRIPTOR.full_name
RESPONSE_TYPE: Final = _PREFIX + pb.ExecuteResponse.DESCRIPTOR.full_name
PROGRESS_TYPE: Final = _PREFIX + ExecutionProgress.DESCRIPTOR.full_name

#: `google.protobuf.Any.type_url`, then the tag of its `value`.
_RESPONSE_ANY: Final = bytes((1 << 3 | 2, len(RESPONSE_TYPE))) + RESPONSE_TYPE.encode() + b"\x12"
#: `google.longrunning.Operation.response`.
_RESPONSE_TAG: Final = bytes((5 << 3 | 2,))


def operation_parts(view: OperationView) -> Parts:
    """The encoded Operation of a view.

    A result goes into it as the bytes that the worker sent, or the action cache had: they are
    neither parsed nor copied.
    """
    action = view.action
    # As numbers, which the stubs do not know: names cost as much again as the whole message.
    metadata = pb.ExecuteOperationMetadata(
        stage=int(view.stage),  # type: ignore[arg-type]
        action_digest=digest_message(action.key.digest),
        digest_function=int(action.key.digest_function),  # type: ignore[arg-type]
        partial_execution_metadata=_partial_metadata(view),
    )
    operation = operations_pb2.Operation(
        name=view.name,
        metadata=any_pb2.Any(type_url=METADATA_TYPE, value=metadata.SerializeToString()),
        done=view.done,
    ).SerializeToString()
    if not view.done:
        return (operation,)
    response = response_of(view)
    value_size = varint(len(response))
    any_size = varint(len(_RESPONSE_ANY) + len(value_size) + len(response))
    return (b"".join((operation, _RESPONSE_TAG, any_size, _RESPONSE_ANY, value_size)), response)


def response_of(view: OperationView) -> bytes:
    """The encoded ExecuteResponse of a finished execution, whether it has a result or failed."""
    if view.response is not None:
        return view.response
    assert view.failure is not None, f"{view.name} is finished without a response or a failure"
    failure = view.failure
    return pb.ExecuteResponse(
        status=missing_status(
            failure.code, failure.message, failure.missing, view.action.key.digest_function
        ),
        message=view.note,
    ).SerializeToString()


def timestamp_message(seconds: float) -> timestamp_pb2.Timestamp:
    """A time since the Unix epoch, to the microsecond."""
    microseconds = round(seconds * 1_000_000)
    return timestamp_pb2.Timestamp(
        seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000
    )


def _partial_metadata(view: OperationView) -> pb.ExecutedActionMetadata:
    metadata = pb.ExecutedActionMetadata(
        worker=view.worker_id, queued_timestamp=timestamp_message(view.queued_at)
    )
    if view.started_at is not None:
        metadata.worker_start_timestamp.CopyFrom(timestamp_message(view.started_at))
    if view.finished_at is not None:
        metadata.worker_completed_timestamp.CopyFrom(timestamp_message(view.finished_at))
    origin = view.action.origin
    progress = ExecutionProgress(
        queue_position=view.queue_position,
        note=view.note,
        attempts=view.attempts,
        priority=view.priority,
        operation_id=view.operation_id,
        tool_invocation_id=origin.tool_invocation_id,
        target_id=origin.target_id,
        action_mnemonic=origin.action_mnemonic,
    )
    for at, cause, text in view.story:
        progress.story.add(at=timestamp_message(at), cause=cause, text=text)
    metadata.auxiliary_metadata.add(type_url=PROGRESS_TYPE, value=progress.SerializeToString())
    return metadata
