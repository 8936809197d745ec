"""The farm by pools: groups of equal machines that grow and shrink together.

A pool is known before it has a worker, by what its workers will offer: only so can it be told that
something waits for it while it has none. What waits counts to the first pool in the list that
could run it, so that one action does not make two pools grow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from nativelink.core.errors import context
from nativelink.scheduler.matching import Matching
from nativelink.scheduler.properties import NOTHING, Offer, Properties, PropertyRules, within
from nativelink.scheduler.queue import Lane
from nativelink.scheduler.workers import Worker

__all__ = ["NO_POOL", "POOL_PROPERTY", "Pool", "PoolStatistics", "Pools"]

#: The platform property by which a worker says which pool it is of, and an action which it wants.
POOL_PROPERTY: Final = "pool"
#: What no pool could run, or is of none, counts to this.
NO_POOL: Final = "none"


@dataclass(frozen=True, slots=True)
class Pool:
    """A group of equal workers.

    Attributes:
        name: also the value of its workers' property `pool`.
        properties: what its workers offer besides. An amount that is not told is not compared:
            it may differ from machine to machine.
        slots: actions that one of them runs at the same time, where it does not say so itself.
    """

    name: str
    properties: Properties = ()
    slots: int = 1


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A pool at one moment.

    Attributes:
        name: of the pool.
        queued: actions that wait and that it could run.
        running: actions that its workers have.
        oldest_queued_s: how long the one waits that is to be started first of those that wait
            longest; 0 if none does.
        workers: connected ones, draining ones not included.
        idle: those of them that have nothing.
        slots: of all of them together; of one worker while there is none.
    """

    name: str
    queued: int
    running: int
    oldest_queued_s: float
    workers: int
    idle: int
    slots: int


class Pools:
    """Counts a scheduler's queue and workers by pools.

    Args:
        pools: those that there are, the preferred ones first.
        rules: how properties are compared.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a `minimum` property that is no number.
    """

    def __init__(self, pools: Iterable[Pool], rules: PropertyRules) -> None:
        self._pools = tuple(pools)
        self._offers: dict[str, Offer] = {}
        for pool in self._pools:
            with context(f"pool {pool.name}"):
                self._offers[pool.name] = rules.offer(
                    (*pool.properties, (POOL_PROPERTY, pool.name))
                )

    def statistics(
        self, matching: Matching, workers: Iterable[Worker], now: float
    ) -> Sequence[PoolStatistics]:
        """All pools in order, and last what belongs to none."""
        counts = {pool.name: _Count(pool.slots) for pool in self._pools}
        counts[NO_POOL] = _Count(0)
        for lane in matching.lanes():
            first = lane.first()
            if first is not None:
                counts[self._wanted(lane)].wait(len(lane.waiting), now - first.queued_at)
        for worker in workers:
            name = self.pool_of(worker.properties)
            counts[name].work(worker)
        return [count.told(name) for name, count in counts.items()]

    def pool_of(self, properties: Properties) -> str:
        """The pool of a worker: the one that it names, else the first that offers no more."""
        for name, value in properties:
            if name == POOL_PROPERTY and value in self._offers:
                return value
        offered = set(properties)
        for pool in self._pools:
            if offered.issuperset(pool.properties):
                return pool.name
        return NO_POOL

    def _wanted(self, lane: Lane) -> str:
        for name, offer in self._offers.items():
            if lane.platform.terms.met_by(offer.values) and within(
                tuple(
                    NOTHING if offered == NOTHING else asked
                    for asked, offered in zip(lane.amounts, offer.totals, strict=True)
                ),
                offer.totals,
            ):
                return name
        return NO_POOL


class _Count:
    """One pool while it is counted."""

    def __init__(self, slots_of_one: int) -> None:
        self._slots_of_one = slots_of_one
        self._queued = 0
        self._oldest_s = 0.0
        self._running = 0
        self._workers = 0
        self._idle = 0
        self._slots = 0

    def wait(self, count: int, oldest_s: float) -> None:
        """So many wait, the first one for so long."""
        self._queued += count
        self._oldest_s = max(self._oldest_s, oldest_s)

    def work(self, worker: Worker) -> None:
        """It has this worker."""
        self._running += len(worker.leases)
        # What takes nothing new is capacity no more; what it still runs is load, as it may come
        # back to the queue.
        if worker.lost_at is None and not worker.draining:
            self._workers += 1
            self._idle += not worker.leases
            self._slots += worker.max_inflight_tasks or self._slots_of_one

    def told(self, name: str) -> PoolStatistics:
        """The figures."""
        return PoolStatistics(
            name,
            self._queued,
            self._running,
            max(0.0, self._oldest_s),
            self._workers,
            self._idle,
            self._slots or self._slots_of_one,
        )
