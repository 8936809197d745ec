"""What EventBridge and auto scaling groups say about machines that are about to go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

__all__ = ["Event", "Gone", "Interruption", "Rebalance", "Terminating", "parse_event"]

_ENDED: Final = frozenset({"shutting-down", "stopping", "stopped", "terminated"})


@dataclass(frozen=True, slots=True)
class Interruption:
    """EC2 takes a spot machine back, in about two minutes from `at`."""

    instance: str
    at: float


@dataclass(frozen=True, slots=True)
class Rebalance:
    """A spot machine is likelier than others to be taken back."""

    instance: str
    at: float


@dataclass(frozen=True, slots=True)
class Terminating:
    """An auto scaling group waits, at a lifecycle hook, to end a machine."""

    instance: str
    at: float
    group: str
    hook: str
    token: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A machine stops now, or has stopped."""

    instance: str
    at: float


Event: TypeAlias = Interruption | Rebalance | Terminating | Gone


def parse_event(body: str) -> Event | None:
    """The event in a message, as EventBridge or a lifecycle hook writes it.

    Returns:
        None for an event of another kind.

    Raises:
        ValueError: it is none, or lacks what its kind must have.
    """
    try:
        message = json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(message, dict):
        raise ValueError("not an object")  # noqa: TRY004 - the message is wrong
    if "LifecycleTransition" in message:
        # Straight from the hook, not by way of EventBridge.
        return _lifecycle(message, _time(message, "Time"))
    kind = message.get("detail-type")
    if kind is None and "Event" in message:
        return None
    detail = message.get("detail")
    if not isinstance(kind, str) or not isinstance(detail, dict):
        raise ValueError("not of EventBridge or a lifecycle hook")  # noqa: TRY004 - likewise
    at = _time(message, "time")
    match kind:
        case "EC2 Spot Instance Interruption Warning":
            return Interruption(_text(detail, "instance-id"), at)
        case "EC2 Instance Rebalance Recommendation":
            return Rebalance(_text(detail, "instance-id"), at)
        case "EC2 Instance-terminate Lifecycle Action":
            return _lifecycle(detail, at)
        case "EC2 Instance State-change Notification":
            ended = _text(detail, "state") in _ENDED
            return Gone(_text(detail, "instance-id"), at) if ended else None
        case _:
            return None


def _lifecycle(detail: Mapping[str, Any], at: float) -> Terminating | None:
    if detail.get("LifecycleTransition") != "autoscaling:EC2_INSTANCE_TERMINATING":
        return None
    return Terminating(
        _text(detail, "EC2InstanceId"),
        at,
        _text(detail, "AutoScalingGroupName"),
        _text(detail, "LifecycleHookName"),
        _text(detail, "LifecycleActionToken"),
    )


def _text(of: Mapping[str, Any], key: str) -> str:
    value = of.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"no {key}")
    return value


def _time(of: Mapping[str, Any], key: str) -> float:
    at = datetime.fromisoformat(_text(of, key))
    if at.tzinfo is None:
        raise ValueError(f"{key} names no zone")
    return at.timestamp()
