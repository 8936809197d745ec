"""What was deployed, read back from the emulator, and the little that is written to it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]

from scripts.region_local.alarms import Alarm, Metric, Series
from scripts.region_local.scaling import (
    TRACKING_PERIODS,
    Policy,
    Step,
    StepPolicy,
    TrackingPolicy,
)

__all__ = ["Balancer", "Cloud", "Datum", "Group", "Hook", "Instance", "Listener", "Rule"]

#: An emulator checks none.
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
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


class Cloud:
    """The emulator. Every method asks it, and waits.

    Args:
        endpoint: URL of every service.
        region: AWS region.
    """

    def __init__(self, endpoint: str, region: str) -> None:
        self._endpoint, self._region = endpoint, region
        # Clients may be used by several threads, but not be made by them at the same time.
        self._autoscaling, self._cloudwatch, self._ec2, self._elb = (
            self.client(name) for name in ("autoscaling", "cloudwatch", "ec2", "elbv2")
        )
        self._events, self._names, self._sqs = (
            self.client(name) for name in ("events", "route53", "sqs")
        )
        self._secrets, self._elasticache = (
            self.client(name) for name in ("secretsmanager", "elasticache")
        )

    def client(self, service: str) -> Any:
        """boto3's client of a service."""
        return boto3.client(
            service,
            endpoint_url=self._endpoint,
            region_name=self._region,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 2}, s3={"addressing_style": "path"}),
        )

    # -- instances -----------------------------------------------------------------------------

    def groups(self) -> list[Group]:
        """Every auto scaling group, by name."""
        pages = self._autoscaling.get_paginator("describe_auto_scaling_groups").paginate()
        found = (_group(each) for page in pages for each in page["AutoScalingGroups"])
        return sorted(found, key=lambda group: group.name)

    def instance(self, id_: str, group: Group) -> Instance:
        """One instance of a group."""
        answer = self._ec2.describe_instances(InstanceIds=[id_])
        said = answer["Reservations"][0]["Instances"][0]
        data = self._ec2.describe_instance_attribute(InstanceId=id_, Attribute="userData")
        return Instance(
            id_,
            group.name,
            said["PrivateIpAddress"],
            group.kind or said["InstanceType"],
            said["Placement"]["AvailabilityZone"],
            _decoded(data["UserData"]["Value"]),
        )

    def hooks(self, group: str) -> list[Hook]:
        """Lifecycle hooks of a group."""
        answer = self._autoscaling.describe_lifecycle_hooks(AutoScalingGroupName=group)
        return [
            Hook(
                group,
                each["LifecycleHookName"],
                each["LifecycleTransition"],
                float(each["HeartbeatTimeout"]),
                each["DefaultResult"] == "CONTINUE",
            )
            for each in answer["LifecycleHooks"]
        ]

    def end(self, id_: str) -> None:
        """An instance is gone; its group replaces it."""
        self._ec2.terminate_instances(InstanceIds=[id_])

    def want(self, group: str, count: int) -> None:
        """Change a group's desired capacity."""
        self._autoscaling.set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=count)

    def secret(self, arn: str) -> str:
        """A secret's text."""
        text: str = self._secrets.get_secret_value(SecretId=arn)["SecretString"]
        return text

    def users(self) -> list[tuple[str, str]]:
        """Users of Redis that were deployed, each with its access string."""
        found = self._elasticache.describe_users()["Users"]
        return [
            (each["UserName"], each["AccessString"])
            for each in found
            if each["UserName"] != "default"
        ]

    def forget_bucket_policies(self) -> None:
        """Take away what moto gets wrong (`infra/local.py`, MOTO_MISTAKES)."""
        client = self.client("s3")
        for bucket in client.list_buckets()["Buckets"]:
            client.delete_bucket_policy(Bucket=bucket["Name"])
        client.close()

    # -- network -------------------------------------------------------------------------------

    def balancers(self) -> list[Balancer]:
        """Every load balancer, by name."""
        found = self._elb.describe_load_balancers()["LoadBalancers"]
        groups = {
            each["TargetGroupArn"]: each
            for each in self._elb.describe_target_groups()["TargetGroups"]
        }
        return sorted((self._balancer(each, groups) for each in found), key=lambda each: each.name)

    def _balancer(self, said: Mapping[str, Any], groups: Mapping[str, Any]) -> Balancer:
        arn = said["LoadBalancerArn"]
        listeners: list[Listener] = []
        for each in self._elb.describe_listeners(LoadBalancerArn=arn)["Listeners"]:
            group = groups[each["DefaultActions"][0]["TargetGroupArn"]]
            name = group["TargetGroupArn"]
            health = (int(group["HealthCheckPort"]), group["HealthCheckPath"])
            suffixes = (arn.rpartition("loadbalancer/")[2], name.rpartition(":")[2])
            listeners.append(Listener(each["Port"], name, suffixes, group["Port"], health))
        return Balancer(said["LoadBalancerName"], said["DNSName"], tuple(listeners))

    def aliases(self) -> dict[str, str]:
        """Names of private zones that lead to other names."""
        found: dict[str, str] = {}
        for zone in self._names.list_hosted_zones()["HostedZones"]:
            answer = self._names.list_resource_record_sets(HostedZoneId=zone["Id"])
            for record in answer["ResourceRecordSets"]:
                if alias := record.get("AliasTarget"):
                    found[record["Name"].rstrip(".")] = alias["DNSName"].rstrip(".")
        return found

    # -- metrics -------------------------------------------------------------------------------

    def policies(self) -> list[Policy]:
        """Every scaling policy."""
        pages = self._autoscaling.get_paginator("describe_policies").paginate()
        return [_policy(each) for page in pages for each in page["ScalingPolicies"]]

    def alarms(self) -> list[Alarm]:
        """Every alarm on metrics, but those on percentiles, which moto does not calculate."""
        pages = self._cloudwatch.get_paginator("describe_alarms").paginate()
        found = (each for page in pages for each in page["MetricAlarms"])
        return [_alarm(each) for each in found if not each.get("ExtendedStatistic")]

    def track(self, policy: TrackingPolicy) -> None:
        """Make the alarm that a target tracking policy acts by, as AWS does."""
        metric = policy.metric
        self._cloudwatch.put_metric_alarm(
            AlarmName=f"TargetTracking-{policy.group}-AlarmHigh-{policy.name}",
            AlarmDescription="Made by the target tracking policy that it is named after",
            Namespace=metric.namespace,
            MetricName=metric.name,
            Dimensions=_dimensions(metric.dimensions),
            Statistic=metric.statistic,
            Period=metric.period_s,
            EvaluationPeriods=TRACKING_PERIODS,
            Threshold=policy.target,
            ComparisonOperator="GreaterThanThreshold",
            AlarmActions=[policy.arn],
        )

    def values(self, metrics: Sequence[Metric], begin: float, end: float) -> dict[str, Series]:
        """Values of metrics by their ids, of periods that begin at `begin` or later."""
        answer = self._cloudwatch.get_metric_data(
            MetricDataQueries=[
                {
                    "Id": each.id,
                    "MetricStat": {
                        "Metric": {
                            "Namespace": each.namespace,
                            "MetricName": each.name,
                            "Dimensions": _dimensions(each.dimensions),
                        },
                        "Period": each.period_s,
                        "Stat": each.statistic,
                    },
                }
                for each in metrics
            ],
            StartTime=datetime.fromtimestamp(begin, UTC),
            EndTime=datetime.fromtimestamp(end, UTC),
        )
        return {
            each["Id"]: {
                at.timestamp(): float(value)
                for at, value in zip(each["Timestamps"], each["Values"], strict=True)
            }
            for each in answer["MetricDataResults"]
        }

    def set_state(self, alarm: Alarm, state: str, reason: str) -> None:
        """Change an alarm's state."""
        self._cloudwatch.set_alarm_state(AlarmName=alarm.name, StateValue=state, StateReason=reason)

    def publish(self, values: Iterable[Datum]) -> None:
        """Publish what other services of AWS would."""
        by_namespace: dict[str, list[dict[str, Any]]] = {}
        for each in values:
            by_namespace.setdefault(each.namespace, []).append(
                {
                    "MetricName": each.name,
                    "Dimensions": _dimensions(each.dimensions),
                    "Value": each.value,
                }
            )
        for namespace, data in by_namespace.items():
            self._cloudwatch.put_metric_data(Namespace=namespace, MetricData=data)

    # -- events --------------------------------------------------------------------------------

    def rules(self) -> list[Rule]:
        """Every rule of EventBridge that has queues as targets."""
        return [
            Rule(each["Name"], json_of(each["EventPattern"]), tuple(self._queues_of(each["Name"])))
            for each in self._events.list_rules()["Rules"]
            if "EventPattern" in each
        ]

    def _queues_of(self, rule: str) -> Iterable[str]:
        targets = self._events.list_targets_by_rule(Rule=rule)["Targets"]
        return (each["Arn"] for each in targets if each["Arn"].split(":")[2] == "sqs")

    def send(self, queue: str, text: str) -> None:
        """Put a message into the queue of an ARN."""
        url = self._sqs.get_queue_url(QueueName=queue.rpartition(":")[2])["QueueUrl"]
        self._sqs.send_message(QueueUrl=url, MessageBody=text)


def json_of(text: str) -> Mapping[str, Any]:
    """An object in JSON."""
    found: Mapping[str, Any] = json.loads(text)
    return found


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()


def _group(said: Mapping[str, Any]) -> Group:
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


def _dimensions(pairs: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """In one order, whoever asks: moto takes other orders for other metrics."""
    return [{"Name": name, "Value": value} for name, value in sorted(pairs)]


def _metric(id_: str, said: Mapping[str, Any], statistic: str, period_s: int) -> Metric:
    pairs = tuple((each["Name"], each["Value"]) for each in said.get("Dimensions", ()))
    return Metric(id_, said["Namespace"], said["MetricName"], pairs, statistic, period_s)


def _alarm(said: Mapping[str, Any]) -> Alarm:
    expression = ""
    metrics: list[Metric] = []
    for each in said.get("Metrics", ()):
        if stat := each.get("MetricStat"):
            period = int(stat["Period"])
            metrics.append(_metric(each["Id"], stat["Metric"], stat["Stat"], period))
        else:
            expression = each["Expression"]
    if not metrics:
        metrics.append(_metric("value", said, said["Statistic"], int(said["Period"])))
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
    )


def _policy(said: Mapping[str, Any]) -> Policy:
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
