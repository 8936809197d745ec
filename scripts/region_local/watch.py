"""Looks at metrics as CloudWatch does, and follows the policies of those alarms that go off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from scripts.region_local.alarms import ALARM, Alarm, is_due, judge, points
from scripts.region_local.cloud import Cloud
from scripts.region_local.metric_math import MathError
from scripts.region_local.resources import Group
from scripts.region_local.scaling import Policy, TrackingPolicy, wanted

__all__ = ["POOL_METRICS", "Watch"]

#: What the scheduler publishes of each pool.
POOL_METRICS: Final = (
    "QueuedActions", "RunningActions", "OldestQueuedSeconds", "IdleWorkers", "RegisteredWorkers",
    "LoadRatio",
)  # fmt: skip

#: The id of how many values a metric had.
_SAMPLES: Final = "samples"


@dataclass
class _Watched:
    alarm: Alarm
    evaluated_at: float


class Watch:
    """Alarms that were deployed, and what follows from them.

    Args:
        cloud: has the metrics.
        policies: of all groups.
        say: told of every change.

    Attributes:
        pools: the newest of each pool's metrics, by its group and their names.
    """

    def __init__(
        self, cloud: Cloud, policies: Sequence[Policy], say: Callable[[str], None]
    ) -> None:
        self.pools: dict[str, dict[str, float]] = {}
        self._cloud = cloud
        self._policies = policies
        self._say = say
        self._watched: dict[str, _Watched] | None = None

    @property
    def alarms(self) -> list[Alarm]:
        """Every alarm as it is now, by name."""
        watched = (self._watched or {}).values()
        return sorted((each.alarm for each in watched), key=lambda alarm: alarm.name)

    async def look(
        self, groups: Sequence[Group], ages_s: Mapping[str, Sequence[float]], now: float
    ) -> None:
        """Evaluate the alarms for which a period is over.

        Args:
            groups: as they are now.
            ages_s: of each group's instances, since they were launched.
            now: seconds since the Unix epoch.
        """
        if self._watched is None:
            alarms = await asyncio.to_thread(self._cloud.alarms)
            self._watched = {each.name: _Watched(each, now) for each in alarms}
        for watched in list(self._watched.values()):
            if not is_due(watched.alarm, watched.evaluated_at, now):
                continue
            watched.evaluated_at = now
            try:
                value = await self._evaluate(watched, now)
            except MathError as error:
                self._say(f"alarm {watched.alarm.name} is not evaluated: {error}")
                del self._watched[watched.alarm.name]
                continue
            if watched.alarm.state == ALARM and value is not None:
                await self._scale(watched.alarm, value, groups, ages_s)

    async def _evaluate(self, watched: _Watched, now: float) -> float | None:
        """Bring an alarm's state up to date; gives the newest value."""
        alarm = watched.alarm
        end = now // alarm.period_s * alarm.period_s
        begin = end - alarm.periods * alarm.period_s
        metrics = list(alarm.metrics)
        if alarm.fewest:
            metrics.append(replace(metrics[0], id=_SAMPLES, statistic="SampleCount"))
        series = await asyncio.to_thread(self._cloud.values, metrics, begin, end)
        if 0 < sum(series.get(_SAMPLES, {}).values()) < alarm.fewest:
            return None
        found = points(alarm, series, now)
        state = judge(alarm, found)
        if state != alarm.state:
            said = ", ".join("none" if value is None else f"{value:g}" for value in found)
            reason = f"{said} against {alarm.comparison} {alarm.threshold:g}"
            await asyncio.to_thread(self._cloud.set_state, alarm, state, reason)
            self._say(f"alarm {alarm.name}: {alarm.state} -> {state} ({reason})")
            watched.alarm = replace(alarm, state=state)
        return found[-1]

    async def _scale(
        self,
        alarm: Alarm,
        value: float,
        groups: Sequence[Group],
        ages_s: Mapping[str, Sequence[float]],
    ) -> None:
        """Do what the alarm's policies say.

        Every period while it lasts. AWS invokes them once a minute then; machines come faster here.
        """
        for policy in self._policies:
            if policy.arn not in alarm.actions:
                continue
            group = next(each for each in groups if each.name == policy.group)
            count = wanted(
                policy,
                value,
                alarm.threshold,
                ages_s[group.name],
                desired=group.desired,
                largest=group.largest,
            )
            if count != group.desired:
                await asyncio.to_thread(self._cloud.want, group.name, count)
                self._say(
                    f"{group.name}: policy {policy.name} wants {count} in place of {group.desired}"
                )

    async def read_pools(self, now: float) -> None:
        """Look at what the scheduler published last."""
        for policy in self._policies:
            if not isinstance(policy, TrackingPolicy):
                continue
            metrics = [
                replace(policy.metric, id=name[0].lower() + name[1:], name=name)
                for name in POOL_METRICS
            ]
            period_s = policy.metric.period_s
            end = now // period_s * period_s + period_s
            series = await asyncio.to_thread(self._cloud.values, metrics, end - 3 * period_s, end)
            self.pools[policy.group] = {
                metric.name: values[max(values)]
                for metric in metrics
                if (values := series.get(metric.id))
            }
