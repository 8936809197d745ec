"""Scheduler kinds, and the union of them all."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypeAliasType

from nativelink.config.choices import Named, OneKey, Variant, key_of
from nativelink.config.fields import (
    Items,
    NoEffect,
    NullIs,
    Number,
    PathText,
    Seconds,
    SignedSeconds,
    Spec,
    Text,
    Verbatim,
    Zero,
)
from nativelink.config.specs_common import GrpcEndpointSpec, RetrySpec

__all__ = [
    "AddProperty",
    "AllocationStrategy",
    "CacheLookupSpec",
    "GrpcSchedulerSpec",
    "HistoricalResourceSpec",
    "MemoryBackend",
    "NamedScheduler",
    "PropertyAddition",
    "PropertyModification",
    "PropertyModifierSpec",
    "PropertyReplacement",
    "PropertyType",
    "RedisBackendSpec",
    "RemoveProperty",
    "ReplaceProperty",
    "SchedulerBackend",
    "SchedulerSpec",
    "SimpleSpec",
]


class PropertyType(StrEnum):
    """How a platform property of an action is compared with those of a worker."""

    MINIMUM = "minimum"
    EXACT = "exact"
    PRIORITY = "priority"
    IGNORE = "ignore"


class AllocationStrategy(StrEnum):
    """Which of several suitable workers gets an action."""

    LEAST_RECENTLY_USED = "least_recently_used"
    MOST_RECENTLY_USED = "most_recently_used"


class RedisBackendSpec(Spec):
    """Keeps the scheduler's state in Redis, so that several schedulers can share it."""

    KIND: ClassVar[str] = "redis"

    redis_store: Verbatim = Field(description="Name of a `redis_store` of the `stores` list.")


#: State in this process's memory.
MemoryBackend = Literal["memory"]

SchedulerBackend = TypeAliasType(
    "SchedulerBackend",
    Annotated[
        Annotated[MemoryBackend, Tag("memory")]
        | Annotated[RedisBackendSpec, Variant(), Tag("redis")],
        Discriminator(key_of),
        OneKey("scheduler backend", ("memory",)),
    ],
)


class SimpleSpec(Spec):
    """Queues actions and hands them to the workers that connect."""

    KIND: ClassVar[str] = "simple"

    supported_platform_properties: Annotated[
        Mapping[str, Annotated[PropertyType, Items]], NullIs({})
    ] = Field(
        default={},
        description=(
            "Platform properties and how they restrict the choice of a worker. `minimum`: the "
            "worker has at least this number, and running actions use it up. `exact`: the worker "
            "has this very value. `priority`: the worker has the property, with whatever value. "
            "`ignore`: not looked at. All of them are told to the worker. A property that is not "
            "declared excludes workers that have it with other values only."
        ),
    )
    retain_completed_for_s: Annotated[Seconds, Zero(60)] = Field(
        default=60, description="Seconds that a finished action can still be asked for."
    )
    client_action_timeout_s: Annotated[Seconds, Zero(60)] = Field(
        default=60, description="Seconds without any interested client until an action is given up."
    )
    worker_timeout_s: Annotated[Seconds, Zero(5)] = Field(
        default=5,
        description=(
            "Seconds of silence, or without a connection, until a worker counts as lost and its "
            "actions run elsewhere. A worker that comes back sooner goes on with them; workers "
            "keep them for a minute at most, so more than 60 helps no broken connection."
        ),
    )
    max_action_executing_timeout_s: Seconds = Field(
        default=0,
        description=(
            "Seconds without news of a running action until it is queued again, even if its "
            "worker is alive. 0: only the loss of the worker ends it."
        ),
    )
    unacknowledged_kill_timeout_s: Annotated[Seconds, Zero(60)] = Field(
        default=60,
        description="Seconds that a worker may leave an order to stop an action unanswered until "
        "it counts as lost.",
    )
    max_job_retries: Annotated[Number, Zero(3)] = Field(
        default=3,
        description="Tries after the first one for an action that ends with an internal error; "
        "then the client gets the error.",
    )
    unschedulable_timeout_s: Seconds = Field(
        default=1200,
        description="Seconds that an action waits which no connected worker could ever run, or "
        "which workers turn away again and again for want of room, before it fails with the "
        "reason. 0: for ever.",
    )
    allocation_strategy: Annotated[AllocationStrategy, Items] = Field(
        default=AllocationStrategy.LEAST_RECENTLY_USED,
        description="Which of several suitable workers gets an action: `least_recently_used` "
        "spreads the load, `most_recently_used` leaves machines idle that can be switched off.",
    )
    experimental_backend: SchedulerBackend | None = Field(
        default=None,
        description='Where the state is kept: `"memory"`, or `{redis: …}` to share it and to '
        "survive a restart. Unset: memory.",
    )
    worker_match_logging_interval_s: SignedSeconds = Field(
        default=10,
        description="Seconds between log lines that say why queued actions wait. 0 or -1: never.",
    )
    fallback_match_interval_s: Annotated[
        SignedSeconds, NoEffect("each event leads to all that can be started, so nothing is missed")
    ] = Field(
        default=5,
        description="Seconds between looks at the whole queue, besides those that events cause. "
        "0 or negative: none.",
    )


