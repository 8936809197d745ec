"""Metric math of alarms."""

from __future__ import annotations

import math

import pytest

from scripts.region_local.metric_math import MathError, value_of


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("IF(workers > 0, 0, queued)", 0),
        ("IF(none > 0, 0, queued)", 12),
        ("IF(requests > 100, 100 * denied / requests, 0)", 25),
        ("1 + 2 * 3 - 4 / 2", 5),
        ("-(1 + 2) * 3", -9),
        ("queued >= 12", 1),
        ("queued != 12", 0),
        ("MAX(queued, workers) - MIN(1, 2.5) + ABS(-1)", 12),
    ],
)
def test_an_expression_is_worth(expression: str, value: float) -> None:
    metrics = {"workers": 3.0, "none": 0.0, "queued": 12.0, "requests": 200.0, "denied": 50.0}
    assert value_of(expression, metrics) == value


def test_a_division_by_nothing_is_no_number_where_it_is_taken() -> None:
    expression = "IF(requests > 100, 100 * denied / requests, 0)"
    assert value_of(expression, {"requests": 0.0, "denied": 0.0}) == 0
    assert math.isnan(value_of("denied / requests", {"requests": 0.0, "denied": 1.0}))


@pytest.mark.parametrize(
    "expression",
    ["queued +", "FILL(queued, 0)", "queued queued", "other", "(queued", "queued # 1", ""],
)
def test_what_is_not_played_here_is_said(expression: str) -> None:
    with pytest.raises(MathError, match="not played here"):
        value_of(expression, {"queued": 1.0})
