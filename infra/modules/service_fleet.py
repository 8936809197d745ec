"""Machines that are always there: cas and scheduler."""

from __future__ import annotations

from collections.abc import Sequence

from constructs import Construct

from infra._cdk import (
    AutoscalingGroup,
    AutoscalingGroupInstanceMaintenancePolicy,
    AutoscalingGroupInstanceRefresh,
    AutoscalingGroupInstanceRefreshPreferences,
    AutoscalingGroupLaunchTemplate,
    AutoscalingGroupTag,
    AutoscalingLifecycleHook,
    LbTargetGroup,
)
from infra.kit import Kit
from infra.modules.launch_template import Machine
from infra.modules.network import Network

__all__ = ["READY_HOOK", "ServiceFleet", "group_tags"]

#: A machine completes it once /status answers 200; else it is replaced.
READY_HOOK = "ready"
METRICS = (
    "GroupDesiredCapacity", "GroupInServiceInstances", "GroupMaxSize", "GroupMinSize",
    "GroupPendingInstances", "GroupTerminatingInstances", "GroupTotalInstances",
)  # fmt: skip


def group_tags(kit: Kit, name: str) -> list[AutoscalingGroupTag]:
    """Tags of a group and of its machines, which the provider's own tags do not reach."""
    tags = {"Name": name, "NativeLinkRegion": kit.settings.name, **kit.settings.tags}
    return [
        AutoscalingGroupTag(key=key, value=value, propagate_at_launch=True)
        for key, value in tags.items()
    ]


class ServiceFleet(Construct):
    """A group of on-demand machines behind load balancers, replaced when their template changes.

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
        count: int,
        max_count: int,
        targets: Sequence[LbTargetGroup],
        replace_before: bool,
    ) -> None:
        """Makes the group.

        Args:
            replace_before: a new machine comes before an old one goes. Not for the scheduler: its
                queue is in its memory, and workers and clients have to meet at the same one.
        """
        super().__init__(scope, id_)
        healthy_min, healthy_max = (100, 200) if replace_before else (0, 100)
        refresh = AutoscalingGroupInstanceRefresh(
            strategy="Rolling",
            preferences=AutoscalingGroupInstanceRefreshPreferences(
                min_healthy_percentage=healthy_min,
                max_healthy_percentage=healthy_max,
                skip_matching=True,
            ),
        )
        self.group = AutoscalingGroup(
            self,
            "group",
            name=name,
            min_size=count,
            max_size=max_count,
            desired_capacity=count,
            vpc_zone_identifier=[each.id for each in network.private],
            launch_template=AutoscalingGroupLaunchTemplate(
                id=machine.template.id, version=f"${{{machine.template.fqn}.latest_version}}"
            ),
            target_group_arns=[each.arn for each in targets],
            health_check_type="ELB",
            health_check_grace_period=300,
            default_instance_warmup=60,
            wait_for_capacity_timeout="0" if kit.local else "20m",
            enabled_metrics=list(METRICS),
            instance_maintenance_policy=AutoscalingGroupInstanceMaintenancePolicy(
                min_healthy_percentage=healthy_min, max_healthy_percentage=healthy_max
            ),
            # An emulator has none to refresh.
            instance_refresh=None if kit.local else refresh,
            tag=group_tags(kit, name),
        )
        AutoscalingLifecycleHook(
            self,
            "ready",
            name=READY_HOOK,
            autoscaling_group_name=self.group.name,
            lifecycle_transition="autoscaling:EC2_INSTANCE_LAUNCHING",
            default_result="ABANDON",
            heartbeat_timeout=600,
        )
