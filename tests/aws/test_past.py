"""What a pool did is remembered for some minutes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nativelink.aws.past import RECENT_S, Past, PastOfPool


def test_the_first_figures_are_taken_to_have_been_true_before() -> None:
    assert PastOfPool().add(0, 24, 3, at=5000.0) == Past(24.0, 0.0)


def test_before_workers_come_back_to_a_scheduler_that_started_again_nothing_is_remembered() -> None:
    past = PastOfPool()
    for count in range(12):
        assert past.add(300, 0, 0, at=10.0 * count) == Past(0.0, 10.0 * count)
    assert past.add(300, 240, 30, at=120.0) == Past(240.0, 120.0)
    # A pool that has none any more had some: that nothing runs counts then.
    assert past.add(0, 0, 0, at=130.0).running < 240


def test_what_ran_is_forgotten_over_some_minutes() -> None:
    past = PastOfPool()
    for minute in range(60):
        past.add(0, 40, 5, at=60.0 * minute)
    after = [past.add(0, 0, 5, at=3600.0 + 10 * count).running for count in range(181)]
    assert after[0] == pytest.approx(40, rel=0.11)
    assert after[60] == pytest.approx(after[0] / 2.718, rel=0.01)
    assert after[180] < 3
    assert after == sorted(after, reverse=True)


def test_a_queue_waits_from_when_it_was_first_seen_until_it_is_seen_empty() -> None:
    past = PastOfPool()
    waited = [
        past.add(queued, 8, 1, at=10.0 * count).waiting_s
        for count, queued in enumerate((0, 5, 900, 1, 0, 2, 2))
    ]
    assert waited == [0, 0, 10, 20, 0, 0, 10]


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 4 * RECENT_S)), min_size=1, max_size=20)
)
def test_the_average_is_between_the_least_and_the_most_that_ran(
    figures: list[tuple[int, float]],
) -> None:
    past, at = PastOfPool(), 0.0
    for running, passed_s in figures:
        at += passed_s
        average = past.add(0, running, 1, at=at).running
    ran = [running for running, _ in figures]
    assert min(ran) - 1e-6 <= average <= max(ran) + 1e-6