class GrpcSchedulerSpec(Spec):
    """Passes actions on to another scheduler."""

    KIND: ClassVar[str] = "grpc"

    endpoint: GrpcEndpointSpec = Field(description="The upstream scheduler.")
    retry: RetrySpec = Field(
        default=RetrySpec(), description="Tries of a failing request upstream."
    )
    max_concurrent_requests: Number = Field(
        default=0, description="Requests in flight upstream; further ones wait. 0: no limit."
    )
    connections_per_endpoint: Annotated[Number, Zero(1)] = Field(
        default=1, description="TCP connections to the endpoint."
    )


class CacheLookupSpec(Spec):
    """Answers from an action cache before it asks its scheduler."""

    KIND: ClassVar[str] = "cache_lookup"

    ac_store: Verbatim = Field(
        description="Name of the action cache's store; best a completeness_checking one."
    )
    scheduler: SchedulerSpec = Field(description="Gets what is not cached.")


class PropertyAddition(Spec):
    """A platform property and its value."""

    name: Verbatim = Field(description="The property.")
    value: Verbatim = Field(description="Its value.")


class PropertyReplacement(Spec):
    """A change of one platform property."""

    name: Verbatim = Field(description="The property to look for.")
    value: Verbatim | None = Field(
        default=None, description="Only if it has this value. Unset: whatever it has."
    )
    new_name: Verbatim = Field(description="Its new name.")
    new_value: Verbatim | None = Field(
        default=None, description="Its new value. Unset: the one it had."
    )


class AddProperty(Spec):
    """Sets a property."""

    KIND: ClassVar[str] = "add"

    add: PropertyAddition = Field(description="Set a property, whether or not it was there.")


class RemoveProperty(Spec):
    """Takes a property away."""

    KIND: ClassVar[str] = "remove"

    remove: Verbatim = Field(description="Take the property of this name away, if it is there.")


class ReplaceProperty(Spec):
    """Renames or changes a property."""

    KIND: ClassVar[str] = "replace"

    replace: PropertyReplacement = Field(description="Rename or change a property that is there.")


PropertyModification = TypeAliasType(
    "PropertyModification",
    Annotated[
        Annotated[AddProperty, Tag("add")]
        | Annotated[RemoveProperty, Tag("remove")]
        | Annotated[ReplaceProperty, Tag("replace")],
        Discriminator(key_of),
        OneKey("property modification"),
    ],
)


class PropertyModifierSpec(Spec):
    """Changes the platform properties of actions before its scheduler sees them."""

    KIND: ClassVar[str] = "property_modifier"

    modifications: Annotated[tuple[PropertyModification, ...], Items] = Field(
        description="The changes, made in this order."
    )
    scheduler: SchedulerSpec = Field(description="Gets the changed actions.")


class HistoricalResourceSpec(Spec):
    """Adds what actions of the same target or mnemonic needed before, as minimum properties."""

    KIND: ClassVar[str] = "historical_resource"

    hints_file: PathText = Field(description="JSON file with the needs, by target and mnemonic.")
    refresh_interval_s: Seconds = Field(
        default=30, description="Seconds between looks at the file. 0: read once, at start."
    )
    cpu_property_name: Annotated[Text, Field(min_length=1)] = Field(
        default="cpu_count", description="Property that gets the number of CPUs."
    )
    memory_property_name: Annotated[Text, Field(min_length=1)] = Field(
        default="memory_kb", description="Property that gets the memory, in KiB."
    )
    scheduler: SchedulerSpec = Field(description="Gets the actions with the additions.")


#: Any scheduler, under the single key that names its kind.
SchedulerSpec = TypeAliasType(
    "SchedulerSpec",
    Annotated[
        Annotated[SimpleSpec, Variant(), Tag("simple")]
        | Annotated[GrpcSchedulerSpec, Variant(), Tag("grpc")]
        | Annotated[CacheLookupSpec, Variant(), Tag("cache_lookup")]
        | Annotated[PropertyModifierSpec, Variant(), Tag("property_modifier")]
        | Annotated[HistoricalResourceSpec, Variant(), Tag("historical_resource")],
        Discriminator(key_of),
        OneKey("scheduler"),
    ],
)


class NamedScheduler(Named):
    """A scheduler of the `schedulers` list: `name` beside the key of its kind."""

    name: Verbatim = Field(description="Other parts of the file refer to the scheduler by it.")
    spec: SchedulerSpec = Field(description="The scheduler.")
