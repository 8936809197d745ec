"""Alarms: periods that are over, missing values, states."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.region_local.alarms import Alarm, Metric, is_due, judge, least_samples, points

QUEUED = Metric("queued", "NativeLink/x", "QueuedActions", (("Pool", "x86"),), "Maximum", 10)
WORKERS = replace(QUEUED, id="workers", name="RegisteredWorkers")
ALARM = Alarm(
    name="from-zero",
    metrics=(QUEUED, WORKERS),
    expression="IF(workers > 0, 0, queued)",
    periods=3,
    breaches=3,
    threshold=0,
    comparison="GreaterThanThreshold",
    missing="notBreaching",
    actions=(),
    state="OK",
)


def test_only_periods_that_are_over_count_and_math_needs_every_metric() -> None:
    series = {"queued": {70.0: 1, 80.0: 7, 90.0: 9, 100.0: 11}, "workers": {80.0: 0, 90.0: 2}}
    assert points(ALARM, series, 105.0) == [None, 7, 0]


def test_an_alarm_is_evaluated_once_a_period() -> None:
    assert not is_due(ALARM, 101.0, 109.9)
    assert is_due(ALARM, 109.9, 110.0)


@pytest.mark.parametrize(
    ("missing", "values", "state"),
    [
        ("notBreaching", [1, 1, 1], "ALARM"),
        ("notBreaching", [1, 1, 0], "OK"),
        ("notBreaching", [1, 1, None], "OK"),
        ("breaching", [1, None, 1], "ALARM"),
        ("breaching", [None, None, None], "ALARM"),
        ("breaching", [None, 0, None], "OK"),
        ("missing", [None, None, None], "INSUFFICIENT_DATA"),
        ("missing", [None, 1, 1], "ALARM"),
        ("missing", [None, 0, 1], "OK"),
        ("ignore", [None, None, None], "OK"),
    ],
)
def test_a_state_follows_from_values(missing: str, values: list[float | None], state: str) -> None:
    assert judge(replace(ALARM, missing=missing), values) == state


def test_two_of_three_may_be_enough() -> None:
    assert judge(replace(ALARM, breaches=2), [5, 0, 5]) == "ALARM"


@pytest.mark.parametrize(
    ("comparison", "at", "beyond"),
    [
        ("GreaterThanThreshold", "OK", 2),
        ("GreaterThanOrEqualToThreshold", "ALARM", 2),
        ("LessThanThreshold", "OK", 0),
        ("LessThanOrEqualToThreshold", "ALARM", 0),
    ],
)
def test_thresholds_are_compared_as_named(comparison: str, at: str, beyond: float) -> None:
    alarm = replace(ALARM, comparison=comparison, threshold=1, periods=1, breaches=1)
    assert judge(alarm, [1]) == at
    assert judge(alarm, [beyond]) == "ALARM"


@pytest.mark.parametrize(("percent", "samples"), [(99, 1000), (99.9, 10000), (50, 20), (10, 100)])
def test_a_percentile_needs_ten_values_beyond_it(percent: float, samples: int) -> None:
    assert least_samples(percent) == samples
