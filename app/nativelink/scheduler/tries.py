"""Tries of operations that brought no result: counted or not, and again or for the last time."""

from __future__ import annotations

from nativelink.core.errors import Code
from nativelink.scheduler.effects import AttemptEnded
from nativelink.scheduler.journal import Journal
from nativelink.scheduler.lifecycle import Lifecycle
from nativelink.scheduler.operation import Failure
from nativelink.scheduler.outcomes import (
    gave_up,
    reason_of,
    remembered,
    turned_away,
    with_worker,
)
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.records import Operation
from nativelink.scheduler.workers import Worker

__all__ = ["Tries"]


class Tries:
    """Ends tries. What the worker had is given back before.

    Every method leaves the operations QUEUED, EXECUTING somewhere else, or COMPLETED.
    """

    def __init__(self, policy: Policy, journal: Journal, lifecycle: Lifecycle) -> None:
        self._policy = policy
        self._journal = journal
        self._lifecycle = lifecycle

    def hand_back(self, operations: list[Operation], why: str) -> None:
        """Tries ended for reasons that are not the operations'."""
        self._queue_again(operations, why, counted=False)

    def turn_away(self, operation: Operation, worker: Worker, failure: Failure) -> None:
        """A worker had no room for an operation, and did not run it."""
        now = self._journal.now
        reason = reason_of(failure)
        assert operation.started_at is not None
        waited_s = operation.started_at - operation.waiting_since
        if operation.refused_since is None or waited_s > 2 * self._policy.longest_pause_s:
            # All were busy in between, which is no lack of room.
            operation.refusals = 0
            operation.refused_since = now
        operation.refusals += 1
        operation.failures = remembered(operation, worker.worker_id, failure)
        operation.failed_on = with_worker(operation.failed_on, worker.worker_id)
        final = turned_away(operation, self._policy, now)
        if final is None:
            self.hand_back([operation], reason)
        else:
            self._ended(operation, reason, counted=False)
            self._lifecycle.complete(
                operation,
                f"turned away by {worker.worker_id}, for too long: {reason}",
                failure=final,
            )

    def fail(self, operation: Operation, worker: Worker, failure: Failure) -> None:
        """A try failed in a way that may go better next time."""
        operation.attempts += 1
        operation.failures = remembered(operation, worker.worker_id, failure)
        operation.failed_on = with_worker(operation.failed_on, worker.worker_id)
        reason = reason_of(failure)
        if operation.attempts > self._policy.max_job_retries:
            self._ended(operation, reason, counted=True)
            self._lifecycle.complete(
                operation,
                f"failed on {worker.worker_id}, once too often: {reason}",
                failure=gave_up(operation, failure.code, self._policy),
            )
        else:
            self._queue_again([operation], reason, counted=True)

    def lose(self, held: list[Operation], worker: Worker, why: str, *, died: bool) -> None:
        """A worker is gone with what it had."""
        again: list[Operation] = []
        for operation in held:
            if died and not worker.draining and self._is_murderer(operation, worker):
                self._ended(operation, why, counted=True)
                self._lifecycle.complete(
                    operation,
                    f"{why}; too many workers died while they ran it",
                    failure=Failure(
                        Code.ABORTED,
                        f"given up: {len(operation.deaths)} workers died while they ran this "
                        f"action ({', '.join(operation.deaths)}); if it was not the action that "
                        "brought them down, try again",
                    ),
                )
            else:
                again.append(operation)
        self._queue_again(again, why, counted=False)

    def _is_murderer(self, operation: Operation, worker: Worker) -> bool:
        """Whether too many workers died while they ran it, this one being one more."""
        if worker.worker_id not in operation.deaths:
            operation.deaths = (*operation.deaths, worker.worker_id)
        return len(operation.deaths) >= self._policy.max_worker_deaths

    def _queue_again(
        self,
        operations: list[Operation],
        why: str,
        *,
        counted: bool,
    ) -> None:
        operations.sort(key=lambda operation: operation.key)
        for operation in operations:
            self._ended(operation, why, counted=counted)
            self._lifecycle.queue_again(operation, why)
        for operation in operations:
            self._lifecycle.place(operation)

    def _ended(self, operation: Operation, reason: str, *, counted: bool) -> None:
        self._journal.effects.append(
            AttemptEnded(operation.operation_id, operation.worker_id, reason, counted)
        )
