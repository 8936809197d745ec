"""The rule, and that the policies say the same."""

from __future__ import annotations

from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nativelink.aws.past import Past
from nativelink.aws.scaling import (
    PATIENCE_S,
    ScalingRule,
    desired,
    load_ratio,
    policies_of,
)

#: Of a handful of numbers each; more find nothing else.
FEW = settings(max_examples=40)
COUNTS = st.integers(0, 5000)
SLOTS = st.integers(1, 192)
TARGETS = st.floats(0.05, 1.0)
PASTS = st.none() | st.builds(Past, st.floats(0, 5000), st.floats(0, 10_000))


@st.composite
def rules(draw: st.DrawFn) -> ScalingRule:
    smallest = draw(st.integers(0, 20))
    return ScalingRule(
        slots=draw(SLOTS),
        target=draw(TARGETS),
        smallest=smallest,
        largest=draw(st.integers(smallest, 3000)),
        boot_s=draw(st.floats(1, 600)),
    )


def wanted(rule: ScalingRule, queued: int, running: int, workers: int) -> int:
    return desired(
        queued,
        running,
        workers,
        rule.slots,
        target=rule.target,
        smallest=rule.smallest,
        largest=rule.largest,
    )


@FEW
@given(rules(), COUNTS, COUNTS, COUNTS)
def test_it_stays_within_the_bounds(rule: ScalingRule, q: int, r: int, n: int) -> None:
    assert rule.smallest <= wanted(rule, q, r, n) <= rule.largest


@FEW
@given(rules(), COUNTS, COUNTS, COUNTS)
def test_there_is_room_for_everything_at_the_target_unless_the_pool_is_at_its_largest(
    rule: ScalingRule, q: int, r: int, n: int
) -> None:
    count = wanted(rule, q, r, n)
    # A millionth of a worker is nothing that anybody waits for.
    assert count == rule.largest or (count + 1e-6) * rule.slots * rule.target >= q + r


@FEW
@given(rules(), COUNTS, COUNTS, COUNTS)
def test_no_worker_that_may_be_busy_is_taken_away(
    rule: ScalingRule, q: int, r: int, n: int
) -> None:
    assert wanted(rule, q, r, n) >= min(r, n, rule.largest)


@FEW
@given(rules(), COUNTS, COUNTS, COUNTS, COUNTS)
def test_more_work_never_wants_fewer_workers(
    rule: ScalingRule, q: int, r: int, n: int, more: int
) -> None:
    assert wanted(rule, q + more, r, n) >= wanted(rule, q, r, n)
    assert wanted(rule, q, r + more, n) >= wanted(rule, q, r, n)


@FEW
@given(rules(), COUNTS)
def test_nothing_to_do_wants_the_smallest_pool(rule: ScalingRule, n: int) -> None:
    assert wanted(rule, 0, 0, n) == rule.smallest


@FEW
@given(rules(), COUNTS, COUNTS, COUNTS)
def test_once_it_is_followed_it_wants_no_change(rule: ScalingRule, q: int, r: int, n: int) -> None:
    count = wanted(rule, q, r, n)
    assert wanted(rule, q, r, count) <= count or r > n


@FEW
@given(rules(), COUNTS, COUNTS, st.integers(1, 3000), st.floats(0, 1000), PASTS)
def test_target_tracking_wants_what_the_rule_wants(
    rule: ScalingRule, q: int, r: int, n: int, oldest_s: float, past: Past | None
) -> None:
    policy = policies_of(rule).target_tracking
    metric = load_ratio(q, r, n, n * rule.slots, oldest_queued_s=oldest_s, past=past)
    capacity = ceil(round(n * metric / policy.target, 6))
    busy = min(r, n)
    clamped = max(rule.smallest, min(rule.largest, max(capacity, busy)))
    says = desired(
        q,
        r,
        n,
        rule.slots,
        target=rule.target,
        smallest=rule.smallest,
        largest=rule.largest,
        oldest_queued_s=oldest_s,
        past=past,
    )
    assert abs(says - clamped) <= 1
    assert says == clamped or abs(n * metric / policy.target - round(capacity)) < 1.001
    assert policy.disable_scale_in


@FEW
@given(rules(), COUNTS, COUNTS, st.integers(1, 3000), st.floats(0, 1000), st.floats(0, 1000))
def test_a_queue_counts_the_more_the_longer_it_stands(
    rule: ScalingRule, q: int, r: int, n: int, one_s: float, more_s: float
) -> None:
    def says(oldest_s: float) -> int:
        return desired(q, r, n, rule.slots, target=rule.target, oldest_queued_s=oldest_s)

    assert says(0) <= says(one_s) <= says(one_s + more_s) <= says(float("inf"))
    assert says(PATIENCE_S) == says(float("inf"))


def test_a_queue_that_moves_counts_in_full_where_nobody_works() -> None:
    assert desired(64, 0, 0, 8, target=1.0, oldest_queued_s=0) == 8
    assert desired(64, 0, 1, 8, target=1.0, oldest_queued_s=0) == 0
    assert desired(64, 0, 1, 8, target=1.0, oldest_queued_s=PATIENCE_S / 2) == 4


