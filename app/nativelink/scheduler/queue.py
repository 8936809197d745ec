"""What waits: a lane for equal requirements, a platform for lanes that differ in amounts alone."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from nativelink.scheduler.properties import Amounts, Terms
from nativelink.scheduler.ranking import Ranking
from nativelink.scheduler.records import Operation
from nativelink.scheduler.tournament import ABSENT, Key, Tournament
from nativelink.scheduler.workers import Kind, Worker

__all__ = ["Lane", "Platform"]

#: Void entries of a lane's heap beyond which it is made anew.
_SLACK: Final = 64


class Lane:
    """Operations with equal requirements, the one to be started first in front.

    Attributes:
        platform: the requirements that are no amounts.
        amounts: how much they ask for of each `minimum` property.
        limit: the same, negative: as a limit for what workers have left, negative too.
        usage: how much one of them takes away from a worker.
        avoided: workers that get none of them as long as another worker could ever run them, as
            they failed there.
        blocked: workers that get none of them, as they still have an earlier try.
        waiting: the operations, by id, in the order in which they came.
        members: operations that wait in it or waited in it last.
        capable: whether a connected worker could ever run them.
        choosy: whether one could that is not to be avoided, so that they are.
        stranded_since: since when there is no capable worker.
        reason, reason_of: why, if there is none, and as of which state of the fleet.
        told: the reason that was told last; empty if a worker could run them.
        reserved: a worker that is kept free for the first of them, as smaller ones would take
            every bit of room before there is enough.
        place: in its platform's tournament.
    """

    __slots__ = (
        "_heap",
        "_shown",
        "amounts",
        "avoided",
        "blocked",
        "capable",
        "choosy",
        "limit",
        "members",
        "place",
        "platform",
        "reason",
        "reason_of",
        "reserved",
        "stranded_since",
        "told",
        "usage",
        "waiting",
    )

    def __init__(
        self,
        platform: Platform,
        amounts: Amounts,
        avoided: tuple[str, ...],
        blocked: tuple[str, ...],
    ) -> None:
        self.platform = platform
        self.amounts = amounts
        self.limit: Amounts = tuple([-amount for amount in amounts])
        self.usage: Amounts = tuple([max(amount, 0) for amount in amounts])
        self.avoided = avoided
        self.blocked = blocked
        self.waiting: dict[str, Operation] = {}
        self.members = 0
        self.capable = False
        self.choosy = False
        self.stranded_since = 0.0
        self.reason = ""
        self.reason_of = -1
        self.told = ""
        self.reserved: Worker | None = None
        #: The key's two numbers, the mark, the operation: flat, as that is compared faster.
        self._heap: list[tuple[float, int, int, Operation]] = []
        #: The key that the platform knows.
        self._shown = ABSENT
        self.place = platform.entries.add(self)

    @property
    def is_picky(self) -> bool:
        """Whether there are workers that it does not want, whatever they offer."""
        return bool(self.avoided or self.blocked)

    def refuses(self, worker: Worker) -> bool:
        """Whether it does not want this worker, whatever it offers."""
        return worker.worker_id in self.blocked or (
            self.choosy and worker.worker_id in self.avoided
        )

    def push(self, operation: Operation, entry: int) -> None:
        """Let an operation wait, or wait at another place; `entry` marks this one as valid."""
        operation.entry = entry
        self.waiting[operation.operation_id] = operation
        if len(self._heap) > 2 * len(self.waiting) + _SLACK:
            self._heap = [each for each in self._heap if each[3].entry == each[2]]
            heapify(self._heap)
        heappush(self._heap, (*operation.key, entry, operation))
        if operation.key < self._shown:
            self.publish()

    def remove(self, operation: Operation) -> None:
        """An operation does not wait any more."""
        del self.waiting[operation.operation_id]
        operation.entry = 0
        self.platform.left += 1
        if operation.key <= self._shown:
            self.publish()

    def first(self) -> Operation | None:
        """The operation to be started first."""
        heap = self._heap
        while heap:
            _, _, entry, operation = heap[0]
            if operation.entry == entry:
                return operation
            heappop(heap)
        return None

    def publish(self) -> None:
        """Let the platform know of the first operation's key."""
        first = self.first()
        platform = self.platform
        before = platform.entries.keys[1]
        if first is None:
            self._shown = ABSENT
            platform.entries.clear(self.place)
            return
        self._shown = first.key
        platform.entries.set(self.place, first.key, self.amounts)
        if platform.entries.keys[1] < before:
            for kind in platform.kinds.groups.values():
                kind.platforms.offer(platform)


class Platform:
    """Lanes with equal terms, and the kinds of workers that meet them.

    Attributes:
        number: its own.
        terms: what workers must have.
        entries: its lanes, by the key of their first operations and the amounts they ask for.
        lanes: the same, by amounts and by the workers that they do not want.
        picky: how many of them do not want every worker.
        kinds: those kinds of workers that meet the terms, by the worker to be used first.
        entered, left: operations that ever began and ceased to wait, for positions.
    """

    __slots__ = (
        "entered",
        "entries",
        "kinds",
        "lanes",
        "left",
        "number",
        "picky",
        "terms",
    )

    def __init__(self, number: int, terms: Terms, dimensions: int) -> None:
        self.number = number
        self.terms = terms
        self.entries: Tournament[Lane] = Tournament(dimensions)
        self.lanes: dict[tuple[Amounts, tuple[str, ...], tuple[str, ...]], Lane] = {}
        self.picky = 0
        self.kinds: Ranking[Kind] = Ranking()
        self.entered = 0
        self.left = 0

    def starving(self, worker: Worker, before: float) -> tuple[Key, Lane] | None:
        """The lane whose first operation this worker could run if it ran nothing else.

        Args:
            worker: which.
            before: only lanes whose first operation waits since then.
        """

        def refuses(lane: Lane) -> bool:
            first = lane.first()
            return (
                first is None
                or first.waiting_since > before
                or lane.reserved is not None
                or lane.refuses(worker)
            )

        return self.entries.best(worker.totals, refuses)

    def best_for(self, worker: Worker) -> tuple[Key, Lane] | None:
        """The lane whose first operation this worker is to get; it has room for it now."""
        if self.picky:
            return self.entries.best(worker.free, lambda lane: lane.refuses(worker))
        return self.entries.best(worker.free)
