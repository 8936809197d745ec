"""One try of an action: what was ordered, and the result as it takes shape."""

from __future__ import annotations

from itertools import islice
from typing import Final, Literal, TypeAlias, get_args

from nativelink.core.clock import Clock
from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, MissingBlob, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as worker_pb,
)
from nativelink.proto.google.rpc import error_details_pb2, status_pb2
from nativelink.worker.launch import Exit

__all__ = ["Attempt", "Step", "is_final", "set_digest", "set_status"]

#: Fields of ExecutedActionMetadata without their `_timestamp`.
Step: TypeAlias = Literal[
    "worker_start",
    "input_fetch_start",
    "input_fetch_completed",
    "execution_start",
    "execution_completed",
    "output_upload_start",
    "output_upload_completed",
    "worker_completed",
]
_FIELDS: Final[dict[Step, str]] = {step: f"{step}_timestamp" for step in get_args(Step)}
#: The exit code, in NativeLink, of what was never run.
_NEVER_RUN: Final = -178
#: Of 110 bytes each: as many as fit into a message of 4 MiB, which is what gRPC peers take, with
#: room to spare. A client that uploads them hears of the others then.
_MAX_VIOLATIONS: Final = 10_000


class Attempt:
    """One try of an action.

    Attributes:
        operation_id: the execution's.
        action_digest: of the action.
        function: of the request.
        properties: what the scheduler sent as platform properties, a name's last value.
        response: what becomes of it.
        result: the response's result.
        exit: how the process ended; None before.
        process_stays: whether a process that is there still has run it.
    """

    def __init__(self, order: worker_pb.StartExecute, clock: Clock) -> None:
        request = order.execute_request
        self._clock = clock
        self.operation_id = order.operation_id
        self.action_digest = Digest.parse(
            request.action_digest.hash, request.action_digest.size_bytes
        )
        self.function = DigestFunction(request.digest_function or DigestFunction.SHA256)
        self.properties = {each.name: each.value for each in order.platform.properties}
        self.response = pb.ExecuteResponse()
        self.result = self.response.result
        self.exit: Exit | None = None
        self.process_stays = False
        self._metadata = self.result.execution_metadata
        self._metadata.worker = order.worker_id
        self._metadata.queued_timestamp.CopyFrom(order.queued_timestamp)
        #: When each step was reached, in nanoseconds since the epoch.
        self._reached: dict[Step, int] = {}
        self.stamp("worker_start")

    def stamp(self, step: Step) -> None:
        """Note that the step is reached now."""
        self._reached[step] = int(self._clock.time() * 1e9)

    def forget_run(self) -> None:
        """Begin anew with the run of the command: how it ended does not count."""
        self.response.ClearField("status")
        self.response.ClearField("message")
        self.result.exit_code = 0
        self.exit = None
        self.process_stays = False

    def status(self, code: Code, message: str) -> None:
        """Say that the result is no success."""
        self.response.status.code = code
        self.response.status.message = message

    def fail(self, error: NativeLinkError) -> None:
        """Make the error the response; what is known of the result stays."""
        if not self.result.HasField("stdout_digest"):
            self.result.exit_code = _NEVER_RUN
            nothing = self.function.digest_of(b"")
            set_digest(self.result.stdout_digest, nothing)
            set_digest(self.result.stderr_digest, nothing)
        set_status(self.response.status, error, self.function)

    def complete(self) -> pb.ExecuteResponse:
        """The response, now that nothing more happens to it.

        All nine times are set, those of steps that were never reached to the end: NativeLink's
        scheduler takes no result without them.
        """
        self.stamp("worker_completed")
        completed = self._reached["worker_completed"]
        for step, field in _FIELDS.items():
            timestamp = getattr(self._metadata, field)
            timestamp.seconds, timestamp.nanos = divmod(self._reached.get(step, completed), 10**9)
        if not self._metadata.HasField("queued_timestamp"):
            self._metadata.queued_timestamp.CopyFrom(self._metadata.worker_start_timestamp)
        return self.response


def is_final(error: NativeLinkError) -> bool:
    """Whether an error is the action's, so that trying elsewhere would end the same way.

    A store that lets nobody in, or a directory that cannot be used, is this machine's: were it
    final, one badly configured worker would fail every build.
    """
    return error.code is Code.INVALID_ARGUMENT or (
        error.code is Code.FAILED_PRECONDITION and bool(error.details)
    )


def set_digest(message: pb.Digest, digest: Digest) -> None:
    """Fill a Digest message."""
    message.hash = digest.hash
    message.size_bytes = digest.size_bytes


def set_status(
    status: status_pb2.Status,
    error: NativeLinkError,
    function: DigestFunction = DigestFunction.SHA256,
) -> None:
    """Fill a google.rpc.Status; missing blobs become violations (REAPI v2, Execution.Execute).

    Args:
        status: to be filled.
        error: what to report.
        function: made the digests of missing blobs. Schedulers, unlike clients, know it anyway.
    """
    status.code = error.code
    status.message = error.message
    blobs = [each.digest for each in error.details if isinstance(each, MissingBlob)]
    if not blobs:
        return
    failure = error_details_pb2.PreconditionFailure()
    for hash_, size_bytes in islice(blobs, _MAX_VIOLATIONS):
        subject = f"blobs/{function.segment}{hash_}/{size_bytes}"
        failure.violations.add(type="MISSING", subject=subject)
    status.details.add().Pack(failure)
