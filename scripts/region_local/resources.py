"""What is deployed, as values: read from what an AWS API says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scripts.region_local.alarms import Alarm, Metric, least_samples
from scripts.region_local.scaling import Policy, Step, StepPolicy, TrackingPolicy

__all__ = [
    "LAUNCHING",
    "TERMINATING",
    "Balancer",
    "Datum",
    "Group",
    "Hook",
    "Instance",
    "Listener",
    "Rule",
    "alarm_of",
    "dimensions_of",
    "group_of",
    "hook_of",
    "json_of",
    "policy_of",
]

LAUNCHING: Final = "autoscaling:EC2_INSTANCE_LAUNCHING"
TERMINATING: Final = "autoscaling:EC2_INSTANCE_TERMINATING"


@dataclass(frozen=True)
class Instance:
    """An instance that a group wants.

    Attributes:
        address: in the region's network.
        kind: instance type.
    """

    id: str
    group: str
    address: str
    kind: str
    zone: str
    user_data: str


@dataclass(frozen=True)
class Group:
    """An auto scaling group.

    Attributes:
        instances: ids of those that it wants.
        kind: instance type of the next one; empty leaves it to the instance.
        targets: ARNs of target groups that its instances join.
    """

    name: str
    smallest: int
    desired: int
    largest: int
    instances: tuple[str, ...]
    kind: str
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Hook:
    """A lifecycle hook.

    Attributes:
        transition: LAUNCHING or TERMINATING.
        timeout_s: without a heartbeat.
        goes_on: what happens then: CONTINUE or ABANDON.
    """

    group: str
    name: str
    transition: str
    timeout_s: float
    goes_on: bool


@dataclass(frozen=True)
class Listener:
    """A port of a load balancer.

    Attributes:
        group: ARN of the target group.
        suffixes: by which CloudWatch names balancer and target group.
        target_port: of machines.
        health: port and path that say whether a machine is well.
    """

    port: int
    group: str
    suffixes: tuple[str, str]
    target_port: int
    health: tuple[int, str]


@dataclass(frozen=True)
class Balancer:
    """A load balancer.

    Attributes:
        host: its name in DNS.
    """

    name: str
    host: str
    listeners: tuple[Listener, ...]


@dataclass(frozen=True)
class Rule:
    """A rule of EventBridge.

    Attributes:
        pattern: as deployed.
        queues: ARNs of the SQS queues that get what fits.
    """

    name: str
    pattern: Mapping[str, Any]
    queues: tuple[str, ...]


@dataclass(frozen=True)
class Datum:
    """A value that AWS' own services would publish."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]
    value: float


def json_of(text: str) -> Mapping[str, Any]:
    """An object in JSON."""
    found: Mapping[str, Any] = json.loads(text)
    return found


def hook_of(group: str, said: Mapping[str, Any]) -> Hook:
    """A group's, as DescribeLifecycleHooks says it."""
    return Hook(
        group,
        said["LifecycleHookName"],
        said["LifecycleTransition"],
        float(said["HeartbeatTimeout"]),
        said["DefaultResult"] == "CONTINUE",
    )


def group_of(said: Mapping[str, Any]) -> Group:
    """As DescribeAutoScalingGroups says it."""
    mixed = said.get("MixedInstancesPolicy", {}).get("LaunchTemplate", {}).get("Overrides", [])
    return Group(
        said["AutoScalingGroupName"],
        said["MinSize"],
        said["DesiredCapacity"],
        said["MaxSize"],
        tuple(each["InstanceId"] for each in said["Instances"]),
        mixed[0]["InstanceType"] if mixed else "",
        tuple(said.get("TargetGroupARNs", ())),
    )


def dimensions_of(pairs: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """In one order, whoever asks: moto takes other orders for other metrics."""
    return [{"Name": name, "Value": value} for name, value in sorted(pairs)]


def _metric(id_: str, said: Mapping[str, Any], statistic: str, period_s: int) -> Metric:
    pairs = tuple((each["Name"], each["Value"]) for each in said.get("Dimensions", ()))
    return Metric(id_, said["Namespace"], said["MetricName"], pairs, statistic, period_s)


def alarm_of(said: Mapping[str, Any]) -> Alarm:
    """As DescribeAlarms says it."""
    expression = ""
    metrics: list[Metric] = []
    for each in said.get("Metrics", ()):
        if stat := each.get("MetricStat"):
            period = int(stat["Period"])
            metrics.append(_metric(each["Id"], stat["Metric"], stat["Stat"], period))
        else:
            expression = each["Expression"]
    fewest = 0
    if not metrics:
        percentile = said.get("ExtendedStatistic") or ""
        statistic = said.get("Statistic") or percentile
        metrics.append(_metric("value", said, statistic, int(said["Period"])))
        if percentile and said.get("EvaluateLowSampleCountPercentile") == "ignore":
            fewest = least_samples(float(percentile.removeprefix("p")))
    periods = int(said["EvaluationPeriods"])
    return Alarm(
        said["AlarmName"],
        tuple(metrics),
        expression,
        periods,
        int(said.get("DatapointsToAlarm") or periods),
        float(said["Threshold"]),
        said["ComparisonOperator"],
        said.get("TreatMissingData") or "missing",
        tuple(said.get("AlarmActions", ())),
        said["StateValue"],
        fewest,
    )


def policy_of(said: Mapping[str, Any]) -> Policy:
    """As DescribePolicies says it.

    Raises:
        ValueError: it is of a kind that is not played here.
    """
    arn, group, name = said["PolicyARN"], said["AutoScalingGroupName"], said["PolicyName"]
    warmup_s = float(said.get("EstimatedInstanceWarmup") or 0)
    match said["PolicyType"], said.get("AdjustmentType"):
        case "StepScaling", "ChangeInCapacity":
            steps = tuple(
                Step(
                    float(each.get("MetricIntervalLowerBound", "-inf")),
                    float(each.get("MetricIntervalUpperBound", "inf")),
                    int(each["ScalingAdjustment"]),
                )
                for each in said["StepAdjustments"]
            )
            return StepPolicy(arn, group, name, steps, warmup_s)
        case "TargetTrackingScaling", _:
            tracking = said["TargetTrackingConfiguration"]
            (query,) = tracking["CustomizedMetricSpecification"]["Metrics"]
            stat = query["MetricStat"]
            metric = _metric(query["Id"], stat["Metric"], stat["Stat"], int(stat["Period"]))
            return TrackingPolicy(
                arn, group, name, metric, float(tracking["TargetValue"]), warmup_s
            )
        case other:
            raise ValueError(f"{name}: a policy that is not played here: {other}")
