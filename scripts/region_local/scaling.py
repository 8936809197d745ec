"""What an auto scaling group's policies ask for. Nothing here makes a group smaller.

EC2 Auto Scaling User Guide, "Step and simple scaling policies", "Target tracking scaling policies"
and "Set the default instance warmup": what warms up is not yet capacity, and a policy that asks for
less than what was asked for already changes nothing. `bench/fleet/group.py` plays the same in
virtual time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, TypeAlias

from scripts.region_local.alarms import Metric

__all__ = ["TRACKING_PERIODS", "Policy", "Step", "StepPolicy", "TrackingPolicy", "wanted"]

#: Periods above the target until target tracking acts.
TRACKING_PERIODS: Final = 3


@dataclass(frozen=True)
class Step:
    """So many more instances, from `lower` above the threshold on and below `upper`."""

    lower: float
    upper: float
    more: int


@dataclass(frozen=True)
class StepPolicy:
    """A step scaling policy that changes capacity by numbers.

    Attributes:
        arn: what alarms name it by.
        warmup_s: seconds from launch until an instance is capacity.
    """

    arn: str
    group: str
    name: str
    steps: tuple[Step, ...]
    warmup_s: float


@dataclass(frozen=True)
class TrackingPolicy:
    """A target tracking policy that does not scale in.

    Attributes:
        metric: what is kept at `target`.
    """

    arn: str
    group: str
    name: str
    metric: Metric
    target: float
    warmup_s: float


Policy: TypeAlias = StepPolicy | TrackingPolicy


def wanted(
    policy: Policy,
    value: float,
    threshold: float,
    ages_s: Sequence[float],
    *,
    desired: int,
    largest: int,
) -> int:
    """The group's desired capacity after a policy was told of an alarm.

    Args:
        policy: which.
        value: of the alarm's metric.
        threshold: of the alarm.
        ages_s: of the group's instances, since each was launched.
        desired: capacity that is asked for now.
        largest: that the group may have.
    """
    warm = sum(age >= policy.warmup_s for age in ages_s)
    if isinstance(policy, TrackingPolicy):
        # Rounded before rounded up, as a target of 80 % of 5 slots is not exact in binary.
        capacity = ceil(round(warm * value / policy.target, 6))
    else:
        above = value - threshold
        more = [step.more for step in policy.steps if step.lower <= above < step.upper]
        capacity = warm + sum(more) if more else desired
    return max(desired, min(largest, capacity))
