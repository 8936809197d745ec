"""Thousands of schedules, and proof that they would notice if the machine were wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from nativelink.scheduler.effects import Effect
from nativelink.scheduler.events import Event
from nativelink.scheduler.fleet import Fleet
from nativelink.scheduler.journal import IllegalEventError, Journal
from nativelink.scheduler.lifecycle import Lifecycle
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.operation import ExecutionStage
from nativelink.scheduler.plain import (
    event_from_plain,
    event_to_plain,
    from_plain,
    to_plain,
)
from nativelink.scheduler.records import Name, Operation
from nativelink.scheduler.snapshot import MachineState, restore, take
from nativelink.scheduler.transitions import TRANSITIONS, Cause
from nativelink.scheduler.workers import Lease, Worker
from tests.scheduler.simulation import BrokenPromiseError, Simulation

SCHEDULES = 10_000
PER_TEST = 250

#: Schedules that find a defect that there was, if it is brought back. They stay, whatever else is
#: tried; another simulation needs others, found by bringing the defects back.
FOUND = {
    3: "when a worker left, those who avoided another one were told too early who was left",
    5: "a worker came back under another id and was given what it still ran",
    1376: "what a worker still ran of a forgotten operation counted for nothing",
    5374: "an operation that joined hopeless ones while they were reassessed was never given up",
}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SCHEDULES, PER_TEST))
def test_every_schedule_keeps_every_promise(first: int) -> None:
    for seed in range(first, first + PER_TEST):
        simulation = Simulation(seed)
        try:
            simulation.run()
        except Exception as error:
            error.add_note(f"seed {seed}: Simulation({seed}).run()")
            raise


@pytest.mark.parametrize("seed", FOUND)
def test_a_schedule_that_found_a_defect_finds_none_now(seed: int) -> None:
    Simulation(seed).run()


def test_a_schedule_is_decided_by_its_seed() -> None:
    first, second = Simulation(5), Simulation(5)
    first.run()
    second.run()
    assert first.history == second.history


@pytest.mark.parametrize("seed", range(40))
def test_a_restored_machine_goes_on_with_the_same_effects(seed: int) -> None:
    """Snapshot and log go through JSON, as they would through a database."""
    simulation = Simulation(seed)
    rng = random.Random(seed)
    twins: list[Machine] = []

    def compare(event: Event, now: float, found: list[Effect]) -> None:
        logged = event_from_plain(json.loads(json.dumps(event_to_plain(event))))
        for twin in twins:
            assert twin.handle(logged, now) == found
            twin.check_invariants()
        if rng.random() < 0.1 and len(twins) < 3:
            saved = json.dumps(to_plain(take(simulation.machine)))
            state = from_plain(MachineState, json.loads(saved))
            assert state == take(simulation.machine)
            twins.append(restore(simulation.policy, state))
            twins[-1].check_invariants()

    simulation.on_handled = compare
    simulation.run()
    for twin in twins:
        assert take(twin) == take(simulation.machine)


@pytest.mark.slow
def test_every_row_of_the_table_of_transitions_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that nothing walks says something that is not so, or that is not tested."""
    walked: set[tuple[ExecutionStage, str, ExecutionStage]] = set()
    asked = Journal.move

    def move(
        self: Journal, operation: Operation, after: ExecutionStage, by: Cause | None = None
    ) -> None:
        cause = by or self.cause
        assert cause is not None
        walked.add((operation.stage, cause.__name__, after))
        asked(self, operation, after, by)

    monkeypatch.setattr(Journal, "move", move)
    for seed in range(600):
        Simulation(seed, check=False).run()
    assert walked == {
        (before, cause.__name__, after)
        for (before, cause), afters in TRANSITIONS.items()
        for after in afters
    }


# -- deliberate faults ---------------------------------------------------------------------


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
    asked = Fleet._queue_again

    def queue_again(self: Fleet, operations: list[Operation], why: str, *, counted: bool) -> None:
        if why.startswith("lost"):
            for operation in operations:
                operation.attempts += 1
        asked(self, operations, why, counted=counted)

    patch.setattr(Fleet, "_queue_again", queue_again)


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


FAULTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    believes_anybody,
    leaks_resources,
    cancels_for_all,
    counts_lost_workers,
    runs_twice,
    forgets_too_early,
    loses_work,
]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_deliberate_fault_is_noticed(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noticed by what is seen from outside: the machine's own invariants are not looked at."""
    fault(monkeypatch)
    noticed: list[Any] = []
    for seed in range(600):
        try:
            Simulation(seed, check=False).run()
        except (BrokenPromiseError, IllegalEventError, KeyError, AssertionError) as error:
            noticed.append((seed, error))
            break
    assert noticed, f"600 schedules did not notice: {fault.__doc__}"
