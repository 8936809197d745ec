"""Connections to other servers, under NativeLink's names."""

from __future__ import annotations

from nativelink.telemetry.meter import Registry
from nativelink.telemetry.metrics import (
    CONNECTION_POOL_ACQUISITIONS,
    CONNECTION_POOL_AVAILABLE,
    CONNECTION_RECONNECTS,
)

__all__ = ["ConnectionRecorder"]


class ConnectionRecorder:
    """A `PoolRecorder` (`transport/pool.py`).

    Args:
        registry: where the figures go.
        pool: what the connections speak, such as `grpc`.
    """

    def __init__(self, registry: Registry, pool: str) -> None:
        acquisitions = registry.counter(CONNECTION_POOL_ACQUISITIONS)
        self._immediate = acquisitions.bind(pool, "immediate")
        self._queued = acquisitions.bind(pool, "queued")
        self._available = registry.histogram(CONNECTION_POOL_AVAILABLE).bind(pool)
        self._reconnects = registry.counter(CONNECTION_RECONNECTS).bind(pool)

    def acquired(self, *, queued: bool, idle: int) -> None:
        """A call got a connection while `idle` others carried none."""
        (self._queued if queued else self._immediate).add()
        self._available.record(idle)

    def reconnected(self) -> None:
        """A connection that had broken is open again."""
        self._reconnects.add()
