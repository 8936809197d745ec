"""Scaling policies as they are deployed."""

from __future__ import annotations

from math import inf

import pytest

from nativelink.aws.scaling import ScalingRule, policies_of
from scripts.region_local.alarms import Metric
from scripts.region_local.scaling import Step, StepPolicy, TrackingPolicy, wanted

RULE = policies_of(ScalingRule(8, largest=20, boot_s=90))
STEPS = StepPolicy(
    "arn:steps",
    "workers",
    "from-zero",
    tuple(
        Step(step.lower, inf if step.upper is None else step.upper, step.workers)
        for step in RULE.from_zero.steps
    ),
    RULE.from_zero.warmup_s,
)
LOAD = Metric("load", "NativeLink/x", "LoadRatio", (("Pool", "x86"),), "Average", 10)
TRACKING = TrackingPolicy("arn:load", "workers", "load", LOAD, 80.0, 120.0)


@pytest.mark.parametrize(("queued", "count"), [(1, 1), (25, 1), (26, 2), (60, 4), (160, 5)])
def test_a_queue_without_workers_starts_as_many_as_its_step_says(queued: int, count: int) -> None:
    assert wanted(STEPS, queued, 0.0, [], desired=0, largest=20) == count


def test_steps_are_not_added_up_while_what_they_asked_for_boots() -> None:
    assert wanted(STEPS, 160, 0.0, [10.0] * 5, desired=5, largest=20) == 5


def test_a_later_step_may_ask_for_more() -> None:
    assert wanted(STEPS, 160, 0.0, [10.0], desired=1, largest=20) == 5


def test_nothing_is_added_where_no_step_is() -> None:
    assert wanted(STEPS, -1, 0.0, [], desired=2, largest=20) == 2


def test_target_tracking_multiplies_what_is_warm() -> None:
    assert wanted(TRACKING, 200.0, 80.0, [500.0, 500.0], desired=2, largest=20) == 5
    assert wanted(TRACKING, 200.0, 80.0, [500.0, 5.0], desired=5, largest=20) == 5
    assert wanted(TRACKING, 100.0, 80.0, [500.0] * 4, desired=4, largest=20) == 5


def test_a_group_gets_neither_larger_than_its_largest_size_nor_smaller() -> None:
    assert wanted(TRACKING, 2000.0, 80.0, [500.0] * 4, desired=4, largest=20) == 20
    assert wanted(TRACKING, 8.0, 80.0, [500.0] * 4, desired=4, largest=20) == 4
