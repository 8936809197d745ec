"""The scheduler as a pure state machine: an event in, effects out.

There is no clock, no I/O, no task and no randomness here: the time comes with each event, ids are
in it. So the same events lead to the same effects, whoever handles them: a simulation, one
process, or another one that goes on from a snapshot and a log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from nativelink.core.errors import Code
from nativelink.scheduler import events
from nativelink.scheduler.effects import Effect, KillExecution
from nativelink.scheduler.events import Event
from nativelink.scheduler.fleet import Fleet
from nativelink.scheduler.invariants import Invariants
from nativelink.scheduler.journal import Journal
from nativelink.scheduler.lifecycle import Lifecycle
from nativelink.scheduler.matching import Matching
from nativelink.scheduler.operation import ExecutionStage, Failure, OperationView, StoryEntry
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.pools import Pools, PoolStatistics
from nativelink.scheduler.recorder import SchedulerStatistics
from nativelink.scheduler.records import Operation
from nativelink.scheduler.scheduler import WorkerView
from nativelink.scheduler.statistics import statistics
from nativelink.scheduler.timers import Due, Timer, TimerKind
from nativelink.scheduler.workers import Lease, Worker

__all__ = ["Machine"]


class Machine:
    """Queues operations, gives them to workers, follows both to their ends.

    `handle` alone changes anything. An event that does not fit, and that a peer may have caused
    (a result for an operation that the worker does not have, a name that was forgotten), changes
    nothing but is answered with what brings the peer back in step; one that only a defect of the
    driver can cause raises `IllegalEventError`.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy: Final = policy
        self.matching: Final = Matching(policy)
        self.due: Final = Due()
        self.journal: Final = Journal()
        self.lifecycle: Final = Lifecycle(policy, self.matching, self.due, self.journal)
        self.fleet: Final = Fleet(policy, self.matching, self.due, self.journal, self.lifecycle)
        self._handlers: Final[Mapping[type[Event], Callable[[Any], None]]] = {
            events.ExecuteRequested: self._execute_requested,
            events.ClientAttached: self._client_attached,
            events.ClientDetached: self._client_detached,
            events.OperationRead: self._operation_read,
            events.CancelRequested: self._cancel_requested,
            events.DeleteRequested: self._delete_requested,
            events.WorkerJoined: self.fleet.join,
            events.WorkerSeen: self._worker_seen,
            events.WorkerLost: self._worker_lost,
            events.WorkerLeft: self._worker_left,
            events.DrainRequested: self._drain_requested,
            events.ProcessEnded: self._process_ended,
            events.ExecutionFinished: self._execution_finished,
            events.ExecutionFailed: self._execution_failed,
            events.Tick: self._tick,
        }

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What is to be done about an event.

        Args:
            event: what happened.
            now: when, in seconds since the Unix epoch; never less than before.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for a `minimum` property that is no number; nothing
                was changed.
            IllegalEventError: a defect of the caller, or of the machine.
        """
        journal = self.journal
        journal.begin(event, now)
        self._handlers[type(event)](event)
        matching = self.matching
        while matching.reassessed or matching.released:
            # What follows from this event elsewhere; it may bring about more of the same.
            for lane in matching.take_reassessed():
                self.lifecycle.settle(lane)
            for worker in matching.take_released():
                self.fleet.feed(worker)
        return journal.effects

    def next_deadline(self) -> float | None:
        """When the next Tick is needed at the latest; None if nothing will become due."""
        return self.due.earliest

    # -- to be looked at ------------------------------------------------------------------------

    def view(self, name: str) -> OperationView | None:
        """An operation as it is now; None if the name means nothing."""
        record = self.lifecycle.names.get(name)
        return None if record is None else self.lifecycle.view(record)

    def views(self, *, since: float = 0.0) -> Iterator[OperationView]:
        """All names' operations, the oldest first, without those asked for before `since`.

        To be taken before the next event.
        """
        for operation in self.lifecycle.operations.values():
            if operation.queued_at >= since:
                yield from map(self.lifecycle.view, operation.names)

    def operation(self, operation_id: str) -> OperationView | None:
        """An operation as the first of those who asked for it sees it."""
        operation = self.lifecycle.operations.get(operation_id)
        return None if operation is None else self.lifecycle.view(next(iter(operation.names)))

    @property
    def known(self) -> int:
        """How many names mean something."""
        return len(self.lifecycle.names)

    @property
    def queued(self) -> int:
        """How many operations wait."""
        return self.matching.waiting

    def statistics(self) -> SchedulerStatistics:
        """How much waits, runs and is there to run it; looks at lanes and workers."""
        return statistics(self.matching, self.fleet, self.journal.counts)

    def pool_statistics(self, pools: Pools, now: float) -> Sequence[PoolStatistics]:
        """The same by pools; looks at lanes and workers."""
        return pools.statistics(self.matching, self.fleet.workers.values(), now)

    def has_worker(self, worker_id: str) -> bool:
        """Whether a worker is connected, or lost for so short a time that it may come back."""
        return worker_id in self.fleet.workers

    def workers(self) -> Sequence[WorkerView]:
        """All workers, by id."""
        return [worker.view() for _, worker in sorted(self.fleet.workers.items())]

    def story(self, operation_id: str) -> Sequence[StoryEntry]:
        """What happened to an operation and why; empty if there is none of this id."""
        operation = self.lifecycle.operations.get(operation_id)
        return () if operation is None else [StoryEntry(*entry) for entry in operation.story]

    def check_invariants(self) -> None:
        """Look whether everything is as it must be between two events; for tests.

        Raises:
            BrokenInvariantError: a defect of the machine.
        """
        Invariants(
            self.policy,
            self.matching,
            self.due,
            self.journal,
            self.lifecycle,
            self.fleet,
            self._deadlines,
        ).check()

    # -- clients --------------------------------------------------------------------------------

    def _execute_requested(self, event: events.ExecuteRequested) -> None:
        self.lifecycle.request(event.name, event.operation_id, event.action)

    def _client_attached(self, event: events.ClientAttached) -> None:
        name = self.lifecycle.names.get(event.name)
        if name is not None:
            self.lifecycle.attach(name)

    def _client_detached(self, event: events.ClientDetached) -> None:
        name = self.lifecycle.names.get(event.name)
        if name is not None:
            self.lifecycle.detach(name)

    def _operation_read(self, event: events.OperationRead) -> None:
        name = self.lifecycle.names.get(event.name)
        if name is not None:
            self.lifecycle.read(name)

    def _cancel_requested(self, event: events.CancelRequested) -> None:
        name = self.lifecycle.names.get(event.name)
        if name is None or name.cancelled_at is not None:
            return
        if name.operation.stage is ExecutionStage.COMPLETED:
            return
        if self.lifecycle.withdraw(name):
            self._give_up(
                name.operation, "cancelled", Failure(Code.CANCELLED, "cancelled by the client")
            )

    def _delete_requested(self, event: events.DeleteRequested) -> None:
        name = self.lifecycle.names.get(event.name)
        if name is not None and self.lifecycle.is_over(name):
            self.lifecycle.forget(name)

    def _give_up(self, operation: Operation, why: str, failure: Failure) -> None:
        """Nobody wants an operation any more."""
        executing = operation.stage is ExecutionStage.EXECUTING
        self.lifecycle.complete(operation, why, failure=failure)
        if executing:
            self.fleet.stop(operation)

    # -- workers --------------------------------------------------------------------------------

    def _seen(self, worker_id: str) -> Worker | None:
        worker = self.fleet.workers.get(worker_id)
        if worker is not None:
            worker.last_seen_at = self.journal.now
        return worker

    def _worker_seen(self, event: events.WorkerSeen) -> None:
        self._seen(event.worker_id)

    def _worker_lost(self, event: events.WorkerLost) -> None:
        worker = self.fleet.workers.get(event.worker_id)
        if worker is not None and worker.lost_at is None:
            self.fleet.lose(worker)

    def _worker_left(self, event: events.WorkerLeft) -> None:
        worker = self.fleet.workers.get(event.worker_id)
        if worker is not None:
            self.fleet.leave(worker)

    def _drain_requested(self, event: events.DrainRequested) -> None:
        worker = self.fleet.workers.get(event.worker_id)
        if worker is not None:
            self.fleet.drain(worker, draining=event.draining)

    def _lease(self, worker_id: str, operation_id: str) -> tuple[Worker, Lease] | None:
        """What a worker speaks of, if it has it."""
        worker = self._seen(worker_id)
        lease = None if worker is None else worker.leases.get(operation_id)
        return None if worker is None or lease is None else (worker, lease)

    def _process_ended(self, event: events.ProcessEnded) -> None:
        found = self._lease(event.worker_id, event.operation_id)
        if found is None:
            # It runs something that it should not: it is to forget it.
            self.journal.effects.append(KillExecution(event.worker_id, event.operation_id))
            return
        worker, lease = found
        worker.end_process(lease)
        if lease.revoked_at is None:
            operation = self.lifecycle.operations[lease.operation_id]
            self.journal.tell(operation, f"its process ended on {worker.worker_id}")
        self.fleet.feed(worker)

    def _execution_finished(self, event: events.ExecutionFinished) -> None:
        found = self._lease(event.worker_id, event.operation_id)
        if found is None:
            return
        worker, lease = found
        self.fleet.release(worker, lease)
        self.fleet.acquit(worker)
        if lease.revoked_at is None:
            operation = self.lifecycle.operations[lease.operation_id]
            self.lifecycle.complete(
                operation,
                f"{worker.worker_id} finished it, exit code {event.exit_code}",
                response=event.response,
            )
            if operation.faults:
                self.fleet.blame(operation, worker)
        self.fleet.feed(worker)

    def _execution_failed(self, event: events.ExecutionFailed) -> None:
        found = self._lease(event.worker_id, event.operation_id)
        if found is None:
            return
        worker, lease = found
        if lease.revoked_at is None:
            operation = self.lifecycle.operations[lease.operation_id]
            self.fleet.fail(worker, lease, operation, event.failure)
        else:
            self.fleet.release(worker, lease)
        self.fleet.feed(worker)

    # -- time -----------------------------------------------------------------------------------

    def _tick(self, _: events.Tick) -> None:
        for timer in self.due.take(self.journal.now, self._really_due):
            # What was done about those before it may have settled it.
            due = self._really_due(timer)
            if due is not None:
                if due <= self.journal.now:
                    self._expire(timer)
                    due = self._really_due(timer)
                if due is not None:
                    self.due.arm(timer, due)

    def arm_everything(self) -> None:
        """Arm every timer that follows from the state, for a machine that was restored."""
        for timer, at in self._deadlines():
            self.due.arm(timer, at)

    def _deadlines(self) -> Iterator[tuple[Timer, float]]:
        """Everything that will be due as things are."""
        fleet, lifecycle = self.fleet, self.lifecycle
        for name, worker in fleet.workers.items():
            yield Timer(TimerKind.WORKER, name), fleet.worker_at(worker)
            if worker.paused_until is not None:
                yield Timer(TimerKind.PAUSE, name), worker.paused_until
            if worker.quarantined_until is not None:
                yield Timer(TimerKind.QUARANTINE, name), worker.quarantined_until
            for lease in worker.leases:
                if (at := fleet.kill_at(worker, lease)) is not None:
                    yield Timer(TimerKind.KILL, name, lease), at
        for name, operation in lifecycle.operations.items():
            if (at := lifecycle.executing_at(operation)) is not None:
                yield Timer(TimerKind.EXECUTING, name), at
            if (at := lifecycle.clients_at(operation)) is not None:
                yield Timer(TimerKind.CLIENTS, name), at
            if (at := lifecycle.unschedulable_at(operation)) is not None:
                yield Timer(TimerKind.UNSCHEDULABLE, name), at
            for one in operation.names:
                if (at := lifecycle.retention_at(one)) is not None:
                    yield Timer(TimerKind.RETENTION, one.name), at

    def _really_due(self, timer: Timer) -> float | None:
        """When a timer is due as things are, or None if not at all."""
        match timer.kind:
            case TimerKind.WORKER | TimerKind.KILL | TimerKind.PAUSE | TimerKind.QUARANTINE:
                worker = self.fleet.workers.get(timer.subject)
                if worker is None:
                    return None
                if timer.kind is TimerKind.WORKER:
                    return self.fleet.worker_at(worker)
                if timer.kind is TimerKind.PAUSE:
                    return worker.paused_until
                if timer.kind is TimerKind.QUARANTINE:
                    return worker.quarantined_until
                return self.fleet.kill_at(worker, timer.object)
            case TimerKind.RETENTION:
                name = self.lifecycle.names.get(timer.subject)
                return None if name is None else self.lifecycle.retention_at(name)
            case TimerKind.EXECUTING | TimerKind.CLIENTS | TimerKind.UNSCHEDULABLE:
                operation = self.lifecycle.operations.get(timer.subject)
                if operation is None:
                    return None
                if timer.kind is TimerKind.EXECUTING:
                    return self.lifecycle.executing_at(operation)
                if timer.kind is TimerKind.CLIENTS:
                    return self.lifecycle.clients_at(operation)
                return self.lifecycle.unschedulable_at(operation)

    def _expire(self, timer: Timer) -> None:
        """Do what is due."""
        match timer.kind:
            case TimerKind.WORKER:
                self.fleet.expire(self.fleet.workers[timer.subject])
            case TimerKind.KILL:
                self.fleet.kill_again(self.fleet.workers[timer.subject], timer.object)
            case TimerKind.PAUSE:
                self.fleet.unpause(self.fleet.workers[timer.subject])
            case TimerKind.QUARANTINE:
                self.fleet.end_quarantine(self.fleet.workers[timer.subject])
            case TimerKind.EXECUTING:
                self.fleet.take_away(self.lifecycle.operations[timer.subject])
            case TimerKind.CLIENTS:
                limit = self.policy.client_action_timeout_s
                # Not DEADLINE_EXCEEDED, as NativeLink says: to a client that comes back that
                # means that the action took too long (REAPI v2), and it does not ask again.
                self._give_up(
                    self.lifecycle.operations[timer.subject],
                    "given up: nobody follows it any more",
                    Failure(
                        Code.UNAVAILABLE,
                        f"no client followed this operation for {limit:g} s; ask for the action "
                        "again",
                    ),
                )
            case TimerKind.UNSCHEDULABLE:
                self.lifecycle.fail_unschedulable(self.lifecycle.operations[timer.subject])
            case TimerKind.RETENTION:
                self.lifecycle.forget(self.lifecycle.names[timer.subject])
