"""A pool grows with what waits. The numbers are those of `nativelink.aws.scaling`."""

from __future__ import annotations

from constructs import Construct

from infra._cdk import (
    AutoscalingPolicy,
    AutoscalingPolicyStepAdjustment,
    AutoscalingPolicyTargetTrackingConfiguration,
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecification,
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetrics,
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStat,
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStatMetric,
    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStatMetricDimensions,
    CloudwatchMetricAlarm,
    CloudwatchMetricAlarmMetricQuery,
    CloudwatchMetricAlarmMetricQueryMetric,
)
from infra.capacity import rule_of
from infra.kit import Kit
from infra.modules.roles import namespace_of
from infra.modules.worker_fleet import WorkerFleet
from infra.settings import PoolSettings
from nativelink.aws.scaling import FromZero, TargetTracking, policies_of

__all__ = ["Autoscaling"]


class Autoscaling(Construct):
    """Target tracking on the load ratio; steps from nothing, where no ratio can be tracked.

    Neither takes workers away: who is idle leaves by itself.
    """

    def __init__(
        self, scope: Construct, id_: str, *, kit: Kit, fleet: WorkerFleet, pool: PoolSettings
    ) -> None:
        super().__init__(scope, id_)
        self._kit, self._fleet, self._pool = kit, fleet, pool
        policies = policies_of(rule_of(pool))
        self._track(policies.target_tracking)
        self._step(policies.from_zero)

    def _track(self, policy: TargetTracking) -> None:
        stat = AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStat(
            metric=AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStatMetric(
                namespace=namespace_of(self._kit),
                metric_name=policy.metric,
                dimensions=[
                    AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetricsMetricStatMetricDimensions(
                        name="Pool", value=self._pool.name
                    )
                ],
            ),
            stat=policy.statistic,
            period=policy.period_s,
        )
        AutoscalingPolicy(
            self,
            "load",
            name=self._kit.name(self._pool.name, "load"),
            autoscaling_group_name=self._fleet.group.name,
            policy_type="TargetTrackingScaling",
            estimated_instance_warmup=policy.warmup_s,
            target_tracking_configuration=AutoscalingPolicyTargetTrackingConfiguration(
                target_value=policy.target,
                disable_scale_in=policy.disable_scale_in,
                customized_metric_specification=AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecification(
                    metrics=[
                        AutoscalingPolicyTargetTrackingConfigurationCustomizedMetricSpecificationMetrics(
                            id="load", metric_stat=stat, return_data=True
                        )
                    ]
                ),
            ),
        )

    def _step(self, policy: FromZero) -> None:
        steps = AutoscalingPolicy(
            self,
            "from-zero",
            name=self._kit.name(self._pool.name, "from-zero"),
            autoscaling_group_name=self._fleet.group.name,
            policy_type="StepScaling",
            adjustment_type=policy.adjustment,
            metric_aggregation_type=policy.statistic,
            estimated_instance_warmup=policy.warmup_s,
            step_adjustment=[
                AutoscalingPolicyStepAdjustment(
                    metric_interval_lower_bound=_bound(step.lower),
                    metric_interval_upper_bound=None if step.upper is None else _bound(step.upper),
                    scaling_adjustment=step.workers,
                )
                for step in policy.steps
            ],
        )
        CloudwatchMetricAlarm(
            self,
            "waiting",
            alarm_name=self._kit.name(self._pool.name, "from-zero"),
            alarm_description=f"Actions wait, and pool {self._pool.name} has no worker",
            metric_query=[
                self._metric("queued", policy.queued, policy),
                self._metric("workers", policy.workers, policy),
                CloudwatchMetricAlarmMetricQuery(
                    id="waiting",
                    expression=policy.expression,
                    label="waiting without any worker",
                    return_data=True,
                ),
            ],
            evaluation_periods=policy.evaluation_periods,
            threshold=policy.threshold,
            comparison_operator="GreaterThanThreshold",
            treat_missing_data="notBreaching",
            alarm_actions=[steps.arn],
        )

    def _metric(self, id_: str, name: str, policy: FromZero) -> CloudwatchMetricAlarmMetricQuery:
        return CloudwatchMetricAlarmMetricQuery(
            id=id_,
            metric=CloudwatchMetricAlarmMetricQueryMetric(
                namespace=namespace_of(self._kit),
                metric_name=name,
                dimensions={"Pool": self._pool.name},
                stat=policy.statistic,
                period=policy.period_s,
            ),
            return_data=False,
        )


def _bound(value: float) -> str:
    """As AWS gives it back: without a fraction that is not there."""
    return f"{value:g}"
