"""What is true of a machine between two events. Slow and simple on purpose: for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from nativelink.scheduler.fleet import Fleet
from nativelink.scheduler.journal import Journal
from nativelink.scheduler.lifecycle import Lifecycle
from nativelink.scheduler.matching import Matching
from nativelink.scheduler.operation import ExecutionStage
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.properties import Amounts, within
from nativelink.scheduler.queue import Lane
from nativelink.scheduler.timers import Due, Timer
from nativelink.scheduler.workers import Worker

__all__ = ["BrokenInvariantError", "Invariants"]


class BrokenInvariantError(AssertionError):
    """A defect of the machine: it reached a state that cannot be."""


class Invariants:
    """Checks a machine's parts, each by itself and against the others."""

    def __init__(
        self,
        policy: Policy,
        matching: Matching,
        due: Due,
        journal: Journal,
        lifecycle: Lifecycle,
        fleet: Fleet,
        deadlines: Callable[[], Iterable[tuple[Timer, float]]],
    ) -> None:
        self._policy = policy
        self._matching = matching
        self._due = due
        self._journal = journal
        self._lifecycle = lifecycle
        self._fleet = fleet
        self._deadlines = deadlines

    def check(self) -> None:
        """Look at everything.

        Raises:
            BrokenInvariantError: naming what is not as it must be.
        """
        for what in chain(
            self._check_operations(),
            self._check_names(),
            self._check_lanes(),
            self._check_workers(),
            self._check_matching(),
            self._check_timers(),
        ):
            raise BrokenInvariantError(what)

    def _owners(self) -> dict[str, list[Worker]]:
        """Of each operation, the workers whose own it is."""
        owners: dict[str, list[Worker]] = {}
        for worker in self._fleet.workers.values():
            for lease in worker.leases.values():
                if lease.revoked_at is None:
                    owners.setdefault(lease.operation_id, []).append(worker)
        return owners

    def _check_operations(self) -> Iterator[str]:
        owners = self._owners()
        counts = dict.fromkeys(ExecutionStage, 0)
        for operation_id, operation in self._lifecycle.operations.items():
            stage = operation.stage
            counts[stage] += 1
            if operation.operation_id != operation_id:
                yield f"{operation_id} is filed wrongly"
            if not operation.names:
                yield f"{operation_id} has no name"
            wanted = followed = 0
            for name in operation.names:
                if name.cancelled_at is None:
                    wanted += 1
                    followed += name.clients > 0
            if operation.wanted != wanted or operation.followed != followed:
                yield f"{operation_id} is counted as wanted by others than its names"
            held_by = [worker.worker_id for worker in owners.pop(operation_id, [])]
            joinable = self._lifecycle.joinable.get(operation.action.key) is operation
            finished = operation.response is not None or operation.failure is not None
            match stage:
                case ExecutionStage.QUEUED:
                    if not operation.entry:
                        yield f"{operation_id} is QUEUED but does not wait"
                    if held_by:
                        yield f"{operation_id} is QUEUED but {held_by} have it"
                case ExecutionStage.EXECUTING:
                    if operation.entry:
                        yield f"{operation_id} is EXECUTING but waits"
                    if held_by != [operation.worker_id]:
                        yield f"{operation_id} is on {operation.worker_id}, but {held_by} have it"
                case ExecutionStage.COMPLETED:
                    if operation.entry:
                        yield f"{operation_id} is COMPLETED but waits"
                    if held_by:
                        yield f"{operation_id} is COMPLETED but {held_by} have it"
                    if (operation.response is None) == (operation.failure is None):
                        yield f"{operation_id} is COMPLETED and has not one of response and failure"
                    if operation.finished_at is None:
                        yield f"{operation_id} ended at no time"
                case _:
                    yield f"{operation_id} is in stage {stage.name}"
            if stage is not ExecutionStage.COMPLETED:
                if finished:
                    yield f"{operation_id} has an end but is {stage.name}"
                if joinable != operation.action.joinable:
                    yield f"{operation_id} can be joined or not: {joinable}"
                if not operation.wanted:
                    yield f"{operation_id} is wanted by nobody but goes on"
            elif joinable:
                yield f"{operation_id} is COMPLETED but can be joined"
        if owners:
            yield f"workers have operations that are not there: {sorted(owners)}"
        for stage, count in counts.items():
            if stage is not ExecutionStage.UNKNOWN:
                told = self._journal.counts[stage]
                if told != count:
                    yield f"{count} operations are {stage.name}, counted as {told}"

        blocked = {
            (lease.operation_id, worker.worker_id)
            for worker in self._fleet.workers.values()
            for lease in worker.leases.values()
            if lease.revoked_at is not None
        }
        known = {(each, who) for each, whose in self._lifecycle.blocked.items() for who in whose}
        if blocked != known:
            yield f"{blocked} are blocked, not {known}"

    def _check_names(self) -> Iterator[str]:
        named = {name.name for each in self._lifecycle.operations.values() for name in each.names}
        if named != set(self._lifecycle.names):
            yield "names and operations differ"
        for text, name in self._lifecycle.names.items():
            if name not in name.operation.names:
                yield f"{text} is no name of its operation"
            if name.clients < 0:
                yield f"{text} has {name.clients} clients"

    def _check_lanes(self) -> Iterator[str]:
        waiting = 0
        members: dict[Lane, int] = {}
        for operation in self._lifecycle.operations.values():
            if operation.stage is not ExecutionStage.COMPLETED:
                members[operation.lane] = members.get(operation.lane, 0) + 1
            if operation.entry:
                waiting += 1
                blocked = self._lifecycle.blocked.get(operation.operation_id, ())
                if operation.lane.blocked != tuple(sorted(blocked)):
                    yield f"{operation.operation_id} may go to where it still runs"
                if operation.lane.waiting.get(operation.operation_id) is not operation:
                    yield f"{operation.operation_id} does not wait in its lane"
        if waiting != self._matching.waiting:
            yield f"{waiting} wait, not {self._matching.waiting}"
        lanes = list(self._matching.lanes())
        if not set(members) <= set(lanes):
            yield "an operation's lane was dropped"
        if sum(len(lane.waiting) for lane in lanes) != waiting:
            yield "lanes hold what does not wait"
        for lane in lanes:
            if lane.members != members.get(lane, 0):
                yield "a lane's members are miscounted"
            first = min(each.key for each in lane.waiting.values()) if lane.waiting else None
            shown = lane.first()
            if (None if shown is None else shown.key) != first:
                yield "a lane's first operation is not its first"

    def _check_workers(self) -> Iterator[str]:
        for worker_id, worker in self._fleet.workers.items():
            used = [0] * len(worker.totals)
            for operation_id, lease in worker.leases.items():
                if lease.operation_id != operation_id:
                    yield f"{worker_id}: a lease is filed wrongly"
                if not lease.process_ended:
                    used = [a + b for a, b in zip(used, lease.usage, strict=True)]
            finishing = sum(lease.process_ended for lease in worker.leases.values())
            if finishing != worker.finishing:
                yield f"{worker_id}: {finishing} are finishing, not {worker.finishing}"
            if used != worker.used:
                yield f"{worker_id}: {used} is used, not {worker.used}"
            free = _free(worker.totals, used)
            if free != worker.free:
                yield f"{worker_id}: {free} is free, not {worker.free}"
            if worker.paused_until and not worker.paused:
                yield f"{worker_id} is to end no pause"
            if worker.paused and not worker.paused_until and not worker.leases:
                yield f"{worker_id} is paused for ever"
            if worker.quarantined_until is not None and not worker.quarantined:
                yield f"{worker_id} is to end no quarantine"
            if worker.quarantined and not worker.faults:
                yield f"{worker_id} is quarantined for nothing"
            yield from self._check_probe(worker)
            lane = worker.reserved_for
            if lane is not None and (lane.reserved is not worker or not lane.waiting):
                yield f"{worker_id} is reserved for nothing"
            if lane is not None and not worker.is_open and not worker.leases:
                yield f"{worker_id} is reserved, though it may get nothing"
            kind = worker.kind
            if kind is None or kind.workers.get(worker_id) is not worker:
                yield f"{worker_id} is of no kind"

    def _check_probe(self, worker: Worker) -> Iterator[str]:
        """A quarantined worker is tried, at the latest, when its longest quarantine ends."""
        until = worker.quarantined_until
        longest = self._policy.longest_quarantine_s
        if until is not None and until > self._journal.now + longest:
            yield f"{worker.worker_id} is not tried before {until}"
        if worker.probe:
            if worker.probe not in worker.leases:
                yield f"{worker.worker_id} is tried with what it does not have"
            if not worker.quarantined or until is not None:
                yield f"{worker.worker_id} is tried, though it is not the time"

    def _check_matching(self) -> Iterator[str]:
        """Nothing waits that a worker could run now; who could run what is known."""
        ready = [worker for worker in self._fleet.workers.values() if not worker.draining]
        for platform in self._matching.platforms.values():
            meeting = [worker for worker in ready if platform.terms.met_by(worker.values)]
            for lane in platform.lanes.values():
                able = [worker for worker in meeting if within(lane.amounts, worker.totals)]
                yield from self._check_lane(lane, able)

    def _check_lane(self, lane: Lane, able: list[Worker]) -> Iterator[str]:
        if lane.capable != bool(able):
            yield f"{lane.platform.terms} {lane.amounts}: capable {lane.capable}"
        avoided = lane.avoided
        choosy = bool(avoided) and any(worker.worker_id not in avoided for worker in able)
        if lane.choosy != choosy:
            yield f"{lane.platform.terms} {lane.amounts}: choosy {lane.choosy}"
        if not lane.waiting:
            return
        if bool(lane.told) == lane.capable:
            yield f"told {lane.told!r}"
        for worker in able:
            room = worker.is_open and worker.reserved_for is None
            fits = room and within(lane.amounts, worker.free)
            if fits and not lane.refuses(worker):
                yield f"{next(iter(lane.waiting))} waits though {worker.worker_id} has room"

    def _check_timers(self) -> Iterator[str]:
        """Whatever is due some time has a timer that is not later."""
        for timer, at in self._deadlines():
            armed = self._due.armed(timer)
            if armed is None or armed > at:
                yield f"{timer} is due at {at}, armed for {armed}"


def _free(totals: Amounts, used: list[int]) -> Amounts:
    return tuple(
        [max(total - taken, min(total, 0)) for total, taken in zip(totals, used, strict=True)]
    )
