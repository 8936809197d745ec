"""What follows from a worker's failure to execute an action."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from nativelink.core.errors import Code
from nativelink.scheduler.operation import Failure
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.records import Operation
from nativelink.scheduler.workers import Worker

__all__ = ["Outcome", "final_failure", "gave_up", "judge", "remembered"]

#: Reasons that are kept; an operation may be handed back any number of times.
_KEPT_REASONS: Final = 8
_REASON_LENGTH: Final = 1000

#: Would fail in the same way anywhere.
_DETERMINISTIC: Final = frozenset(
    {
        Code.INVALID_ARGUMENT,
        Code.PERMISSION_DENIED,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.UNIMPLEMENTED,
    }
)
#: How a worker that is about to leave gives back what it did not finish.
_HANDED_BACK: Final = frozenset({Code.CANCELLED, Code.ABORTED, Code.UNAVAILABLE})


class Outcome(Enum):
    """What becomes of an operation that a worker could not execute."""

    #: The worker has no room (NativeLink: RESOURCE_EXHAUSTED). No try; the worker gets a rest.
    BACKPRESSURE = auto()
    #: The worker leaves and gives it back. No try.
    HANDED_BACK = auto()
    #: It would fail anywhere.
    FINAL = auto()
    #: It may go better elsewhere.
    TRY_AGAIN = auto()


def judge(failure: Failure, worker: Worker) -> Outcome:
    """What follows from a failure that a worker reports."""
    if failure.code is Code.RESOURCE_EXHAUSTED:
        return Outcome.BACKPRESSURE
    if worker.draining and failure.code in _HANDED_BACK:
        return Outcome.HANDED_BACK
    if failure.missing or failure.code in _DETERMINISTIC:
        return Outcome.FINAL
    return Outcome.TRY_AGAIN


def final_failure(failure: Failure) -> Failure:
    """What the client is told of a failure that is final at once.

    Missing blobs are FAILED_PRECONDITION whatever a worker made of them (REAPI v2,
    Execution.Execute), so that the client uploads them and asks again.
    """
    if failure.missing and failure.code is not Code.FAILED_PRECONDITION:
        return Failure(Code.FAILED_PRECONDITION, failure.message, failure.missing)
    return failure


def remembered(operation: Operation, worker_id: str, failure: Failure) -> tuple[str, ...]:
    """The reasons why an operation's tries failed, with one more."""
    reason = f"{worker_id}: {failure.code.name}: {failure.message[:_REASON_LENGTH]}"
    return (*operation.failures[1 - _KEPT_REASONS :], reason)


def gave_up(operation: Operation, code: Code, policy: Policy) -> Failure:
    """What the client is told when there were too many tries."""
    told = "; ".join(operation.failures)
    return Failure(
        code,
        f"gave up after {operation.attempts} failed tries "
        f"(max_job_retries is {policy.max_job_retries}): {told}",
    )
