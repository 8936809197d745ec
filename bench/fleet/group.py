"""An auto scaling group as its documentation describes it, under our two policies.

EC2 Auto Scaling User Guide: what warms up is not yet capacity, and a policy that asks for less than
what was asked for already changes nothing ("Set the default instance warmup"). A target tracking
policy acts when three periods in a row are above its target. Metrics arrive one period late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import ceil
from typing import Final

from nativelink.aws.past import Past
from nativelink.aws.scaling import ScalingPolicies, ScalingRule, load_ratio

__all__ = ["Figures", "Group"]

#: Periods above the target until target tracking acts.
_BREACHES: Final = 3
#: Values that CloudWatch has not shown to alarms yet.
_LATE: Final = 1


class Figures:
    """What the scheduler publishes at one moment.

    Args:
        queued: actions that wait.
        running: actions that run.
        workers: registered ones that take actions.
        slots: of all of them, or of one if there is none.
        oldest_queued_s: for so long the first action waits.
        past: what was before; None where the rule shall not know it.
    """

    __slots__ = ("queued", "ratio", "workers")

    def __init__(
        self,
        queued: int,
        running: int,
        workers: int,
        slots: int,
        oldest_queued_s: float,
        past: Past | None = None,
    ) -> None:
        self.queued = queued
        self.workers = workers
        self.ratio = load_ratio(
            queued, running, workers, slots, oldest_queued_s=oldest_queued_s, past=past
        )


class Group:
    """Decides how many machines are wanted.

    Args:
        rule: bounds.
        policies: what is evaluated every period.

    Attributes:
        desired: machines that are wanted.
    """

    def __init__(self, rule: ScalingRule, policies: ScalingPolicies) -> None:
        self.desired = rule.smallest
        self._rule = rule
        self._policies = policies
        self._seen: deque[Figures] = deque(maxlen=_BREACHES + _LATE)

    def evaluate(self, figures: Figures, launched: Sequence[float], now: float) -> None:
        """A period is over.

        Args:
            figures: of now.
            launched: when each machine of the group was launched.
            now: seconds.
        """
        self._seen.append(figures)
        known = list(self._seen)[: len(self._seen) - _LATE]
        if not known:
            return
        self._step(known[-1])
        self._track(known, launched, now)

    def ended(self) -> None:
        """A machine ended itself, and wants one fewer."""
        self.desired = max(self._rule.smallest, self.desired - 1)

    def _step(self, figures: Figures) -> None:
        policy = self._policies.from_zero
        above = (0 if figures.workers else figures.queued) - policy.threshold
        if above <= 0:
            return
        for step in policy.steps:
            if step.lower <= above and (step.upper is None or above < step.upper):
                # What it asked for at the last period boots still: the steps are not added up.
                self._want(step.workers)

    def _track(self, known: Sequence[Figures], launched: Sequence[float], now: float) -> None:
        policy = self._policies.target_tracking
        if len(known) < _BREACHES or any(each.ratio <= policy.target for each in known):
            return
        warm = sum(now - at >= policy.warmup_s for at in launched)
        self._want(ceil(warm * known[-1].ratio / policy.target))

    def _want(self, count: int) -> None:
        self.desired = max(self.desired, min(self._rule.largest, count))
