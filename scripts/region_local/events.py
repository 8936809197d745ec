"""EventBridge: what happens to machines, and which deployed rules pass it on."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from scripts.region_local.resources import Hook, Rule

__all__ = ["ended", "fits", "interruption", "queues_for", "terminating"]


def interruption(instance: str, *, account: str, region: str, at: float) -> dict[str, Any]:
    """A spot instance is taken back."""
    return _event(
        "aws.ec2",
        "EC2 Spot Instance Interruption Warning",
        {"instance-id": instance, "instance-action": "terminate"},
        account=account,
        region=region,
        at=at,
    )


def ended(instance: str, *, account: str, region: str, at: float) -> dict[str, Any]:
    """A machine shuts down, or is gone."""
    return _event(
        "aws.ec2",
        "EC2 Instance State-change Notification",
        {"instance-id": instance, "state": "shutting-down"},
        account=account,
        region=region,
        at=at,
    )


def terminating(
    hook: Hook, instance: str, token: str, *, account: str, region: str, at: float
) -> dict[str, Any]:
    """A group waits, at a lifecycle hook, to end a machine."""
    return _event(
        "aws.autoscaling",
        "EC2 Instance-terminate Lifecycle Action",
        {
            "LifecycleActionToken": token,
            "AutoScalingGroupName": hook.group,
            "LifecycleHookName": hook.name,
            "EC2InstanceId": instance,
            "LifecycleTransition": hook.transition,
        },
        account=account,
        region=region,
        at=at,
    )


def _event(
    source: str,
    kind: str,
    detail: Mapping[str, Any],
    *,
    account: str,
    region: str,
    at: float,
) -> dict[str, Any]:
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": kind,
        "source": source,
        "account": account,
        "time": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": [],
        "detail": dict(detail),
    }


def fits(pattern: Mapping[str, Any], event: Mapping[str, Any]) -> bool:
    """Whether an event has, for every key of a pattern, one of the values that it lists."""
    for key, allowed in pattern.items():
        if key not in event:
            return False
        found = event[key]
        if not (fits(allowed, found) if isinstance(allowed, Mapping) else found in allowed):
            return False
    return True


def queues_for(rules: Iterable[Rule], event: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Queues that get an event, each with the message."""
    text = json.dumps(event)
    return [(queue, text) for rule in rules if fits(rule.pattern, event) for queue in rule.queues]
