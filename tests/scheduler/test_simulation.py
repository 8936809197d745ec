"""Thousands of schedules, and proof that they would notice if the machine were wrong."""

from __future__ import annotations

import json
import random
from typing import Any, Final

import pytest

from nativelink.scheduler.effects import Effect
from nativelink.scheduler.events import Event
from nativelink.scheduler.journal import IllegalEventError, Journal
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.operation import ExecutionStage
from nativelink.scheduler.plain import (
    event_from_plain,
    event_to_plain,
    from_plain,
    to_plain,
)
from nativelink.scheduler.records import Operation
from nativelink.scheduler.snapshot import MachineState, restore, take
from nativelink.scheduler.transitions import TRANSITIONS, Cause
from tests.scheduler.faults import (
    FAULTS,
    Fault,
    believes_in_new_ids,
    counts_nothing_for_the_forgotten,
    forgets_too_late_who_left,
    strands_nobody_who_joins,
)
from tests.scheduler.simulation import Simulation

SCHEDULES = 10_000
PER_TEST = 250

#: What a wrong machine is told by: a promise, an invariant, or its own tables that do not fit.
NOTICED = (AssertionError, IllegalEventError, KeyError)

#: Schedules that found a defect. They stay, whatever else is tried; where the simulation changes,
#: others are to be found by bringing the defects back.
FOUND: Final[dict[int, Fault]] = {
    4: forgets_too_late_who_left,
    5: believes_in_new_ids,
    800: strands_nobody_who_joins,
    1376: counts_nothing_for_the_forgotten,
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


@pytest.mark.parametrize("seed", FOUND)
def test_such_a_schedule_finds_the_defect_if_it_is_brought_back(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    FOUND[seed](monkeypatch)
    with pytest.raises(NOTICED):
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
    assert twins
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


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_deliberate_fault_is_noticed(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noticed by what is seen from outside: the machine's own invariants are not looked at."""
    fault(monkeypatch)
    noticed: list[Any] = []
    for seed in range(600):
        try:
            Simulation(seed, check=False).run()
        except NOTICED as error:
            noticed.append((seed, error))
            break
    assert noticed, f"600 schedules did not notice: {fault.__doc__}"
