"""What was deployed, read back from the emulator, and the little that is written to it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import boto3
from botocore.config import Config

from scripts.region_local.alarms import Alarm, Metric, Series
from scripts.region_local.resources import (
    Balancer,
    Datum,
    Group,
    Hook,
    Instance,
    Listener,
    Rule,
    alarm_of,
    dimensions_of,
    group_of,
    hook_of,
    json_of,
    policy_of,
)
from scripts.region_local.scaling import TRACKING_PERIODS, Policy, TrackingPolicy

__all__ = ["CREDENTIALS", "Cloud"]

#: An emulator checks none.
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
_SERVICES: Final = (
    "autoscaling", "cloudwatch", "ec2", "elasticache", "elbv2", "events", "route53",
    "secretsmanager", "sqs",
)  # fmt: skip


class Cloud:
    """The emulator. Every method asks it, and waits.

    Args:
        endpoint: URL of every service.
        region: AWS region.
    """

    def __init__(self, endpoint: str, region: str) -> None:
        self._endpoint, self._region = endpoint, region
        # Clients may be used by several threads, but not be made by them at the same time.
        clients = {name: self.client(name) for name in _SERVICES}
        self._clients = clients.values()
        self._autoscaling, self._cloudwatch = clients["autoscaling"], clients["cloudwatch"]
        self._ec2, self._elb = clients["ec2"], clients["elbv2"]
        self._events, self._sqs = clients["events"], clients["sqs"]
        self._names, self._secrets = clients["route53"], clients["secretsmanager"]
        self._elasticache = clients["elasticache"]

    def close(self) -> None:
        """Give connections back."""
        for client in self._clients:
            client.close()

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
        found = (group_of(each) for page in pages for each in page["AutoScalingGroups"])
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
            base64.b64decode(data["UserData"]["Value"]).decode(),
        )

    def hooks(self, group: str) -> list[Hook]:
        """Lifecycle hooks of a group."""
        answer = self._autoscaling.describe_lifecycle_hooks(AutoScalingGroupName=group)
        return [hook_of(group, each) for each in answer["LifecycleHooks"]]

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
        return [policy_of(each) for page in pages for each in page["ScalingPolicies"]]

    def alarms(self) -> list[Alarm]:
        """Every alarm on metrics."""
        pages = self._cloudwatch.get_paginator("describe_alarms").paginate()
        return [alarm_of(each) for page in pages for each in page["MetricAlarms"]]

    def track(self, policy: TrackingPolicy) -> None:
        """Make the alarm that a target tracking policy acts by, as AWS does."""
        metric = policy.metric
        self._cloudwatch.put_metric_alarm(
            AlarmName=f"TargetTracking-{policy.group}-AlarmHigh-{policy.name}",
            AlarmDescription="Made by the target tracking policy that it is named after",
            Namespace=metric.namespace,
            MetricName=metric.name,
            Dimensions=dimensions_of(metric.dimensions),
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
                            "Dimensions": dimensions_of(each.dimensions),
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
                    "Dimensions": dimensions_of(each.dimensions),
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
