"""Origin events on their way into the store, as metrics."""

from __future__ import annotations

from typing import Final, Protocol

from nativelink.telemetry.meter import Definition, Kind, Registry

__all__ = ["ORIGIN_CATALOGUE", "observe_origin_events"]

ORIGIN_EVENTS_QUEUE: Final = Definition(
    "origin_events.queue",
    Kind.GAUGE,
    "{event}",
    "Origin events that wait to be written; new executions wait where this reaches "
    "max_event_queue_size.",
)
ORIGIN_EVENTS_PUBLISHED: Final = Definition(
    "origin_events.published", Kind.COUNTER, "{event}", "Origin events that are in their store."
)
ORIGIN_EVENTS_LOST: Final = Definition(
    "origin_events.lost",
    Kind.COUNTER,
    "{event}",
    "Origin events that their store did not take in five tries.",
)

ORIGIN_CATALOGUE: Final = (ORIGIN_EVENTS_QUEUE, ORIGIN_EVENTS_PUBLISHED, ORIGIN_EVENTS_LOST)


class Publisher(Protocol):
    """What has figures."""

    published: int
    lost: int

    def __len__(self) -> int: ...


def observe_origin_events(registry: Registry, publisher: Publisher) -> None:
    """Show what a publisher does."""
    registry.observe(ORIGIN_EVENTS_QUEUE, lambda: [((), len(publisher))])
    registry.observe(ORIGIN_EVENTS_PUBLISHED, lambda: [((), publisher.published)])
    registry.observe(ORIGIN_EVENTS_LOST, lambda: [((), publisher.lost)])
