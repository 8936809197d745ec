"""Which worker gets an operation, which operation a worker gets.

Operations with equal requirements wait in one `Lane`; lanes that differ in amounts alone make a
`Platform`. Workers that offer the same, apart from amounts, make a `Kind`. Whether a kind meets a
platform's terms is found out once, when either is new. From then on:

- a worker with room asks its kind's ranking of platforms, best key first; a platform answers with
  the best of its lanes that fits into what the worker has left (a tournament over lanes);
- an operation asks its platform's ranking of kinds in the same way; a kind answers with the best
  of its workers that have room (a tournament over workers).

So neither looks at operations or workers one by one, and the cost of a decision does not depend
on how many there are. The answers depend on what waits and what has room alone, not on the
order in which these structures came to be: a machine that was restored decides as the first.

A caller keeps to one rule: after every change nothing waits that a worker with room could run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from nativelink.scheduler.policy import Allocation, Policy
from nativelink.scheduler.properties import Amounts, Properties, PropertyRules, Terms, within
from nativelink.scheduler.queue import Lane, Platform
from nativelink.scheduler.reasons import why_unschedulable
from nativelink.scheduler.records import Operation
from nativelink.scheduler.workers import Kind, Worker

__all__ = ["Matching"]

#: Lanes without operations that are kept, as the next operation probably wants one of them.
_IDLE_LANES: Final = 1024
#: Lanes of a platform up to which they are kept in order whenever there is a new one; beyond that
#: they are put in order when their number has doubled.
_FEW_LANES: Final = 64
#: Different lists of properties whose lanes are remembered: about 1 KiB each.
_REMEMBERED: Final = 8192


class Matching:
    """The queue and the fleet, indexed for each other.

    Attributes:
        rules: how properties are compared.
        platforms: by terms.
        kinds: by what they offer.
        reassessed: lanes for which it changed whether a worker could ever run them, or why not,
            or which workers they avoid.
        waiting: how many operations wait.
        released: workers that are not reserved any more, and so may get something.
    """

    def __init__(self, policy: Policy) -> None:
        self.rules: Final = PropertyRules(policy.supported_properties)
        self.platforms: dict[Terms, Platform] = {}
        self.kinds: dict[tuple[tuple[str, tuple[str, ...]], ...], Kind] = {}
        self.reassessed: dict[Lane, None] = {}
        self.waiting = 0
        self.released: dict[Worker, None] = {}
        self._sign = 1 if policy.allocation is Allocation.LEAST_RECENTLY_USED else -1
        self._dimensions = len(self.rules.minimums)
        self._numbers = 0
        #: Changes whenever a reason why something is unschedulable may change.
        self._generation = 0
        self._entries = 0
        self._idle: dict[Lane, None] = {}
        self._remembered: dict[Properties, Lane] = {}
        #: Undeclared properties that platforms ask for, and how many of them do.
        self._asked: dict[str, int] = {}
        #: Lanes that avoid workers: few, as they come from failures.
        self._avoiding: dict[Lane, None] = {}

    # -- lanes ----------------------------------------------------------------------------------

    def lane(self, properties: Properties) -> Lane:
        """The lane of operations with these properties.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for a `minimum` that is no number.
        """
        lane = self._remembered.get(properties)
        if lane is None or lane.place < 0:
            terms, amounts = self.rules.demand(properties)
            lane = self._lane(terms, amounts)
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[properties] = lane
        return lane

    def lane_avoiding(
        self, lane: Lane, avoided: Iterable[str], blocked: Iterable[str] = ()
    ) -> Lane:
        """The lane of the same requirements that does not want these workers."""
        return self._lane(
            lane.platform.terms, lane.amounts, tuple(sorted(avoided)), tuple(sorted(blocked))
        )

    def _lane(
        self,
        terms: Terms,
        amounts: Amounts,
        avoided: tuple[str, ...] = (),
        blocked: tuple[str, ...] = (),
    ) -> Lane:
        platform = self.platforms.get(terms)
        if platform is None:
            platform = self._new_platform(terms)
        lane = platform.lanes.get((amounts, avoided, blocked))
        if lane is None:
            lane = Lane(platform, amounts, avoided, blocked)
            platform.lanes[amounts, avoided, blocked] = lane
            platform.picky += lane.is_picky
            count = len(platform.lanes)
            if count <= _FEW_LANES or not count & (count - 1):
                platform.entries.arrange(lambda each: each.amounts)
            if avoided:
                self._avoiding[lane] = None
            self._idle[lane] = None
            self._assess(lane)
            for kind in platform.kinds.groups.values():
                self._expect(kind, lane)
        return lane

    def _expect(self, kind: Kind, lane: Lane) -> None:
        """Workers of this kind may be asked to run this lane's operations from now on."""
        if kind.expect(lane.amounts):
            for worker in kind.workers.values():
                self.publish(worker)

    def join(self, operation: Operation, lane: Lane) -> None:
        """From now on this is the operation's lane."""
        if not lane.members:
            self._idle.pop(lane, None)
        lane.members += 1
        operation.lane = lane

    def leave(self, operation: Operation) -> None:
        """The operation needs its lane no more."""
        lane = operation.lane
        lane.members -= 1
        if not lane.members:
            self._idle[lane] = None
            if len(self._idle) > _IDLE_LANES:
                self._drop_idle_lanes()

    def _drop_idle_lanes(self) -> None:
        for lane in self._idle:
            platform = lane.platform
            platform.entries.remove(lane.place)
            lane.place = -1
            del platform.lanes[lane.amounts, lane.avoided, lane.blocked]
            platform.picky -= lane.is_picky
            self._avoiding.pop(lane, None)
            self.reassessed.pop(lane, None)
            if not platform.lanes:
                self._drop_platform(platform)
        self._idle.clear()

    def take_reassessed(self) -> list[Lane]:
        """The reassessed lanes for which something waits, in an order that only it decides."""
        found = [(first.key, lane) for lane in self.reassessed if (first := lane.first())]
        self.reassessed.clear()
        found.sort(key=lambda each: each[0])
        return [lane for _, lane in found]

    def take_released(self) -> list[Worker]:
        """The released workers, those that were there first in front."""
        found = sorted(self.released, key=lambda worker: worker.number)
        self.released.clear()
        return found

    def lanes(self) -> Iterator[Lane]:
        """All of them."""
        for platform in self.platforms.values():
            yield from platform.lanes.values()

    # -- the queue ------------------------------------------------------------------------------

    def enqueue(self, operation: Operation) -> None:
        """Let an operation wait in its lane, by its key."""
        self._entries += 1
        platform = operation.lane.platform
        platform.entered += 1
        operation.position = platform.entered
        operation.lane.push(operation, self._entries)
        self.waiting += 1

    def dequeue(self, operation: Operation) -> None:
        """It waits no more."""
        lane = operation.lane
        if lane.reserved is not None:
            # It was started, here or elsewhere, or given up: the next one must wait for its turn.
            self.release(lane.reserved)
        lane.remove(operation)
        self.waiting -= 1

    def advance(self, operation: Operation) -> None:
        """A waiting operation's key became less."""
        self._entries += 1
        operation.lane.push(operation, self._entries)

    def queue_position(self, operation: Operation) -> int:
        """About how many of its platform are started before a waiting operation.

        Counts those that came before it and still wait; priorities are not looked at.
        """
        platform = operation.lane.platform
        return max(0, operation.position - platform.left - 1)

    # -- decisions ------------------------------------------------------------------------------

    def worker_for(self, operation: Operation) -> Worker | None:
        """The worker to get this operation now."""
        lane = operation.lane
        return lane.platform.kinds.search(lambda kind: kind.best_for(lane))

    @staticmethod
    def has_room(worker: Worker) -> bool:
        """Whether a worker may get something, if anything fits into what it has left."""
        assert worker.kind is not None
        return (
            worker.reserved_for is None
            and worker.is_open
            and within(worker.kind.least_demand, worker.free)
        )

    def operation_for(self, worker: Worker) -> Operation | None:
        """The operation that this worker is to get now; it still waits."""
        assert worker.kind is not None
        lane = worker.kind.platforms.search(lambda platform: platform.best_for(worker))
        return None if lane is None else lane.first()

    # -- big ones among small ones --------------------------------------------------------------

    def starving_for(self, worker: Worker, before: float) -> Lane | None:
        """The lane that this worker should be kept free for, if any.

        Args:
            worker: which has room, but not enough.
            before: only lanes whose first operation waits since then.
        """
        assert worker.kind is not None
        return worker.kind.platforms.search(lambda platform: platform.starving(worker, before))

    def reserve(self, worker: Worker, lane: Lane) -> None:
        """Keep a worker free for a lane's first operation; `publish` must follow."""
        worker.reserved_for = lane
        lane.reserved = worker

    def release(self, worker: Worker) -> None:
        """Keep it free no longer."""
        lane = worker.reserved_for
        if lane is not None:
            worker.reserved_for = None
            lane.reserved = None
            self.released[worker] = None

    # -- the fleet ------------------------------------------------------------------------------

    def add_worker(self, worker: Worker) -> None:
        """A worker can be used from now on, once `publish` is called."""
        offered = tuple(
            sorted(
                (name, values)
                for name, values in worker.values.items()
                if self.rules.is_declared(name) or name in self._asked
            )
        )
        kind = self.kinds.get(offered)
        if kind is None:
            self._numbers += 1
            kind = self.kinds[offered] = Kind(self._numbers, dict(offered), self._dimensions)
            for platform in self.platforms.values():
                self._acquaint(platform, kind)
            self._retell()
        kind.workers[worker.worker_id] = worker
        worker.kind = kind
        worker.place = kind.entries.add(worker)
        self._count_totals(worker, 1)
        self._assess_avoiding()

    def remove_worker(self, worker: Worker) -> None:
        """A worker cannot be used any more."""
        kind = worker.kind
        assert kind is not None
        self.released.pop(worker, None)
        self._count_totals(worker, -1)
        kind.forget(worker)
        worker.kind = None
        if not kind.workers:
            self._drop_kind(kind)
        self._assess_avoiding()

    def set_draining(self, worker: Worker, *, draining: bool) -> None:
        """A worker does not count any more as one that could run something, or does again."""
        if worker.draining != draining:
            if draining:
                self._count_totals(worker, -1)
            worker.draining = draining
            if not draining:
                self._count_totals(worker, 1)
            self._assess_avoiding()

    def publish(self, worker: Worker) -> None:
        """A worker's room or its turn changed."""
        assert worker.kind is not None
        kind = worker.kind
        if self.has_room(worker):
            kind.publish(worker, (float(self._sign * worker.touched), worker.number))
        else:
            kind.withdraw(worker)

    def _count_totals(self, worker: Worker, change: int) -> None:
        """Count a worker among those that could run something, unless it drains."""
        kind = worker.kind
        assert kind is not None
        if not worker.draining:
            count = kind.totals.get(worker.totals, 0) + change
            if count:
                kind.totals[worker.totals] = count
            else:
                del kind.totals[worker.totals]
            if count == (change > 0):
                self._reassess(kind, worker.totals)

    def _assess_avoiding(self) -> None:
        """A worker came or went: one that was avoided may be the only one, or not any more."""
        for lane in self._avoiding:
            self._assess(lane)

    # -- who could ever run what ----------------------------------------------------------------

    def reason(self, lane: Lane) -> str:
        """Why no connected worker could ever run this lane's operations; empty if one could."""
        if lane.capable:
            return ""
        if lane.reason_of != self._generation:
            lane.reason = why_unschedulable(lane, self.kinds.values(), self.rules)
            lane.reason_of = self._generation
        return lane.reason

    def _reassess(self, kind: Kind, totals: Amounts) -> None:
        """These amounts are new in a kind, or gone: lanes may have gained or lost hope."""
        self._generation += 1
        for platform in kind.platforms.groups.values():
            for lane in platform.lanes.values():
                if within(lane.amounts, totals):
                    self._assess(lane)

    def _assess(self, lane: Lane) -> None:
        """Find out anew whether a connected worker could ever run this lane's operations."""
        kinds = lane.platform.kinds.groups.values()
        capable = any(within(lane.amounts, totals) for kind in kinds for totals in kind.totals)
        choosy = bool(lane.avoided) and self._has_alternative(lane)
        if (capable, choosy) != (lane.capable, lane.choosy):
            lane.capable, lane.choosy = capable, choosy
            if lane.waiting:
                self.reassessed[lane] = None

    def _has_alternative(self, lane: Lane) -> bool:
        """Whether a worker could run a lane's operations that the lane does not avoid."""
        able = 0
        for kind in lane.platform.kinds.groups.values():
            for totals, count in kind.totals.items():
                able += count if within(lane.amounts, totals) else 0
        return able > self._able_among(lane, lane.avoided)

    def _able_among(self, lane: Lane, worker_ids: tuple[str, ...]) -> int:
        """How many of these workers count as able to run the lane's operations."""
        able = 0
        for kind in lane.platform.kinds.groups.values():
            for worker_id in worker_ids:
                worker = kind.workers.get(worker_id)
                if worker is not None and not worker.draining:
                    able += within(lane.amounts, worker.totals)
        return able

    # -- platforms and kinds --------------------------------------------------------------------

    def _new_platform(self, terms: Terms) -> Platform:
        unheard = [name for name, _ in terms.undeclared if name not in self._asked]
        for name, _ in terms.undeclared:
            self._asked[name] = self._asked.get(name, 0) + 1
        if unheard:
            self._distinguish(unheard)
        self._numbers += 1
        platform = Platform(self._numbers, terms, self._dimensions)
        self.platforms[terms] = platform
        for kind in self.kinds.values():
            self._acquaint(platform, kind)
        return platform

    def _drop_platform(self, platform: Platform) -> None:
        del self.platforms[platform.terms]
        for name, _ in platform.terms.undeclared:
            self._asked[name] -= 1
            if not self._asked[name]:
                # Kinds may stay finer than they need be until their workers leave.
                del self._asked[name]
        for kind in platform.kinds.groups.values():
            kind.platforms.remove(platform)

    def _drop_kind(self, kind: Kind) -> None:
        del self.kinds[tuple(sorted(kind.values.items()))]
        for platform in kind.platforms.groups.values():
            platform.kinds.remove(kind)
        self._retell()

    def _retell(self) -> None:
        """There is one more kind, or one less: what is said of hopeless lanes may change."""
        self._generation += 1
        for lane in self.lanes():
            if lane.waiting and not lane.capable:
                self.reassessed[lane] = None

    def _acquaint(self, platform: Platform, kind: Kind) -> None:
        if platform.terms.met_by(kind.values):
            platform.kinds.add(kind)
            kind.platforms.add(platform)
            for lane in platform.lanes.values():
                self._expect(kind, lane)

    def _distinguish(self, names: list[str]) -> None:
        """Undeclared properties are asked for, for the first time: tell kinds apart by them."""
        for kind in list(self.kinds.values()):
            for worker in list(kind.workers.values()):
                if any(name in worker.values for name in names):
                    self.remove_worker(worker)
                    self.add_worker(worker)
                    self.publish(worker)
