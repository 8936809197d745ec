"""The simulator: nothing is lost, the same comes out again, and groups do as AWS says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.fleet.group import Figures, Group
from bench.fleet.prices import C5_2XLARGE
from bench.fleet.report import row, verdicts
from bench.fleet.simulation import Policy, simulate
from bench.fleet.traces import TRACES, Build, Drought, Trace
from infra.capacity import rule_of
from infra.settings import PoolSettings
from nativelink.aws.scaling import ScalingRule, policies_of
from scripts.simulate_fleet import shipped

RULE = ScalingRule(8, largest=10, boot_s=90)
POLICY = Policy(RULE, C5_2XLARGE, idle_after_s=120)
MORNING = Trace(
    "morning",
    "Three builds.",
    (
        Build(100.0, (5.0,) * 200, 50),
        Build(400.0, (20.0, 400.0) * 40, 100),
        Build(5000.0, (1.0,), 100),
    ),
)


def test_every_action_is_executed_and_waits_for_the_first_worker_to_boot() -> None:
    outcome = simulate(MORNING, POLICY)
    assert outcome.done == outcome.asked == 281
    assert len(outcome.build_s) == 3
    assert 63 < max(outcome.waits) < 400
    assert outcome.busy_s == pytest.approx(200 * 5 + 40 * 420 + 1)
    assert outcome.samples[-1].workers == 0
    assert max(sample.workers for sample in outcome.samples) <= 10


def test_the_same_day_comes_out_again() -> None:
    assert simulate(MORNING, POLICY, seed=3) == simulate(MORNING, POLICY, seed=3)


def test_nothing_is_lost_when_every_machine_is_taken_back() -> None:
    trace = replace(MORNING, droughts=(Drought(600.0, 1500.0, 1.0, 0.0),))
    outcomes = [simulate(trace, POLICY, seed=seed) for seed in range(5)]
    assert all(outcome.done == outcome.asked for outcome in outcomes)
    assert all(outcome.interruptions for outcome in outcomes)
    assert sum(outcome.handed_back for outcome in outcomes) > 0
    assert sum(outcome.wasted_s for outcome in outcomes) > 0


def test_a_machine_on_demand_works_through_a_drought() -> None:
    trace = Trace("dry", "", (Build(0.0, (10.0,) * 6, 6),), (Drought(0.0, 80_000.0, 1.0, 0.0),))
    fixed = simulate(trace, replace(POLICY, on_demand_base=1))
    assert fixed.launches == 1
    assert fixed.build_s[0] < 200
    assert simulate(trace, POLICY).build_s[0] > 80_000


def test_a_smallest_size_is_kept() -> None:
    policy = replace(POLICY, rule=replace(RULE, smallest=1))
    outcome = simulate(Trace("one", "", (Build(7200.0, (5.0,), 1),)), policy)
    assert outcome.waits == [0.0]


def evaluated(group: Group, count: int, figures: Figures, launched: list[float]) -> int:
    for period in range(count):
        group.evaluate(figures, launched, 1000.0 + 10 * period)
    return group.desired


def test_target_tracking_waits_for_three_periods_and_does_not_ask_twice() -> None:
    group = Group(RULE, policies_of(RULE))
    # Two workers of eight slots with 32 actions: at 80 % that is work for five.
    figures = Figures(16, 16, 2, 16, 180.0)
    assert evaluated(group, 3, figures, [0.0, 0.0]) == 0
    assert evaluated(group, 1, figures, [0.0, 0.0]) == 5
    assert evaluated(group, 5, figures, [0.0, 0.0, 1000.0, 1000.0, 1000.0]) == 5


def test_a_pool_without_workers_begins_one_period_later() -> None:
    group = Group(RULE, policies_of(RULE))
    assert evaluated(group, 1, Figures(40, 0, 0, 8, 0.0), []) == 0
    assert evaluated(group, 1, Figures(40, 0, 0, 8, 0.0), []) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACES)
def test_the_days_are_the_same_everywhere(name: str) -> None:
    one, other = TRACES[name](), TRACES[name]()
    assert one == other
    assert all(build.durations for build in one.builds)


def test_a_lost_action_would_be_told() -> None:
    outcome = simulate(MORNING, POLICY)
    assert "281 of 281" in row(outcome)
    day = replace(MORNING, name="working-day")
    assert [line.split(":")[0] for line in verdicts([(day, outcome)], POLICY)][2] == "reached"
    outcome.done -= 1
    assert verdicts([(day, outcome)], POLICY)[2].startswith("missed: 1 of")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_shipped_defaults_reach_every_goal_on_the_working_day(seed: int) -> None:
    """Whatever machines boot a little sooner and are taken back."""
    policy = shipped()
    day = TRACES["working-day"]()
    found = verdicts([(day, simulate(day, policy, seed=seed))], policy)
    assert [line.partition(":")[0] for line in found] == ["reached"] * 3


def test_what_is_simulated_is_what_is_shipped() -> None:
    policy, pool = shipped(), PoolSettings(name="x86")
    assert policy.rule == rule_of(pool)
    assert policy.idle_after_s == pool.idle_after_s
    assert policy.on_demand_base == pool.on_demand_base


def test_idle_money_has_parts() -> None:
    outcome = simulate(MORNING, POLICY)
    parts = (outcome.leaving_dollars, outcome.ending_dollars)
    assert all(part > 0 for part in parts)
    assert sum(parts) < outcome.idle_dollars
    # Nobody was taken back: each machine ended itself, and was paid for while it did.
    assert not outcome.interruptions
    ended_s = outcome.launches * POLICY.ending_s
    assert outcome.ending_dollars == pytest.approx(ended_s * C5_2XLARGE.spot / 3600)


def test_a_pool_that_knows_its_past_starts_fewer_machines_for_short_builds() -> None:
    builds = tuple(Build(200.0 * number, (15.0,) * 120, 120) for number in range(20))
    bounded, unbounded = (
        simulate(Trace("short", "", builds), replace(POLICY, idle_after_s=15, bounded=choice))
        for choice in (True, False)
    )
    assert bounded.launches < 0.9 * unbounded.launches
    assert bounded.dollars < unbounded.dollars
