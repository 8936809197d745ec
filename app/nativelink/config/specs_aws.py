"""What a process does because it runs on AWS; every key is ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import json5
from pydantic import ConfigDict, Field

from nativelink.config.fields import (
    Expansion,
    Flag,
    Items,
    Kind,
    Number,
    Seconds,
    Spec,
    Text,
    Verbatim,
    Zero,
)

__all__ = [
    "AwsServicesSpec",
    "CallMetricsSpec",
    "CloudWatchSpec",
    "DrainQueueSpec",
    "Ec2Spec",
    "PoolSpec",
]

_POOLS: Final = (
    "a text with a JSON list such as "
    '\'[{"name": "x86", "properties": {"ISA": "x86-64"}, "slots": 8}]\''
)


class PoolSpec(Spec):
    """A group of equal workers. Other keys are for who makes the machines."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[Verbatim, Field(min_length=1)]
    properties: Mapping[str, Annotated[tuple[Verbatim, ...], Items]] = {}
    slots: Annotated[Number, Field(ge=1)] = 1


def _read_pools(kind: Kind, raw: object) -> object:
    if raw == ():
        return raw
    if not isinstance(raw, str):
        raise kind.wrong("not a text")
    try:
        pools = json5.loads(raw or "[]")
    except (ValueError, RecursionError) as error:
        raise kind.wrong(f"no JSON: {error}") from None
    if not isinstance(pools, list):
        raise kind.wrong("not a list")
    names = [pool.get("name") for pool in pools if isinstance(pool, dict)]
    for name in names:
        if names.count(name) > 1:
            raise kind.wrong(f"there are two pools {name!r}")
    return [_with_lists(pool) for pool in pools]


def _with_lists(pool: object) -> object:
    """The pool with a list of values for every property; the model judges what is wrong."""
    if not isinstance(pool, dict) or not isinstance(pool.get("properties"), dict):
        return pool
    properties = {
        key: [value] if isinstance(value, str) else value
        for key, value in pool["properties"].items()
    }
    return pool | {"properties": properties}


#: A whole list in one text, so that a list of any length can come from one variable.
Pools = Annotated[
    tuple[PoolSpec, ...],
    Items,
    Kind("text", _POOLS, Expansion.ENVIRONMENT, _read_pools, ({"type": "string"},)),
]


class CloudWatchSpec(Spec):
    """Publishes, for each pool, what its auto scaling group follows.

    The metrics have the dimension `Pool` and are high-resolution: QueuedActions, RunningActions,
    OldestQueuedSeconds, IdleWorkers, RegisteredWorkers, LoadRatio (percent of all slots that
    running and waiting actions take up; waiting ones count in full once the first waits for three
    minutes, or where nobody works; all of them no further than to what ran on average of the last
    ten minutes, one worker, and another one, of more than ten a tenth of them, for each minute that
    something waits; or to an eighth of all actions, if that is more). What no pool could run is of
    the pool `none`. With a `drain_queue`, Interruptions counts machines that were taken back; where
    workers offer the properties `instance_type` and `availability_zone`, also by the dimensions
    `InstanceType` and `Zone` besides `Pool`.
    """

    enabled: Flag = Field(default=True, description="False: as if this was not here.")
    namespace: Annotated[Text, Field(min_length=1)] = Field(
        default="NativeLink", description="CloudWatch's namespace."
    )
    interval_s: Annotated[Seconds, Zero(10)] = Field(
        default=10, description="Seconds between publications."
    )


class CallMetricsSpec(Spec):
    """Publishes what the calls of this process were like.

    The metrics have no dimension, so those of all machines are added up: ActionCacheHits and
    ActionCacheMisses (answers to GetActionResult), Calls, FailedCalls (those that ended with
    UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE or DATA_LOSS), and CasCallDuration, in
    seconds, of FindMissingBlobs, BatchReadBlobs and BatchUpdateBlobs, with all percentiles. A
    minute without calls publishes none of these. Where the process serves TLS, DaysToExpiry says
    for how long its files last.
    """

    enabled: Flag = Field(default=True, description="False: as if this was not here.")
    namespace: Annotated[Text, Field(min_length=1)] = Field(
        default="NativeLink", description="CloudWatch's namespace."
    )
    interval_s: Annotated[Seconds, Zero(60)] = Field(
        default=60, description="Seconds between publications."
    )


class DrainQueueSpec(Spec):
    """Reads from SQS which machines are about to go, and gives their workers nothing new.

    Events are those that EventBridge has of spot interruptions, rebalance recommendations, state
    changes and lifecycle actions. A worker is of a machine if its id begins with the machine's id
    and a hyphen.
    """

    url: Text = Field(description="URL of the queue. Empty: none is read.")


class Ec2Spec(Spec):
    """Looks after the machine that this process runs on.

    It comes into service when the process is ready. A worker stops taking actions when EC2
    recommends to rebalance, finishes or hands back what it has when the machine goes, and ends a
    machine that is idle unless its group is at its smallest size.
    """

    enabled: Flag = Field(default=True, description="False: as if this was not here.")
    instance_id: Text = Field(description="EC2's id of the machine.")
    auto_scaling_group: Text = Field(description="Name of its auto scaling group.")
    metadata_endpoint: Text = Field(
        default="http://169.254.169.254", description="URL of the instance metadata service."
    )
    launching_hook: Text = Field(
        default="", description="Lifecycle hook of machines that come into service. Empty: none."
    )
    terminating_hook: Text = Field(
        default="", description="Lifecycle hook of machines that go. Empty: none."
    )
    idle_after_s: Seconds = Field(
        default=15, description="Seconds without work until a worker ends its machine. 0: never."
    )
    notice_margin_s: Seconds = Field(
        default=20,
        description="Seconds before the machine is gone at which running actions are handed back.",
    )


class AwsServicesSpec(Spec):
    """What the process does because it runs on AWS."""

    region: Text = Field(default="", description="AWS region. Empty: `AWS_REGION`.")
    scheduler: Text = Field(
        default="",
        description="Name of the scheduler for `cloudwatch` and `drain_queue`; workers join it in "
        "this process.",
    )
    pools: Pools = Field(
        default=(),
        description=(
            "Groups of equal workers, as a JSON list in one text, so that it can come from one "
            "variable. Each has a `name`, the `properties` that its workers offer (a value or a "
            "list of values each) and `slots`, actions that one of them runs at a time; other keys "
            "are passed over. A worker belongs to the pool that its property `pool` names, else to "
            "the first whose properties it has. A waiting action counts to the first pool that "
            "could run it; amounts that a pool does not state exclude nothing."
        ),
    )
    cloudwatch: CloudWatchSpec | None = Field(
        default=None, description="Publish metrics of the pools. Unset: no."
    )
    call_metrics: CallMetricsSpec | None = Field(
        default=None, description="Publish metrics of calls, hits and misses. Unset: no."
    )
    drain_queue: DrainQueueSpec | None = Field(
        default=None, description="Heed events about machines that go. Unset: no."
    )
    ec2: Ec2Spec | None = Field(default=None, description="Look after this machine. Unset: no.")