@FEW
@given(rules(), COUNTS, COUNTS, COUNTS, st.floats(0, 5000), st.floats(0, 9999), st.floats(0, 9999))
def test_the_past_only_ever_bounds_a_queue_and_the_less_the_longer_it_waits(
    rule: ScalingRule, q: int, r: int, n: int, ran: float, one_s: float, more_s: float
) -> None:
    def says(past: Past | None) -> int:
        return desired(q, r, n, rule.slots, target=rule.target, largest=10**6, past=past)

    assert min(r, n) <= says(Past(ran, one_s)) <= says(Past(ran, one_s + more_s)) <= says(None)
    assert says(Past(ran, one_s)) <= says(Past(ran + more_s, one_s))


@pytest.mark.parametrize(
    ("ran", "waiting_s", "workers"),
    [
        # Four busy workers of eight slots and a queue of 200; one worker is for 6.4 actions.
        (0, 0, 5),
        (32, 0, 7),
        (64, 0, 12),
        (32, 90, 7),
        (32, 90 + 180, 10),
        (0, 900, 19),
        (0, 3600, 37),
    ],
)
def test_a_pool_grows_beyond_what_ran_lately_by_a_worker_a_minute(
    ran: float, waiting_s: float, workers: int
) -> None:
    past = Past(ran, waiting_s)
    assert desired(200, 32, 4, 8, largest=1000, past=past) == workers
    assert desired(200, 0, 0, 8, largest=1000, past=past) == 32, "where nobody works all counts"


def test_a_pool_of_hundreds_does_not_grow_by_a_worker_a_minute() -> None:
    def says(workers: int, waiting_s: float) -> int:
        past = Past(8.0 * workers, waiting_s)
        return desired(4000, 8 * workers, workers, 8, largest=300, past=past)

    # One that is busy: an eighth of the 626 workers that everything would take up, at once.
    assert says(1, 0) == 79
    # A hundred that are full: ten workers' actions a minute.
    assert says(100, 90) == 127
    assert says(100, 90 + 120) == says(100, 90) + 25


@FEW
@given(COUNTS, COUNTS, st.integers(1, 3000), COUNTS, SLOTS, st.floats(0, 1000), PASTS)
def test_more_workers_or_a_longer_queue_never_want_a_smaller_pool(
    q: int, r: int, n: int, more: int, slots: int, oldest_s: float, past: Past | None
) -> None:
    def says(queued: int, workers: int) -> int:
        return desired(
            queued, r, workers, slots, largest=10**6, oldest_queued_s=oldest_s, past=past
        )

    assert says(q, n) <= says(q + more, n)
    assert says(q, n) <= says(q, n + more)


@FEW
@given(rules(), st.integers(1, 100_000), st.integers(1, 3000), PASTS)
def test_a_pool_with_workers_wants_half_of_what_one_without_begins_with_at_least(
    rule: ScalingRule, queued: int, workers: int, past: Past | None
) -> None:
    everything = desired(queued, 0, 0, rule.slots, target=rule.target, largest=10**6)
    says = desired(queued, 0, workers, rule.slots, target=rule.target, largest=10**6, past=past)
    assert 8 * says >= everything


@FEW
@given(rules(), st.integers(1, 100_000))
def test_steps_from_zero_bring_at_least_a_quarter_and_at_most_half_of_what_is_needed(
    rule: ScalingRule, queued: int
) -> None:
    policy = policies_of(rule).from_zero
    (step,) = (
        each
        for each in policy.steps
        if each.lower <= queued - policy.threshold
        and (each.upper is None or queued - policy.threshold < each.upper)
    )
    needed = desired(queued, 0, 0, rule.slots, target=rule.target, largest=10**6)
    assert 4 * step.workers >= min(needed, rule.largest)
    assert step.workers <= max(1, needed / 2 + 1)


@FEW
@given(rules())
def test_steps_are_as_ec2_wants_them(rule: ScalingRule) -> None:
    steps = policies_of(rule).from_zero.steps
    assert steps[0].lower == 0
    assert steps[-1].upper is None
    assert len(steps) <= 20
    for one, next_one in pairwise(steps):
        assert one.upper == next_one.lower
        assert one.lower < next_one.lower
    assert all(1 <= step.workers <= max(rule.largest, 1) for step in steps)


@FEW
@given(rules())
def test_what_boots_is_not_yet_counted_as_there(rule: ScalingRule) -> None:
    policies = policies_of(rule)
    assert policies.target_tracking.warmup_s >= rule.boot_s
    assert policies.from_zero.warmup_s >= rule.boot_s


def test_a_queue_shows_although_there_is_no_worker() -> None:
    assert load_ratio(8, 0, 0, 4, oldest_queued_s=0) == 200
    assert load_ratio(0, 0, 0, 0) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"slots": 0}, "slots is 0"),
        ({"slots": 1, "target": 0.0}, "target is 0.0"),
        ({"slots": 1, "target": 1.5}, "target is 1.5"),
        ({"slots": 1, "smallest": 3, "largest": 2}, "smallest is 3 and largest 2"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScalingRule(**fields)
