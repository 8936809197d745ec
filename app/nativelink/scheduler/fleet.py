"""The workers: they join, get work, fall silent, come back, are told to stop things, leave."""

from __future__ import annotations

from typing import Final

from nativelink.core.errors import Code
from nativelink.scheduler.effects import KillExecution, WorkerEvicted, WorkerQuarantined
from nativelink.scheduler.events import WorkerJoined
from nativelink.scheduler.journal import Journal
from nativelink.scheduler.lifecycle import Lifecycle
from nativelink.scheduler.matching import Matching
from nativelink.scheduler.operation import Failure
from nativelink.scheduler.outcomes import (
    Outcome,
    final_failure,
    judge,
    reason_of,
    with_fault,
)
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.properties import within
from nativelink.scheduler.records import Operation
from nativelink.scheduler.timers import Due, Timer, TimerKind
from nativelink.scheduler.tries import Tries
from nativelink.scheduler.workers import Lease, Worker

__all__ = ["Fleet"]

#: Between two workers that are looked at to be reserved.
_RESERVATION_INTERVAL_S: Final = 1.0


class Fleet:
    """All workers, and what their coming and going means for operations.

    Attributes:
        workers: connected ones, and lost ones that may come back, by id.
        numbers: how many workers ever joined.
        reservations_at: when a worker may be reserved again.
    """

    def __init__(
        self,
        policy: Policy,
        matching: Matching,
        due: Due,
        journal: Journal,
        lifecycle: Lifecycle,
    ) -> None:
        self.workers: dict[str, Worker] = {}
        self.numbers = 0
        self.reservations_at = 0.0
        self._policy = policy
        self._matching = matching
        self._due = due
        self._journal = journal
        self._lifecycle = lifecycle
        self._tries = Tries(policy, journal, lifecycle)

    # -- coming ---------------------------------------------------------------------------------

    def join(self, event: WorkerJoined) -> None:
        """A worker connected, or connected again.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for a `minimum` property that is no number.
        """
        now = self._journal.now
        offer = self._matching.rules.offer(event.properties)
        worker = self.workers.get(event.worker_id)
        lifecycle = self._lifecycle
        lifecycle.touches += 1
        if worker is None:
            self.numbers += 1
            worker = Worker(
                worker_id=event.worker_id,
                number=self.numbers,
                properties=event.properties,
                values=offer.values,
                totals=offer.totals,
                max_inflight_tasks=event.max_inflight_tasks,
                can_resume=event.can_resume,
                address=event.address,
                connected_at=now,
                last_seen_at=now,
                touched=lifecycle.touches,
            )
            self.workers[event.worker_id] = worker
        else:
            self._matching.release(worker)
            self._matching.remove_worker(worker)
            worker.properties = event.properties
            worker.values = offer.values
            worker.totals = offer.totals
            worker.max_inflight_tasks = event.max_inflight_tasks
            worker.can_resume = event.can_resume
            worker.address = event.address
            worker.connected_at = worker.last_seen_at = now
            worker.lost_at = None
            worker.paused = False
            worker.paused_until = None
            worker.recount()
        self._matching.add_worker(worker)
        missing = self._reconcile(worker, event.running)
        self._due.arm(
            Timer(TimerKind.WORKER, worker.worker_id), now + self._policy.worker_timeout_s
        )
        self._tries.hand_back(missing, f"{worker.worker_id} came back without it")
        self.feed(worker)

    def _reconcile(self, worker: Worker, running: tuple[str, ...]) -> list[Operation]:
        """Compare what a worker says that it runs with what it should run.

        Returns:
            what it should run, but does not.
        """
        missing: list[Operation] = []
        claimed = dict.fromkeys(running)
        for operation_id, lease in list(worker.leases.items()):
            if operation_id not in claimed:
                worker.give_back(operation_id)
                if lease.revoked_at is None:
                    missing.append(self._lifecycle.operations[operation_id])
                else:
                    self._lifecycle.unblock(operation_id, worker.worker_id)
        for operation_id in claimed:
            known = worker.leases.get(operation_id)
            if known is None:
                # Not its own, or not any more. It uses the worker up as long as it runs: all of
                # it if nobody knows any more what was asked for.
                operation = self._lifecycle.operations.get(operation_id)
                all_of_it = tuple([max(total, 0) for total in worker.totals])
                known = Lease(operation_id, operation.lane.usage if operation else all_of_it)
                worker.take(known)
                self.revoke(worker, known)
            elif known.revoked_at is not None:
                self._kill(worker, known)
            else:
                operation = self._lifecycle.operations[operation_id]
                self._journal.tell(operation, f"{worker.worker_id} came back with it")
        return missing

    # -- getting work ---------------------------------------------------------------------------

    def feed(self, worker: Worker) -> None:
        """Give a worker what waits and fits, until it has no room or nothing fits."""
        if worker.reserved_for is not None:
            self._serve_reservation(worker)
        matching = self._matching
        while matching.has_room(worker):
            operation = matching.operation_for(worker)
            if self._journal.now >= self.reservations_at and self._reserve(worker, operation):
                break
            if operation is None:
                break
            self._lifecycle.start(operation, worker)
        self._matching.publish(worker)

    def _serve_reservation(self, worker: Worker) -> None:
        """Start what a worker is kept free for, if there is room now."""
        lane = worker.reserved_for
        assert lane is not None
        first = lane.first()
        if not worker.is_open or first is None or lane.refuses(worker):
            self._matching.release(worker)
        elif within(lane.amounts, worker.free):
            self._lifecycle.start(first, worker)

    def _reserve(self, worker: Worker, instead: Operation | None) -> bool:
        """Keep a worker free for what would starve, rather than start `instead`.

        Where actions of different sizes meet on busy workers, small ones take every bit of room as
        soon as there is some, and a big one would wait for ever. At most one worker a second is
        looked at, so this costs nothing that counts.
        """
        now = self._journal.now
        if not worker.totals or not worker.leases:
            return False
        self.reservations_at = now + _RESERVATION_INTERVAL_S
        lane = self._matching.starving_for(worker, now - self._policy.reservation_after_s)
        first = None if lane is None else lane.first()
        if lane is None or first is None or (instead is not None and instead.key <= first.key):
            return False
        self._matching.reserve(worker, lane)
        self._journal.tell(first, f"{worker.worker_id} is kept free for it")
        return True

    def release(self, worker: Worker, lease: Lease) -> None:
        """A worker has an operation no more; `feed` must follow."""
        worker.give_back(lease.operation_id)
        worker.paused = False
        worker.paused_until = None
        if lease.revoked_at is not None:
            self._lifecycle.unblock(lease.operation_id, worker.worker_id)

    def fail(self, worker: Worker, lease: Lease, operation: Operation, failure: Failure) -> None:
        """A worker could not execute the operation that it has."""
        was_probe = worker.probe == operation.operation_id
        self.release(worker, lease)
        if failure.code is Code.RESOURCE_EXHAUSTED and not worker.draining:
            self._pause(worker)
        match judge(failure, worker, lease):
            case Outcome.NO_ROOM:
                self._tries.turn_away(operation, worker, failure)
            case Outcome.HANDED_BACK:
                self._tries.hand_back([operation], f"handed back, {reason_of(failure)}")
            case Outcome.FINAL:
                self._lifecycle.complete(
                    operation,
                    f"{worker.worker_id} failed, as any would: {reason_of(failure)}",
                    failure=final_failure(failure),
                )
            case Outcome.TRY_AGAIN:
                operation.faults = with_fault(operation.faults, worker)
                # What it had before it was quarantined, and fails together, is no further trial.
                if was_probe:
                    self._quarantine(worker, f"it failed again, {reason_of(failure)}")
                self._tries.fail(operation, worker, failure)

    def acquit(self, worker: Worker) -> None:
        """A worker gave a result: it has room, and can do its work."""
        worker.results += 1
        worker.pauses = worker.faults = worker.quarantines = 0
        worker.quarantined = False
        worker.probe = ""
        worker.quarantined_until = None

    def blame(self, operation: Operation, by: Worker) -> None:
        """A worker gave a result of an operation: it was others' fault that it failed there.

        What fails everywhere is nobody's fault, so neither a bad action nor a cache that is down
        can have a fleet quarantined. Nor is it held against who gave a result since: what was wrong
        there has passed.
        """
        limit = self._policy.quarantine_after
        for fault in operation.faults:
            worker = self.workers.get(fault.worker_id)
            if worker is None or worker is by:
                continue
            if worker.results == fault.results:
                worker.faults += 1
                if limit and worker.faults >= limit and not worker.quarantined:
                    self._quarantine(
                        worker,
                        f"{worker.faults} actions in a row failed there and went well elsewhere",
                    )
        operation.faults = ()

    def _quarantine(self, worker: Worker, reason: str) -> None:
        """Give a worker nothing for a while, and then one operation at a time."""
        policy = self._policy
        # The exponent is bounded, as numbers of the power of thousands are none any more.
        length = policy.quarantine_s * 2.0 ** min(worker.quarantines, 32)
        length = min(length, policy.longest_quarantine_s)
        worker.quarantined = True
        worker.quarantines += 1
        worker.quarantined_until = self._journal.now + length
        self._journal.effects.append(WorkerQuarantined(worker.worker_id, length, reason))
        self._matching.release(worker)
        self._due.arm(Timer(TimerKind.QUARANTINE, worker.worker_id), worker.quarantined_until)
        self._matching.publish(worker)

    def end_quarantine(self, worker: Worker) -> None:
        """A worker is to be tried again."""
        worker.quarantined_until = None
        self.feed(worker)

    def _pause(self, worker: Worker) -> None:
        """Give a worker nothing until something ends there, or for a while if it has nothing."""
        policy = self._policy
        worker.paused = True
        self._matching.release(worker)
        if not worker.leases:
            # The exponent is bounded, as numbers of the power of thousands are none any more.
            length = policy.backpressure_pause_s * 2.0 ** min(worker.pauses, 32)
            worker.pauses += 1
            worker.paused_until = self._journal.now + min(length, policy.longest_pause_s)
            self._due.arm(Timer(TimerKind.PAUSE, worker.worker_id), worker.paused_until)
        self._matching.publish(worker)

    # -- stopping things ------------------------------------------------------------------------

    def revoke(self, worker: Worker, lease: Lease) -> None:
        """An operation is not the worker's any more, though it still has it."""
        lease.revoked_at = self._journal.now
        self._lifecycle.block(lease.operation_id, worker.worker_id)
        self._kill(worker, lease)

    def _kill(self, worker: Worker, lease: Lease) -> None:
        if self._policy.kill_revoked:
            lease.killed_at = self._journal.now
            self._journal.effects.append(KillExecution(worker.worker_id, lease.operation_id))
            due = self.kill_at(worker, lease.operation_id)
            if due is not None:
                self._due.arm(Timer(TimerKind.KILL, worker.worker_id, lease.operation_id), due)

    def kill_again(self, worker: Worker, operation_id: str) -> None:
        """A worker did not answer an order to stop something."""
        lease = worker.leases[operation_id]
        assert lease.revoked_at is not None
        limit = self._policy.unacknowledged_kill_timeout_s
        if self._journal.now >= lease.revoked_at + limit:
            self.evict(worker, f"did not stop {operation_id} within {limit:g} s")
        else:
            self._kill(worker, lease)

    def stop(self, operation: Operation) -> None:
        """Whoever has this operation is to stop it; it was COMPLETED just now."""
        worker = self.workers.get(operation.worker_id)
        lease = None if worker is None else worker.leases.get(operation.operation_id)
        if worker is not None and lease is not None and lease.revoked_at is None:
            self.revoke(worker, lease)

    def take_away(self, operation: Operation) -> None:
        """A worker has had an operation for too long."""
        worker = self.workers[operation.worker_id]
        lease = worker.leases[operation.operation_id]
        limit = self._policy.max_action_executing_timeout_s
        failure = Failure(
            Code.DEADLINE_EXCEEDED,
            f"no result within {limit:g} s (max_action_executing_timeout_s)",
        )
        # First, so that it does not get it again at once.
        lease.revoked_at = self._journal.now
        self._lifecycle.block(operation.operation_id, worker.worker_id)
        self._tries.fail(operation, worker, failure)
        self._kill(worker, lease)

    # -- going ----------------------------------------------------------------------------------

    def lose(self, worker: Worker) -> None:
        """A worker's connection broke."""
        if worker.can_resume:
            worker.lost_at = self._journal.now
            self._matching.release(worker)
            self._matching.publish(worker)
            self._due.arm(
                Timer(TimerKind.WORKER, worker.worker_id),
                self._journal.now + self._policy.worker_timeout_s,
            )
        else:
            self._remove(worker, "its connection broke", died=True)

    def leave(self, worker: Worker) -> None:
        """A worker said goodbye."""
        self._remove(worker, "it left", died=False)

    def evict(self, worker: Worker, reason: str, *, died: bool = False) -> None:
        """A worker is not wanted any more."""
        self._journal.effects.append(WorkerEvicted(worker.worker_id, reason))
        self._remove(worker, reason, died=died)

    def expire(self, worker: Worker) -> None:
        """A worker was silent, or away, for too long."""
        limit = self._policy.worker_timeout_s
        if worker.lost_at is None:
            self.evict(worker, f"it was silent for {limit:g} s", died=True)
        else:
            self.evict(worker, f"it did not come back within {limit:g} s", died=True)

    def _remove(self, worker: Worker, why: str, *, died: bool) -> None:
        del self.workers[worker.worker_id]
        self._matching.release(worker)
        self._matching.remove_worker(worker)
        lifecycle = self._lifecycle
        held: list[Operation] = []
        for lease in worker.leases.values():
            if lease.revoked_at is None:
                held.append(lifecycle.operations[lease.operation_id])
            else:
                lifecycle.unblock(lease.operation_id, worker.worker_id)
        self._tries.lose(held, worker, f"lost {worker.worker_id}, {why}", died=died)

    def drain(self, worker: Worker, *, draining: bool) -> None:
        """Give a worker nothing new, or give it something again."""
        self._matching.set_draining(worker, draining=draining)
        self.feed(worker)

    def unpause(self, worker: Worker) -> None:
        """A worker has had its rest."""
        worker.paused = False
        worker.paused_until = None
        self.feed(worker)

    # -- when what is due -----------------------------------------------------------------------

    def worker_at(self, worker: Worker) -> float:
        """When a worker has been silent, or away, for too long."""
        since = worker.last_seen_at if worker.lost_at is None else worker.lost_at
        return since + self._policy.worker_timeout_s

    def kill_at(self, worker: Worker, operation_id: str) -> float | None:
        """When a worker is to be told again to stop something, or has been told long enough."""
        lease = worker.leases.get(operation_id)
        if lease is None or lease.revoked_at is None or lease.killed_at is None:
            return None
        if worker.lost_at is not None:
            return None
        return min(
            lease.killed_at + self._policy.kill_interval_s,
            lease.revoked_at + self._policy.unacknowledged_kill_timeout_s,
        )
