"""What follows from a worker's failure to execute an action."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from nativelink.core.errors import Code
from nativelink.scheduler.operation import Failure
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.records import Fault, Operation
from nativelink.scheduler.workers import Lease, Worker

__all__ = [
    "Outcome",
    "final_failure",
    "gave_up",
    "judge",
    "reason_of",
    "remembered",
    "turned_away",
    "with_fault",
    "with_worker",
]

#: Reasons that are kept; an operation may be handed back any number of times.
_KEPT_REASONS: Final = 8
_REASON_LENGTH: Final = 1000
#: Workers that an operation avoids, or blames; with more it hardly matters which is tried again.
_REMEMBERED_WORKERS: Final = 16

#: How a worker that is about to leave gives back what it did not finish, or did not begin.
_HANDED_BACK: Final = frozenset(
    {Code.CANCELLED, Code.ABORTED, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED}
)


class Outcome(Enum):
    """What becomes of an operation that a worker could not execute."""

    #: The worker has no room (NativeLink: RESOURCE_EXHAUSTED) and did not run it. No try.
    NO_ROOM = auto()
    #: The worker leaves and gives it back. No try.
    HANDED_BACK = auto()
    #: It would fail anywhere.
    FINAL = auto()
    #: It may go better elsewhere.
    TRY_AGAIN = auto()


def judge(failure: Failure, worker: Worker, lease: Lease) -> Outcome:
    """What follows from a failure that a worker reports of an operation that it has."""
    if worker.draining and failure.code in _HANDED_BACK:
        return Outcome.HANDED_BACK
    if failure.code is Code.RESOURCE_EXHAUSTED and not lease.process_ended:
        return Outcome.NO_ROOM
    # Every other code may be the machine's own: a store that does not let it in, a directory that
    # it cannot use, a kernel that lacks something. One bad worker must not fail every build.
    if failure.missing or failure.code is Code.INVALID_ARGUMENT:
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


def reason_of(failure: Failure) -> str:
    """A failure in a line, for stories and logs. A worker may say as much as a message takes."""
    return f"{failure.code.name}: {failure.message[:_REASON_LENGTH]}"


def remembered(operation: Operation, worker_id: str, failure: Failure) -> tuple[str, ...]:
    """The reasons why an operation's tries failed, with one more."""
    return (*operation.failures[1 - _KEPT_REASONS :], f"{worker_id}: {reason_of(failure)}")


def with_worker(workers: tuple[str, ...], worker_id: str) -> tuple[str, ...]:
    """Workers that an operation remembers, with one more."""
    others = [each for each in workers if each != worker_id]
    return (*others[1 - _REMEMBERED_WORKERS :], worker_id)


def with_fault(faults: tuple[Fault, ...], worker: Worker) -> tuple[Fault, ...]:
    """Faults that an operation remembers, with this worker's as it is now."""
    others = [each for each in faults if each.worker_id != worker.worker_id]
    return (*others[1 - _REMEMBERED_WORKERS :], Fault(worker.worker_id, worker.results))


def turned_away(operation: Operation, policy: Policy, now: float) -> Failure | None:
    """What the client is told when workers had no room for too long; None if they may have soon.

    Not RESOURCE_EXHAUSTED, upon which clients try again at once and by themselves: somebody has to
    look after the farm first, which is what FAILED_PRECONDITION says.
    """
    limit = policy.unschedulable_timeout_s
    since = operation.refused_since
    if not limit or since is None or operation.refusals <= policy.max_job_retries:
        return None
    if now - since < limit:
        return None
    told = "; ".join(operation.failures)
    return Failure(
        Code.FAILED_PRECONDITION,
        f"gave up: for {now - since:.0f} s no worker had room for this action, "
        f"{operation.refusals} times (unschedulable_timeout_s is {limit:g}): {told}",
    )


def gave_up(operation: Operation, code: Code, policy: Policy) -> Failure:
    """What the client is told when there were too many tries."""
    told = "; ".join(operation.failures)
    return Failure(
        code,
        f"gave up after {operation.attempts} failed tries "
        f"(max_job_retries is {policy.max_job_retries}): {told}",
    )
