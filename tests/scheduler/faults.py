"""Defects of the scheduler's machine, made on purpose: each is one that somebody might make.

The last ones are defects that it once had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import pytest

from nativelink.scheduler.effects import KillExecution
from nativelink.scheduler.fleet import Fleet
from nativelink.scheduler.lifecycle import Lifecycle
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.matching import Matching
from nativelink.scheduler.records import Name, Operation
from nativelink.scheduler.tries import Tries
from nativelink.scheduler.workers import Lease, Worker

__all__ = [
    "FAULTS",
    "Fault",
    "believes_in_new_ids",
    "counts_nothing_for_the_forgotten",
    "forgets_too_late_who_left",
    "strands_nobody_who_joins",
]

#: Brings a defect about, as long as the patch lasts.
Fault: TypeAlias = Callable[[pytest.MonkeyPatch], None]


def believes_anybody(patch: pytest.MonkeyPatch) -> None:
    """A result counts whoever sends it."""
    asked = Machine._lease

    def lease(self: Machine, worker_id: str, operation_id: str) -> tuple[Worker, Lease] | None:
        found = asked(self, worker_id, operation_id)
        worker = self.fleet.workers.get(worker_id)
        operation = self.lifecycle.operations.get(operation_id)
        if found is None and worker is not None and operation is not None and operation.entry:
            return worker, Lease(operation_id, operation.lane.usage)
        return found

    patch.setattr(Machine, "_lease", lease)


def leaks_resources(patch: pytest.MonkeyPatch) -> None:
    """What an operation used is not given back if its process had not been reported as ended."""

    def give_back(self: Worker, operation_id: str) -> Lease | None:
        return self.leases.pop(operation_id, None)

    patch.setattr(Worker, "give_back", give_back)


def cancels_for_all(patch: pytest.MonkeyPatch) -> None:
    """The first one who cancels decides for all who share the operation."""
    asked = Lifecycle.withdraw

    def withdraw(self: Lifecycle, name: Name) -> bool:
        asked(self, name)
        return True

    patch.setattr(Lifecycle, "withdraw", withdraw)


def counts_lost_workers(patch: pytest.MonkeyPatch) -> None:
    """The loss of a worker is a failed try of what it ran."""
    asked = Tries._queue_again

    def queue_again(self: Tries, operations: list[Operation], why: str, *, counted: bool) -> None:
        if why.startswith("lost"):
            for operation in operations:
                operation.attempts += 1
        asked(self, operations, why, counted=counted)

    patch.setattr(Tries, "_queue_again", queue_again)


def runs_twice(patch: pytest.MonkeyPatch) -> None:
    """What a worker still runs, though it is not its own any more, may be given to it again."""
    patch.setattr(Lifecycle, "block", lambda *_: None)
    patch.setattr(Lifecycle, "unblock", lambda *_: None)


def forgets_too_early(patch: pytest.MonkeyPatch) -> None:
    """An operation is kept for a while after its last client left, finished or not."""

    def retention_at(self: Lifecycle, name: Name) -> float | None:
        return None if name.clients else name.accessed_at + self._policy.retain_completed_for_s

    patch.setattr(Lifecycle, "retention_at", retention_at)


def loses_work(patch: pytest.MonkeyPatch) -> None:
    """An operation whose worker comes back without it stays with that worker."""
    asked = Fleet._reconcile

    def reconcile(self: Fleet, worker: Worker, running: tuple[str, ...]) -> list[Operation]:
        asked(self, worker, running)
        return []

    patch.setattr(Fleet, "_reconcile", reconcile)


def forgets_the_quarantined(patch: pytest.MonkeyPatch) -> None:
    """A quarantined worker is not tried again."""
    asked = Matching.has_room

    def has_room(worker: Worker) -> bool:
        return not worker.quarantined and asked(worker)

    patch.setattr(Matching, "has_room", staticmethod(has_room))


FAULTS: Final[tuple[Fault, ...]] = (
    believes_anybody,
    leaks_resources,
    cancels_for_all,
    counts_lost_workers,
    runs_twice,
    forgets_too_early,
    loses_work,
    forgets_the_quarantined,
)


# -- defects that there were --------------------------------------------------------------------


def forgets_too_late_who_left(patch: pytest.MonkeyPatch) -> None:
    """When a worker leaves, those who avoid another one are told too early who is left."""

    def remove_worker(self: Matching, worker: Worker) -> None:
        kind = worker.kind
        assert kind is not None
        self.released.pop(worker, None)
        self._count_totals(worker, -1)
        self._assess_avoiding()
        kind.forget(worker)
        worker.kind = None
        if not kind.workers:
            self._drop_kind(kind)

    patch.setattr(Matching, "remove_worker", remove_worker)


def believes_in_new_ids(patch: pytest.MonkeyPatch) -> None:
    """A worker that comes back under another id is given what it still runs."""
    asked = Fleet._reconcile

    def reconcile(self: Fleet, worker: Worker, running: tuple[str, ...]) -> list[Operation]:
        strange = [each for each in running if each not in worker.leases]
        self._journal.effects += [KillExecution(worker.worker_id, each) for each in strange]
        return asked(self, worker, tuple(each for each in running if each in worker.leases))

    patch.setattr(Fleet, "_reconcile", reconcile)


def counts_nothing_for_the_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What a worker still runs of an operation that is forgotten takes up no room."""
    asked = Fleet._reconcile

    def reconcile(self: Fleet, worker: Worker, running: tuple[str, ...]) -> list[Operation]:
        missing = asked(self, worker, running)
        for lease in worker.leases.values():
            if lease.operation_id not in self._lifecycle.operations:
                lease.usage = (0,) * len(worker.totals)
        worker.recount()
        return missing

    patch.setattr(Fleet, "_reconcile", reconcile)


def strands_nobody_who_joins(patch: pytest.MonkeyPatch) -> None:
    """What joins hopeless operations while they are reassessed is never given up."""
    asked = Lifecycle._strand

    def strand(self: Lifecycle, operation: Operation, reason: str) -> None:
        if operation.lane not in self._matching.reassessed:
            asked(self, operation, reason)

    patch.setattr(Lifecycle, "_strand", strand)
