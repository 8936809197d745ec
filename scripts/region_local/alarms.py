"""CloudWatch's alarms: what a metric did in the last periods makes a state.

CloudWatch User Guide, "Evaluating an alarm" and "Configuring how alarms treat missing data". A
period counts once it is over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from scripts.region_local.metric_math import value_of

__all__ = ["Alarm", "Metric", "Series", "State", "is_due", "judge", "least_samples", "points"]

State: TypeAlias = str
#: Values by when their period began, seconds since the Unix epoch.
Series: TypeAlias = Mapping[float, float]

ALARM: Final = "ALARM"
OK: Final = "OK"
UNKNOWN: Final = "INSUFFICIENT_DATA"

_BREACHES: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "GreaterThanThreshold": lambda value, threshold: value > threshold,
    "GreaterThanOrEqualToThreshold": lambda value, threshold: value >= threshold,
    "LessThanThreshold": lambda value, threshold: value < threshold,
    "LessThanOrEqualToThreshold": lambda value, threshold: value <= threshold,
}


@dataclass(frozen=True)
class Metric:
    """One metric of an alarm.

    Attributes:
        id: by which an expression refers to it.
        period_s: of its values.
    """

    id: str
    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]
    statistic: str
    period_s: int


@dataclass(frozen=True)
class Alarm:
    """An alarm as it was deployed.

    Attributes:
        metrics: what it looks at; all have one period.
        expression: metric math over them; empty with a single metric.
        periods: how many are looked at.
        breaches: how many of them must be beyond the threshold.
        missing: how periods without a value count.
        actions: ARNs of what is told when it is in ALARM.
        state: as it was last seen.
        fewest: values in those periods below which a percentile says too little: with fewer, the
            state stays.
    """

    name: str
    metrics: tuple[Metric, ...]
    expression: str
    periods: int
    breaches: int
    threshold: float
    comparison: str
    missing: str
    actions: tuple[str, ...]
    state: State
    fewest: int = 0

    @property
    def period_s(self) -> int:
        """Seconds between evaluations."""
        return max(metric.period_s for metric in self.metrics)


def least_samples(percent: float) -> int:
    """Values that a percentile needs to say something.

    CloudWatch User Guide, "Percentile-based CloudWatch alarms and low data samples".
    """
    return math.ceil(round(1000 / min(percent, 100 - percent), 6))


def is_due(alarm: Alarm, last: float, now: float) -> bool:
    """Whether a period has ended since the alarm was evaluated last."""
    return now // alarm.period_s > last // alarm.period_s


def points(alarm: Alarm, series: Mapping[str, Series], now: float) -> list[float | None]:
    """The alarm's values of the last periods that are over, oldest first; None has no value.

    Args:
        alarm: whose.
        series: values by the metrics' ids.
        now: seconds since the Unix epoch.
    """
    end = now // alarm.period_s * alarm.period_s
    begins = [end - alarm.period_s * back for back in range(alarm.periods, 0, -1)]
    return [_point(alarm, series, begin) for begin in begins]


def _point(alarm: Alarm, series: Mapping[str, Series], begin: float) -> float | None:
    values: dict[str, float] = {}
    for metric in alarm.metrics:
        value = series.get(metric.id, {}).get(begin)
        if value is None:
            return None
        values[metric.id] = value
    if not alarm.expression:
        return values[alarm.metrics[0].id]
    value = value_of(alarm.expression, values)
    return None if math.isnan(value) else value


def judge(alarm: Alarm, values: Sequence[float | None]) -> State:
    """The state that follows from values."""
    breaches = _BREACHES[alarm.comparison]
    known = [value for value in values if value is not None]
    count = sum(breaches(value, alarm.threshold) for value in known)
    absent = len(values) - len(known)
    match alarm.missing:
        case "breaching":
            return ALARM if count + absent >= alarm.breaches else OK
        case "notBreaching":
            return ALARM if count >= alarm.breaches else OK
        case "ignore" if not known:
            return alarm.state
        case _ if not known:
            return UNKNOWN
        case _:
            # Without all values, those that there are decide.
            return ALARM if count >= min(alarm.breaches, len(known)) else OK
