"""How many workers a pool should have, and the CloudWatch policies that make it so.

`desired` is the rule. AWS evaluates policies instead, so `policies_of` derives from the same
numbers what they have to say; `scripts/simulate_fleet.py` plays both against arrivals. Nothing here
does I/O or needs a library, so that infrastructure code can use it.

The rule: actions that wait and actions that run shall take up `target` of all slots. A backlog
alone would not do, as it is 0 while every worker is busy and nothing waits. What waits counts the
more the longer the first of it does: a queue that moves is over before a machine comes, one that
stands is not. And all of it counts no further than to what ran lately, one worker, and another one
(of a large pool, a tenth of it) for each minute that something has waited; or to an eighth of
all actions, if that is more: half of all builds are over before a machine is there,
and what was started for each of them would be idle (docs/fleet-simulation.md). Workers are never
taken away by the rule: who knows which one is idle is the worker (`aws/departure.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import Final

from nativelink.aws.past import Past

__all__ = [
    "PATIENCE_S",
    "FromZero",
    "ScalingPolicies",
    "ScalingRule",
    "Step",
    "TargetTracking",
    "desired",
    "load_ratio",
    "policies_of",
]

#: Metrics are published, and policies evaluated, this often, in seconds.
PERIOD_S: Final = 10
#: A queue counts in full whose first action waits for so long: about twice what a machine takes.
PATIENCE_S: Final = 180.0
#: A queue that is gone sooner needs no machine: none would be there in time.
_STANDING_S: Final = 90.0
#: After that, a pool with a queue grows by a worker in so many seconds, and a large one by a part
#: of itself: one in so many workers.
_WORKER_S: Final = 60.0
_GROWTH: Final = 10
#: Of all actions a queue's pool may take up so many at once, whatever ran lately: one worker that
#: is busy shall not keep a pool of hundreds from growing.
_AT_ONCE: Final = 8
#: Of the workers that a queue would take up, so many are started at once where there is none: most
#: builds are over soon, and for the others target tracking starts more a minute later.
_FIRST: Final = 4
#: An auto scaling group's policy has at most so many steps (EC2 Auto Scaling quotas).
_MAX_STEPS: Final = 20
#: What boots counts as capacity that is not there yet for so much longer than it takes to boot:
#: a policy that took it for there would ask for the same machines again (docs/fleet-simulation.md).
_WARMUP_MARGIN_S: Final = 30


@dataclass(frozen=True, slots=True)
class ScalingRule:
    """What the size of a pool follows from.

    Attributes:
        slots: actions that one worker runs at the same time.
        target: part of the slots that should be taken, above 0 and up to 1; what is left is for
            what comes while new workers boot.
        smallest: workers that stay when there is nothing to do.
        largest: workers that there may be.
        boot_s: seconds from asking for a worker to its first action.
    """

    slots: int
    target: float = 0.8
    smallest: int = 0
    largest: int = 50
    boot_s: float = 90.0

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"slots is {self.slots}: 1 or more are allowed")
        if not 0 < self.target <= 1:
            raise ValueError(f"target is {self.target}: above 0 and up to 1 is allowed")
        if not 0 <= self.smallest <= self.largest:
            raise ValueError(
                f"smallest is {self.smallest} and largest {self.largest}: 0 <= smallest <= largest "
                "is needed"
            )


def desired(
    queued: int,
    running: int,
    workers: int,
    slots: int,
    *,
    target: float = 0.8,
    smallest: int = 0,
    largest: int = 50,
    oldest_queued_s: float = inf,
    past: Past | None = None,
) -> int:
    """How many workers there should be.

    Args:
        queued: actions that wait.
        running: actions that run.
        workers: those that there are.
        slots: actions that one worker runs at the same time, 1 or more.
        target: part of the slots that should be taken, above 0.
        smallest: never fewer.
        largest: never more.
        oldest_queued_s: for so long the first action waits; what waits counts in full if nobody
            knows.
        past: bounds how far actions count; nothing does if nobody knows.

    Returns:
        Enough for all actions at the target, as far as they count. Not fewer than may be busy: in
        the worst case each running action has a worker to itself.
    """
    # Rounded before rounded up: 0.8 * 5 is a little more than 4 in binary.
    load = _counted(queued, running, workers, slots, oldest_queued_s, past)
    needed = ceil(round(load / (slots * target), 6))
    busy = min(running, workers)
    return max(smallest, min(largest, max(needed, busy)))


def load_ratio(
    queued: int,
    running: int,
    workers: int,
    slots: int,
    *,
    oldest_queued_s: float = inf,
    past: Past | None = None,
) -> float:
    """Percent of the pool's slots that all actions would take up, as far as they count.

    It is the metric of the policies.

    Args:
        queued: actions that wait.
        running: actions that run.
        workers: those that there are.
        slots: of all workers; of one worker while there is none, so that a queue shows.
        oldest_queued_s: as of `desired`.
        past: likewise.
    """
    each = slots / max(workers, 1)
    return 100.0 * _counted(queued, running, workers, each, oldest_queued_s, past) / max(slots, 1)


def _counted(
    queued: int,
    running: int,
    workers: int,
    slots: float,
    oldest_queued_s: float,
    past: Past | None,
) -> float:
    """What runs, and what waits by how long: all of it where nobody works, as it would for ever.

    `slots` are those of one worker.
    """
    if not workers:
        return float(queued + running)
    load = running + queued * min(1.0, oldest_queued_s / PATIENCE_S)
    if past is None:
        return load
    minutes = max(0.0, past.waiting_s - _STANDING_S) / _WORKER_S
    more = slots * (1 + minutes * max(1.0, workers / _GROWTH))
    return min(load, max(past.running + more, (queued + running) / _AT_ONCE))


@dataclass(frozen=True, slots=True)
class TargetTracking:
    """A target tracking policy on `LoadRatio`.

    Attributes:
        metric: name of the metric.
        statistic: of the values of a period.
        period_s: of evaluation.
        target: of the metric.
        disable_scale_in: always; workers leave by themselves.
        warmup_s: seconds for which a new machine is not yet counted as capacity. Longer than it
            takes to boot, as the metric does not count it either before it joins.
    """

    target: float
    warmup_s: int
    metric: str = "LoadRatio"
    statistic: str = "Average"
    period_s: int = PERIOD_S
    disable_scale_in: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """What a step policy adds.

    Attributes:
        lower: from so much above the alarm's threshold on, inclusive.
        upper: up to so much above it, exclusive; None is no limit.
        workers: so many more.
    """

    lower: float
    upper: float | None
    workers: int


@dataclass(frozen=True, slots=True)
class FromZero:
    """A step policy for a pool without workers, whose load ratio no multiple of which is one.

    Attributes:
        expression: metric math of the alarm, over the two metrics below: the queue while nobody
            works, else 0, so that it never adds to what target tracking does.
        queued: the metric that `queued` stands for in it.
        workers: the metric that `workers` stands for in it.
        statistic: of the values of a period.
        period_s: of evaluation.
        evaluation_periods: that must be above the threshold.
        threshold: above which it acts.
        adjustment: how the steps are meant.
        steps: contiguous, from 0.
        warmup_s: as in TargetTracking.
    """

    steps: tuple[Step, ...]
    warmup_s: int
    expression: str = "IF(workers > 0, 0, queued)"
    queued: str = "QueuedActions"
    workers: str = "RegisteredWorkers"
    statistic: str = "Maximum"
    period_s: int = PERIOD_S
    evaluation_periods: int = 1
    threshold: float = 0.0
    adjustment: str = "ChangeInCapacity"


@dataclass(frozen=True, slots=True)
class ScalingPolicies:
    """The policies of one pool's auto scaling group."""

    target_tracking: TargetTracking
    from_zero: FromZero


def policies_of(rule: ScalingRule) -> ScalingPolicies:
    """The policies that bring a group to what `desired` says.

    Target tracking multiplies the group's capacity by metric / target; with the load ratio that
    is `desired` exactly. Steps can only be coarse: each adds a quarter of what the most of its
    range would take up, so a pool begins with at most half as many workers as `desired` says.
    """
    warmup_s = ceil(rule.boot_s + _WARMUP_MARGIN_S)
    largest = max(1, ceil(rule.largest / _FIRST))
    counts = [1]
    while counts[-1] < largest and len(counts) < _MAX_STEPS:
        counts.append(min(2 * counts[-1], largest))
    capacity = rule.slots * rule.target * _FIRST
    steps: list[Step] = []
    for index, count in enumerate(counts):
        lower = steps[-1].upper if steps else 0.0
        assert lower is not None
        last = index == len(counts) - 1
        steps.append(Step(lower, None if last else count * capacity, count))
    return ScalingPolicies(
        TargetTracking(target=100 * rule.target, warmup_s=warmup_s),
        FromZero(tuple(steps), warmup_s),
    )
