"""What a machine, or the scheduler for it, asks of its auto scaling group."""

from __future__ import annotations

from typing import Any

from nativelink.aws.clients import Clients, aws_errors

__all__ = ["AutoScaling"]


class AutoScaling:
    """EC2 Auto Scaling's API, as far as we need it.

    Every method raises NativeLinkError: FAILED_PRECONDITION for what is not possible, or not any
    more (a lifecycle action that is over, a group that is at its smallest), otherwise mostly
    UNAVAILABLE, PERMISSION_DENIED or RESOURCE_EXHAUSTED.

    Args:
        client: of the service `autoscaling`.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    async def of(cls, clients: Clients) -> AutoScaling:
        """The API with a client of its own."""
        return cls(await clients.client("autoscaling"))

    async def protect(self, group: str, instance: str, *, protected: bool) -> None:
        """Keep the group from choosing a machine when it shrinks, or let it again."""
        with aws_errors("SetInstanceProtection"):
            await self._client.set_instance_protection(
                AutoScalingGroupName=group,
                InstanceIds=[instance],
                ProtectedFromScaleIn=protected,
            )

    async def terminate(self, instance: str) -> None:
        """End a machine, and want one fewer. Refused where that is below the smallest size."""
        with aws_errors("TerminateInstanceInAutoScalingGroup"):
            await self._client.terminate_instance_in_auto_scaling_group(
                InstanceId=instance, ShouldDecrementDesiredCapacity=True
            )

    async def complete(self, group: str, hook: str, instance: str, *, token: str = "") -> None:
        """Let a machine go on that waits at a lifecycle hook: into service, or to its end."""
        named = {"LifecycleActionToken": token} if token else {}
        with aws_errors("CompleteLifecycleAction"):
            await self._client.complete_lifecycle_action(
                AutoScalingGroupName=group,
                LifecycleHookName=hook,
                InstanceId=instance,
                LifecycleActionResult="CONTINUE",
                **named,
            )

    async def still_busy(self, group: str, hook: str, instance: str) -> None:
        """Begin the time anew that a machine may wait at a lifecycle hook."""
        with aws_errors("RecordLifecycleActionHeartbeat"):
            await self._client.record_lifecycle_action_heartbeat(
                AutoScalingGroupName=group, LifecycleHookName=hook, InstanceId=instance
            )
