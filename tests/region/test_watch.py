"""From metrics to a group's size, by alarms and policies as they are deployed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import cast

from scripts.region_local.alarms import Alarm, Metric, Series
from scripts.region_local.cloud import Cloud
from scripts.region_local.resources import Group
from scripts.region_local.scaling import Step, StepPolicy, TrackingPolicy
from scripts.region_local.watch import Watch

QUEUED = Metric("queued", "NativeLink/x", "QueuedActions", (("Pool", "x86"),), "Maximum", 10)
WORKERS = replace(QUEUED, id="workers", name="RegisteredWorkers")
LOAD = replace(QUEUED, id="load", name="LoadRatio", statistic="Average")
STEPS = StepPolicy("arn:steps", "g", "from-zero", (Step(0, 10, 1), Step(10, inf, 4)), 120)
TRACKING = TrackingPolicy("arn:load", "g", "load", LOAD, 80, 120)
FROM_ZERO = Alarm(
    "from-zero", (QUEUED, WORKERS), "IF(workers > 0, 0, queued)", 1, 1, 0,
    "GreaterThanThreshold", "notBreaching", ("arn:steps",), "OK",
)  # fmt: skip
HIGH = Alarm(
    "high", (LOAD,), "", 3, 3, 80, "GreaterThanThreshold", "missing", ("arn:load",), "OK"
)  # fmt: skip
STRANGE = replace(FROM_ZERO, name="strange", expression="FILL(queued, 0)")
SLOW = Alarm(
    "slow", (replace(QUEUED, id="value", name="CasCallDuration", statistic="p99"),), "", 2, 2, 2,
    "GreaterThanThreshold", "notBreaching", (), "ALARM", 1000,
)  # fmt: skip
GROUP = Group("g", 0, 0, 20, (), "", ())


class FakeCloud:
    """Metrics that a test sets, and what is written."""

    def __init__(self, *alarms: Alarm) -> None:
        self.alarms_ = list(alarms)
        self.metrics: dict[str, Series] = {}
        self.states: list[tuple[str, str]] = []
        self.wanted: list[tuple[str, int]] = []

    def alarms(self) -> list[Alarm]:
        return self.alarms_

    def values(self, metrics: Sequence[Metric], begin: float, end: float) -> dict[str, Series]:
        return {
            each.id: {
                at: value
                for at, value in self.metrics.get(self._key(each), {}).items()
                if begin <= at < end
            }
            for each in metrics
        }

    def _key(self, metric: Metric) -> str:
        return "samples" if metric.statistic == "SampleCount" else metric.name

    def set_state(self, alarm: Alarm, state: str, reason: str) -> None:
        assert reason
        self.states.append((alarm.name, state))

    def want(self, group: str, count: int) -> None:
        self.wanted.append((group, count))


def watching(cloud: FakeCloud) -> tuple[Watch, list[str]]:
    said: list[str] = []
    return Watch(cast("Cloud", cloud), [STEPS, TRACKING], said.append), said


async def test_a_queue_without_workers_makes_the_alarm_go_off_and_the_group_grow() -> None:
    cloud = FakeCloud(FROM_ZERO)
    watch, said = watching(cloud)
    cloud.metrics = {"QueuedActions": {100: 0, 110: 12}, "RegisteredWorkers": {100: 0, 110: 0}}
    for now in (109, 111, 119):
        await watch.look([GROUP], {"g": []}, now)
    assert not cloud.states
    await watch.look([GROUP], {"g": []}, 121)
    assert cloud.states == [("from-zero", "ALARM")]
    assert cloud.wanted == [("g", 4)]
    assert said[1] == "g: policy from-zero wants 4 in place of 0"
    # As long as they boot, nothing is added to them.
    cloud.metrics = {"QueuedActions": {120: 50}, "RegisteredWorkers": {120: 0}}
    await watch.look([replace(GROUP, desired=4)], {"g": [5.0] * 4}, 131)
    assert cloud.wanted == [("g", 4)]
    cloud.metrics = {"QueuedActions": {130: 50}, "RegisteredWorkers": {130: 4}}
    await watch.look([replace(GROUP, desired=4)], {"g": [15.0] * 4}, 141)
    assert cloud.states[-1] == ("from-zero", "OK")
    assert [alarm.state for alarm in watch.alarms] == ["OK"]


async def test_a_load_that_lasts_makes_what_is_warm_more() -> None:
    cloud = FakeCloud(HIGH)
    watch, _ = watching(cloud)
    cloud.metrics = {"LoadRatio": {100: 200, 110: 200, 120: 200}}
    group = replace(GROUP, desired=2)
    await watch.look([group], {"g": [500.0, 500.0]}, 119)
    await watch.look([group], {"g": [500.0, 500.0]}, 131)
    assert cloud.states == [("high", "ALARM")]
    assert cloud.wanted == [("g", 5)]


async def test_an_alarm_that_cannot_be_played_is_said_once() -> None:
    cloud = FakeCloud(STRANGE)
    watch, said = watching(cloud)
    cloud.metrics = {"QueuedActions": {100: 1, 110: 1}, "RegisteredWorkers": {100: 0, 110: 0}}
    for now in (109, 111, 121):
        await watch.look([GROUP], {"g": []}, now)
    assert len(said) == 1
    assert "strange is not evaluated" in said[0]
    assert watch.alarms == []


async def test_the_newest_of_each_metric_is_shown() -> None:
    cloud = FakeCloud()
    watch, _ = watching(cloud)
    cloud.metrics = {"QueuedActions": {80: 9, 100: 3, 110: 4}, "LoadRatio": {90: 50}}
    await watch.read_pools(115)
    assert watch.pools == {"g": {"QueuedActions": 4, "LoadRatio": 50}}


async def test_few_values_leave_an_alarm_on_a_percentile_as_it_is_and_none_do_not() -> None:
    cloud = FakeCloud(SLOW)
    watch, _ = watching(cloud)
    cloud.metrics = {"CasCallDuration": {100: 1, 110: 1}, "samples": {100: 499, 110: 500}}
    await watch.look([GROUP], {"g": []}, 119)
    await watch.look([GROUP], {"g": []}, 121)
    assert cloud.states == []
    cloud.metrics = {"CasCallDuration": {110: 1, 120: 1}, "samples": {110: 500, 120: 500}}
    await watch.look([GROUP], {"g": []}, 131)
    assert cloud.states == [("slow", "OK")]
    cloud.metrics = {"CasCallDuration": {120: 3, 130: 3}, "samples": {120: 500, 130: 500}}
    await watch.look([GROUP], {"g": []}, 141)
    cloud.metrics = {}
    await watch.look([GROUP], {"g": []}, 161)
    assert cloud.states[1:] == [("slow", "ALARM"), ("slow", "OK")]
