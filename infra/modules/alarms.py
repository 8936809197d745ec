"""What people are called by: alarms of everything that hurts users or soon will."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from constructs import Construct

from infra._cdk import (
    AcmCertificate,
    CloudwatchCompositeAlarm,
    CloudwatchMetricAlarm,
    CloudwatchMetricAlarmMetricQuery,
    CloudwatchMetricAlarmMetricQueryMetric,
    LbTargetGroup,
    SnsTopic,
)
from infra.kit import Kit
from infra.modules.drain_queue import DrainQueue
from infra.modules.load_balancer import LoadBalancer
from infra.modules.redis import Redis
from infra.modules.roles import namespace_of
from infra.settings import MutualTls

__all__ = ["Alarms"]


class Alarms(Construct):
    """Alarms of everything that hurts users or soon will, and one of all that hurts them now."""

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        kit: Kit,
        topic: SnsTopic,
        edge: LoadBalancer,
        targets: Mapping[str, tuple[LoadBalancer, LbTargetGroup]],
        redis: Redis,
        queue: DrainQueue,
        certificate: AcmCertificate | None,
    ) -> None:
        """Makes them.

        Args:
            edge: the clients' balancer.
            targets: by name; `cas` and `scheduler` are what users need.
            certificate: if the kit asked for one.
        """
        super().__init__(scope, id_)
        self._kit, self._topic = kit, topic
        users = [self._unhealthy(name, *targets[name], every=True) for name in ("cas", "scheduler")]
        for name, (balancer, group) in targets.items():
            self._unhealthy(name, balancer, group, every=False)
        self._service_down(users)
        self._alarm(
            "resets",
            "The clients' balancer cuts connections that were silent for too long: their .bazelrc "
            "lacks --grpc_keepalive_time",
            namespace="AWS/NetworkELB",
            metric="TCP_ELB_Reset_Count",
            dimensions={"LoadBalancer": edge.lb.arn_suffix},
            above=_RESETS,
            statistic="Sum",
            period_s=300,
        )
        self._calls()
        self._pools()
        self._drain_queue(queue)
        if redis.replication_group_id is not None:
            self._redis(redis.replication_group_id)
        if kit.settings.alarms.paid_metrics:
            self._storage()
        if certificate is not None:
            self._certificate(certificate)
        if isinstance(kit.settings.tls, MutualTls):
            self._tls_files()

    def _alarm(
        self,
        id_: str,
        description: str,
        *,
        namespace: str,
        metric: str,
        dimensions: dict[str, str],
        above: float | None = None,
        below: float | None = None,
        statistic: str = "Maximum",
        period_s: int = 60,
        periods: int = 3,
        missing: str = "notBreaching",
    ) -> CloudwatchMetricAlarm:
        """An alarm that mails when it begins and when it ends."""
        threshold = above if above is not None else below
        return CloudwatchMetricAlarm(
            self,
            id_,
            alarm_name=self._kit.name(id_),
            alarm_description=description,
            namespace=namespace,
            metric_name=metric,
            dimensions=dimensions or None,
            statistic=statistic,
            period=period_s,
            evaluation_periods=periods,
            threshold=threshold,
            comparison_operator="GreaterThanThreshold"
            if above is not None
            else "LessThanThreshold",
            treat_missing_data=missing,
            alarm_actions=[self._topic.arn],
            ok_actions=[self._topic.arn],
        )

    def _ratio(
        self,
        id_: str,
        description: str,
        *,
        part: CloudwatchMetricAlarmMetricQuery,
        other: CloudwatchMetricAlarmMetricQuery,
        whole: str,
        least: int,
        above: int | None = None,
        below: int | None = None,
        periods: int,
    ) -> None:
        """An alarm on the metric `part` in percent of `whole`.

        Args:
            whole: an expression of `part` and `other`.
            least: with so few or fewer in the whole there is no alarm.
        """
        calm = 0 if above is not None else 100
        CloudwatchMetricAlarm(
            self,
            id_,
            alarm_name=self._kit.name(id_),
            alarm_description=description,
            evaluation_periods=periods,
            threshold=above if above is not None else below,
            comparison_operator="GreaterThanThreshold"
            if above is not None
            else "LessThanThreshold",
            treat_missing_data="notBreaching",
            metric_query=[
                part,
                other,
                CloudwatchMetricAlarmMetricQuery(
                    id="percent",
                    expression=f"IF(({whole}) > {least}, 100 * part / ({whole}), {calm})",
                    label="percent",
                    return_data=True,
                ),
            ],
            alarm_actions=[self._topic.arn],
            ok_actions=[self._topic.arn],
        )

    def _unhealthy(
        self, name: str, balancer: LoadBalancer, group: LbTargetGroup, *, every: bool
    ) -> CloudwatchMetricAlarm:
        """No machine at all answers (`every`), or one of them does not."""
        return self._alarm(
            f"{name}-{'down' if every else 'unhealthy'}",
            f"{'No machine' if every else 'A machine'} behind {name} "
            f"{'answers' if every else 'does not answer'} /status",
            namespace="AWS/NetworkELB",
            metric="HealthyHostCount" if every else "UnHealthyHostCount",
            dimensions={
                "TargetGroup": group.arn_suffix,
                "LoadBalancer": balancer.lb.arn_suffix,
            },
            below=1 if every else None,
            above=None if every else 0,
            statistic="Maximum" if every else "Minimum",
            missing="breaching" if every else "notBreaching",
        )

    def _service_down(self, alarms: Sequence[CloudwatchMetricAlarm]) -> None:
        kit = self._kit
        if not kit.makes("aws_cloudwatch_composite_alarm"):
            return
        CloudwatchCompositeAlarm(
            self,
            "service-down",
            alarm_name=kit.name("service-down"),
            alarm_description="Builds fail or wait: clients reach no cache, or no scheduler",
            alarm_rule=" OR ".join(f'ALARM("{each.alarm_name}")' for each in alarms),
            alarm_actions=[self._topic.arn],
            ok_actions=[self._topic.arn],
        )

    def _calls(self) -> None:
        """What clients notice: failures, slowness, and a cache that has nothing."""
        kit, wanted = self._kit, self._kit.settings.alarms
        namespace = namespace_of(kit)
        self._ratio(
            "failing",
            f"More than {wanted.failed_percent} % of all calls fail by the servers' fault",
            part=_metric("part", namespace, "FailedCalls", {}, "Sum"),
            other=_metric("other", namespace, "Calls", {}, "Sum"),
            whole="other",
            least=100,
            above=wanted.failed_percent,
            periods=5,
        )
        if wanted.hit_percent:
            self._ratio(
                "no-hits",
                f"Less than {wanted.hit_percent} % of the action results that clients ask for are "
                "in the cache",
                part=_metric("part", namespace, "ActionCacheHits", {}, "Sum", 1800),
                other=_metric("other", namespace, "ActionCacheMisses", {}, "Sum", 1800),
                whole="part + other",
                least=1000,
                below=wanted.hit_percent,
                periods=1,
            )
        CloudwatchMetricAlarm(
            self,
            "slow",
            alarm_name=kit.name("slow"),
            alarm_description=f"One in a hundred calls of the CAS takes more than "
            f"{wanted.cas_p99_ms} ms",
            namespace=namespace,
            metric_name="CasCallDuration",
            extended_statistic="p99",
            # A few calls say nothing about one in a hundred.
            evaluate_low_sample_count_percentiles="ignore",
            period=60,
            evaluation_periods=5,
            threshold=wanted.cas_p99_ms / 1000,
            comparison_operator="GreaterThanThreshold",
            treat_missing_data="notBreaching",
            alarm_actions=[self._topic.arn],
            ok_actions=[self._topic.arn],
        )

    def _pools(self) -> None:
        kit = self._kit
        namespace = namespace_of(kit)
        for pool in kit.settings.pools:
            of_pool = {"Pool": pool.name}
            self._alarm(
                f"{pool.name}-waiting",
                f"Actions wait too long for pool {pool.name}: no spot capacity, or `max` too small",
                namespace=namespace,
                metric="OldestQueuedSeconds",
                dimensions=of_pool,
                above=kit.settings.alarms.queue_s,
            )
            self._alarm(
                f"{pool.name}-interrupted",
                f"Many spot interruptions in pool {pool.name}: more instance types help",
                namespace=namespace,
                metric="Interruptions",
                dimensions=of_pool,
                above=kit.settings.alarms.spot_interruptions,
                statistic="Sum",
                period_s=3600,
                periods=1,
            )
            self._alarm(
                f"{pool.name}-pending",
                f"Workers of pool {pool.name} are launched and never ready",
                namespace="AWS/AutoScaling",
                metric="GroupPendingInstances",
                dimensions={"AutoScalingGroupName": kit.group("worker", pool.name)},
                above=0,
                statistic="Minimum",
                periods=max(10, 4 * pool.boot_s // 60),
            )
        self._alarm(
            "no-pool",
            "Actions wait that no pool could ever run: their platform properties fit nowhere",
            namespace=namespace,
            metric="QueuedActions",
            dimensions={"Pool": "none"},
            above=0,
            periods=5,
        )
        self._alarm(
            "no-metrics",
            "The scheduler publishes nothing: pools do not grow",
            namespace=namespace,
            metric="RegisteredWorkers",
            dimensions={"Pool": kit.settings.pools[0].name},
            below=0,
            periods=5,
            missing="breaching",
        )

    def _drain_queue(self, queue: DrainQueue) -> None:
        self._alarm(
            "drain-age",
            "Nobody reads what AWS says about leaving workers",
            namespace="AWS/SQS",
            metric="ApproximateAgeOfOldestMessage",
            dimensions={"QueueName": queue.queue.name},
            above=120,
        )
        self._alarm(
            "drain-dead",
            "A message about a leaving worker could not be handled",
            namespace="AWS/SQS",
            metric="ApproximateNumberOfMessagesVisible",
            dimensions={"QueueName": queue.dead.name},
            above=0,
            periods=1,
        )

    def _redis(self, group: str) -> None:
        for node in range(1, self._kit.settings.redis.replicas + 2):
            cluster = {"CacheClusterId": f"{group}-{node:03}"}
            for id_, metric, above, description in _REDIS:
                self._alarm(
                    f"redis-{node}-{id_}",
                    description,
                    namespace="AWS/ElastiCache",
                    metric=metric,
                    dimensions=cluster,
                    above=above,
                    statistic="Average",
                    period_s=300,
                )

    def _storage(self) -> None:
        kit = self._kit
        for bucket in ("cas", "ac"):
            of_bucket = {"BucketName": kit.bucket(bucket), "FilterId": "EntireBucket"}
            self._alarm(
                f"s3-{bucket}-5xx",
                f"S3 fails requests to the {bucket} bucket, or asks to slow down",
                namespace="AWS/S3",
                metric="5xxErrors",
                dimensions=of_bucket,
                above=50,
                statistic="Sum",
            )
            self._ratio(
                f"s3-{bucket}-4xx",
                f"S3 refuses nearly all requests to the {bucket} bucket",
                part=_metric("part", "AWS/S3", "4xxErrors", of_bucket, "Sum"),
                other=_metric("other", "AWS/S3", "AllRequests", of_bucket, "Sum"),
                whole="other",
                least=100,
                above=95,
                periods=5,
            )

    def _certificate(self, certificate: AcmCertificate) -> None:
        self._alarm(
            "certificate",
            "The certificate that clients see expires within three weeks and was not renewed",
            namespace="AWS/CertificateManager",
            metric="DaysToExpiry",
            dimensions={"CertificateArn": certificate.arn},
            below=21,
            statistic="Minimum",
            period_s=86_400,
            periods=1,
        )

    def _tls_files(self) -> None:
        self._alarm(
            "certificate",
            f"The servers' certificate, its authority or the list of revoked ones expires within "
            f"{_TLS_DAYS} days: then nobody is let in",
            namespace=namespace_of(self._kit),
            metric="DaysToExpiry",
            dimensions={},
            below=_TLS_DAYS,
            statistic="Minimum",
            period_s=3600,
            periods=1,
        )


#: Connections in five minutes; a few always end while somebody's machine sleeps.
_RESETS: Final = 200
#: Machines take a new file within the hour; somebody has to make it.
_TLS_DAYS: Final = 5
#: That its memory is full says nothing: a cache is, once it has run for long enough.
_REDIS: Final = (
    ("cpu", "EngineCPUUtilization", 85, "Valkey's one thread is busy"),
    ("evictions", "Evictions", 50_000, "Valkey evicts much that is new"),
)  # fmt: skip


def _metric(
    id_: str,
    namespace: str,
    name: str,
    dimensions: dict[str, str],
    statistic: str,
    period_s: int = 60,
) -> CloudwatchMetricAlarmMetricQuery:
    """A metric that an expression refers to."""
    return CloudwatchMetricAlarmMetricQuery(
        id=id_,
        metric=CloudwatchMetricAlarmMetricQueryMetric(
            namespace=namespace,
            metric_name=name,
            dimensions=dimensions or None,
            stat=statistic,
            period=period_s,
        ),
        return_data=False,
    )
