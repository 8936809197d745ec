"""A pool of workers: spot instances that come when builds queue."""

from __future__ import annotations

from typing import Final

from constructs import Construct

from infra._cdk import (
    AutoscalingGroup,
    AutoscalingGroupInstanceRefresh,
    AutoscalingGroupInstanceRefreshPreferences,
    AutoscalingGroupMixedInstancesPolicy,
    AutoscalingGroupMixedInstancesPolicyInstancesDistribution,
    AutoscalingGroupMixedInstancesPolicyLaunchTemplate,
    AutoscalingGroupMixedInstancesPolicyLaunchTemplateLaunchTemplateSpecification,
    AutoscalingGroupMixedInstancesPolicyLaunchTemplateOverride,
    AutoscalingLifecycleHook,
    AutoscalingNotification,
    SnsTopic,
    TerraformResourceLifecycle,
)
from infra.kit import Kit
from infra.modules.launch_template import Machine
from infra.modules.network import Network
from infra.modules.service_fleet import METRICS, READY_HOOK, group_tags
from infra.settings import PoolSettings

__all__ = ["DRAIN_HOOK", "WorkerFleet"]

#: A leaving worker completes it once its actions are finished or handed back.
DRAIN_HOOK: Final = "drain"
#: Seconds that one gets for it.
_DRAIN_S: Final = 900
#: Workers are renewed after so many seconds, with the current image: a week.
_LIFETIME_S: Final = 7 * 86_400


class WorkerFleet(Construct):
    """The auto scaling group of a pool.

    It grows by `autoscaling`; it shrinks only by what knows which worker is idle: workers end
    themselves, and are protected from everything else that could end them.

    Attributes:
        group: the auto scaling group.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        kit: Kit,
        network: Network,
        machine: Machine,
        name: str,
        pool: PoolSettings,
        topic: SnsTopic,
    ) -> None:
        super().__init__(scope, id_)
        refresh = AutoscalingGroupInstanceRefresh(
            strategy="Rolling",
            preferences=AutoscalingGroupInstanceRefreshPreferences(
                min_healthy_percentage=75,
                scale_in_protected_instances="Wait",
                skip_matching=True,
            ),
        )
        self.group = AutoscalingGroup(
            self,
            "group",
            name=name,
            min_size=pool.min,
            max_size=pool.max,
            vpc_zone_identifier=[each.id for each in network.private],
            mixed_instances_policy=AutoscalingGroupMixedInstancesPolicy(
                instances_distribution=AutoscalingGroupMixedInstancesPolicyInstancesDistribution(
                    on_demand_base_capacity=pool.on_demand_base,
                    on_demand_percentage_above_base_capacity=pool.on_demand_percent,
                    on_demand_allocation_strategy="lowest-price",
                    spot_allocation_strategy="price-capacity-optimized",
                ),
                launch_template=AutoscalingGroupMixedInstancesPolicyLaunchTemplate(
                    launch_template_specification=AutoscalingGroupMixedInstancesPolicyLaunchTemplateLaunchTemplateSpecification(
                        launch_template_id=machine.template.id,
                        version=f"${{{machine.template.fqn}.latest_version}}",
                    ),
                    override=[
                        AutoscalingGroupMixedInstancesPolicyLaunchTemplateOverride(
                            instance_type=each
                        )
                        for each in pool.types
                    ],
                ),
            ),
            capacity_rebalance=pool.uses_spot,
            protect_from_scale_in=True,
            suspended_processes=["AZRebalance"],
            health_check_type="EC2",
            health_check_grace_period=120,
            default_instance_warmup=pool.boot_s,
            max_instance_lifetime=_LIFETIME_S,
            # Without spot capacity a deployment would wait for it.
            wait_for_capacity_timeout="0",
            enabled_metrics=list(METRICS),
            # An emulator has none to refresh.
            instance_refresh=None if kit.local else refresh,
            tag=group_tags(kit, name),
            lifecycle=TerraformResourceLifecycle(ignore_changes=["desired_capacity"]),
        )
        AutoscalingLifecycleHook(
            self,
            "ready",
            name=READY_HOOK,
            autoscaling_group_name=self.group.name,
            lifecycle_transition="autoscaling:EC2_INSTANCE_LAUNCHING",
            default_result="ABANDON",
            heartbeat_timeout=max(300, 4 * pool.boot_s),
        )
        AutoscalingLifecycleHook(
            self,
            "drain",
            name=DRAIN_HOOK,
            autoscaling_group_name=self.group.name,
            lifecycle_transition="autoscaling:EC2_INSTANCE_TERMINATING",
            default_result="CONTINUE",
            heartbeat_timeout=_DRAIN_S,
        )
        if kit.makes("aws_autoscaling_notification"):
            AutoscalingNotification(
                self,
                "failures",
                group_names=[self.group.name],
                notifications=["autoscaling:EC2_INSTANCE_LAUNCH_ERROR"],
                topic_arn=topic.arn,
            )
