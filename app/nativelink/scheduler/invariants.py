"""What is true of a machine between two events. Slow and simple on purpose: for tests."""

from __future__ import annotations

from nativelink.scheduler.fleet import Fleet
from nativelink.scheduler.journal import Journal
from nativelink.scheduler.lifecycle import Lifecycle
from nativelink.scheduler.matching import Matching
from nativelink.scheduler.operation import ExecutionStage
from nativelink.scheduler.properties import Amounts, within
from nativelink.scheduler.queue import Lane
from nativelink.scheduler.timers import Due, Timer, TimerKind
from nativelink.scheduler.workers import Worker

__all__ = ["BrokenInvariantError", "Invariants"]


class BrokenInvariantError(AssertionError):
    """A defect of the machine: it reached a state that cannot be."""


class Invariants:
    """Checks a machine's parts, each by itself and against the others."""

    def __init__(
        self, matching: Matching, due: Due, journal: Journal, lifecycle: Lifecycle, fleet: Fleet
    ) -> None:
        self._matching = matching
        self._due = due
        self._journal = journal
        self._lifecycle = lifecycle
        self._fleet = fleet

    def check(self) -> None:
        """Look at everything.

        Raises:
            BrokenInvariantError: naming what is not as it must be.
        """
        self._check_operations()
        self._check_names()
        self._check_lanes()
        self._check_workers()
        self._check_matching()
        self._check_timers()

    @staticmethod
    def _must(condition: object, what: str) -> None:
        if not condition:
            raise BrokenInvariantError(what)

    def _owners(self) -> dict[str, list[Worker]]:
        """Of each operation, the workers whose own it is."""
        owners: dict[str, list[Worker]] = {}
        for worker in self._fleet.workers.values():
            for lease in worker.leases.values():
                if lease.revoked_at is None:
                    owners.setdefault(lease.operation_id, []).append(worker)
        return owners

    def _check_operations(self) -> None:
        must = self._must
        owners = self._owners()
        counts = dict.fromkeys(ExecutionStage, 0)
        for operation_id, operation in self._lifecycle.operations.items():
            stage = operation.stage
            counts[stage] += 1
            must(operation.operation_id == operation_id, f"{operation_id} is filed wrongly")
            must(operation.names, f"{operation_id} has no name")
            held_by = [worker.worker_id for worker in owners.pop(operation_id, [])]
            joinable = self._lifecycle.joinable.get(operation.action.key) is operation
            finished = operation.response is not None or operation.failure is not None
            match stage:
                case ExecutionStage.QUEUED:
                    must(operation.entry, f"{operation_id} is QUEUED but does not wait")
                    must(not held_by, f"{operation_id} is QUEUED but {held_by} have it")
                case ExecutionStage.EXECUTING:
                    must(not operation.entry, f"{operation_id} is EXECUTING but waits")
                    must(
                        held_by == [operation.worker_id],
                        f"{operation_id} is EXECUTING on {operation.worker_id}, "
                        f"but {held_by} have it",
                    )
                case ExecutionStage.COMPLETED:
                    must(not operation.entry, f"{operation_id} is COMPLETED but waits")
                    must(not held_by, f"{operation_id} is COMPLETED but {held_by} have it")
                    must(
                        (operation.response is None) != (operation.failure is None),
                        f"{operation_id} is COMPLETED and has not one of response and failure",
                    )
                    must(operation.finished_at is not None, f"{operation_id} ended at no time")
                case _:
                    must(False, f"{operation_id} is in stage {stage.name}")
            if stage is not ExecutionStage.COMPLETED:
                must(not finished, f"{operation_id} has an end but is {stage.name}")
                must(
                    joinable == operation.action.joinable,
                    f"{operation_id} can be joined or not: {joinable}",
                )
                must(
                    any(name.cancelled_at is None for name in operation.names),
                    f"{operation_id} is wanted by nobody but goes on",
                )
            else:
                must(not joinable, f"{operation_id} is COMPLETED but can be joined")
        must(not owners, f"workers have operations that are not there: {sorted(owners)}")
        for stage, count in counts.items():
            if stage is not ExecutionStage.UNKNOWN:
                told = self._journal.counts[stage]
                must(told == count, f"{count} operations are {stage.name}, counted as {told}")

    def _check_names(self) -> None:
        named = {name.name for each in self._lifecycle.operations.values() for name in each.names}
        self._must(named == set(self._lifecycle.names), "names and operations differ")
        for text, name in self._lifecycle.names.items():
            self._must(name in name.operation.names, f"{text} is no name of its operation")
            self._must(name.clients >= 0, f"{text} has {name.clients} clients")

    def _check_lanes(self) -> None:
        must = self._must
        waiting = 0
        members: dict[Lane, int] = {}
        for operation in self._lifecycle.operations.values():
            if operation.stage is not ExecutionStage.COMPLETED:
                members[operation.lane] = members.get(operation.lane, 0) + 1
            if operation.entry:
                waiting += 1
                must(
                    operation.lane.waiting.get(operation.operation_id) is operation,
                    f"{operation.operation_id} does not wait in its lane",
                )
        must(waiting == self._matching.waiting, f"{waiting} wait, not {self._matching.waiting}")
        lanes = list(self._matching.lanes())
        must(set(members) <= set(lanes), "an operation's lane was dropped")
        must(sum(len(lane.waiting) for lane in lanes) == waiting, "lanes hold what does not wait")
        for lane in lanes:
            must(lane.members == members.get(lane, 0), "a lane's members are miscounted")
            first = min((each.key for each in lane.waiting.values()), default=None)
            shown = lane.first()
            must((shown and shown.key) == first, "a lane's first operation is not its first")

    def _check_workers(self) -> None:
        must = self._must
        for worker_id, worker in self._fleet.workers.items():
            used = [0] * len(worker.totals)
            for operation_id, lease in worker.leases.items():
                must(lease.operation_id == operation_id, f"{worker_id}: a lease is filed wrongly")
                if not lease.process_ended:
                    used = [a + b for a, b in zip(used, lease.usage, strict=True)]
            must(used == worker.used, f"{worker_id}: {used} is used, not {worker.used}")
            free = _free(worker.totals, used)
            must(free == worker.free, f"{worker_id}: {free} is free, not {worker.free}")
            must(not worker.paused_until or worker.paused, f"{worker_id} is to end no pause")
            must(
                worker.paused_until or worker.leases or not worker.paused,
                f"{worker_id} is paused for ever",
            )
            kind = worker.kind
            must(
                kind is not None and kind.workers.get(worker_id) is worker,
                f"{worker_id} is of no kind",
            )

    def _check_matching(self) -> None:
        """Nothing waits that a worker could run now; who could run what is known."""
        must = self._must
        workers = self._fleet.workers.values()
        for lane in self._matching.lanes():
            terms = lane.platform.terms
            able = [
                worker
                for worker in workers
                if not worker.draining
                and terms.met_by(worker.values)
                and within(lane.amounts, worker.totals)
            ]
            must(lane.capable == bool(able), f"{terms} {lane.amounts}: capable {lane.capable}")
            others = [worker for worker in able if worker.worker_id not in lane.avoided]
            choosy = bool(lane.avoided and others)
            must(lane.choosy == choosy, f"{terms} {lane.amounts}: choosy {lane.choosy}")
            if not lane.waiting:
                continue
            must(lane.told == self._matching.reason(lane) or lane.told, "a hopeless lane is silent")
            must(bool(lane.told) == (not lane.capable), f"told {lane.told!r}")
            for worker in able:
                fits = worker.is_open and within(lane.amounts, worker.free)
                must(
                    not fits or lane.refuses(worker),
                    f"{next(iter(lane.waiting))} waits though {worker.worker_id} has room",
                )

    def _check_timers(self) -> None:
        """Whatever is due some time has a timer that is not later."""
        wanted: dict[Timer, float | None] = {}
        for worker in self._fleet.workers.values():
            subject = worker.worker_id
            wanted[Timer(TimerKind.WORKER, subject)] = self._fleet.worker_at(worker)
            wanted[Timer(TimerKind.PAUSE, subject)] = worker.paused_until
            for operation_id in worker.leases:
                at = self._fleet.kill_at(worker, operation_id)
                wanted[Timer(TimerKind.KILL, subject, operation_id)] = at
        lifecycle = self._lifecycle
        for operation in lifecycle.operations.values():
            subject = operation.operation_id
            wanted[Timer(TimerKind.EXECUTING, subject)] = lifecycle.executing_at(operation)
            wanted[Timer(TimerKind.CLIENTS, subject)] = lifecycle.clients_at(operation)
            wanted[Timer(TimerKind.UNSCHEDULABLE, subject)] = lifecycle.unschedulable_at(operation)
            for name in operation.names:
                wanted[Timer(TimerKind.RETENTION, name.name)] = lifecycle.retention_at(name)
        for timer, at in wanted.items():
            if at is not None:
                armed = self._due.armed(timer)
                self._must(
                    armed is not None and armed <= at, f"{timer} is due at {at}, armed for {armed}"
                )


def _free(totals: Amounts, used: list[int]) -> Amounts:
    return tuple(
        [max(total - taken, min(total, 0)) for total, taken in zip(totals, used, strict=True)]
    )
