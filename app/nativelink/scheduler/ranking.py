"""Which of many groups has the best entry, where most often it is the first one asked."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Final, Generic, Protocol, TypeVar

from nativelink.scheduler.tournament import ABSENT, Key, Tournament

__all__ = ["Group", "Ranking"]

#: Void entries of a ranking's heap beyond which it is made anew.
_SLACK: Final = 64


class Group(Protocol):
    """Something with entries.

    Attributes:
        number: its own among the groups of a ranking.
        entries: by key.
    """

    number: int
    entries: Tournament[Any]


G = TypeVar("G", bound=Group)
T = TypeVar("T")


class Ranking(Generic[G]):
    """Groups by the least key of their entries, in a lazy heap.

    What stands in the heap for a group is never more than its least key: keys that rise are
    noticed when the group comes up, and one that falls must be told by `offer`. So groups that
    change but are not asked cost nothing. If the first group's first entry will not do, all groups
    are asked: there are as many as there are different requirements or offers, not as there are
    operations or workers.

    Attributes:
        groups: all of them, by number.
    """

    __slots__ = ("_bounds", "_heap", "_serials", "groups")

    def __init__(self) -> None:
        self.groups: dict[int, G] = {}
        self._heap: list[tuple[Key, int, G]] = []
        #: What stands in the heap for a group, by number; further entries of it are void.
        self._bounds: dict[int, Key] = {}
        self._serials = count()

    def add(self, group: G) -> None:
        """Rank one more."""
        self.groups[group.number] = group
        self.offer(group)

    def remove(self, group: G) -> None:
        """Rank one less."""
        del self.groups[group.number]
        self._bounds.pop(group.number, None)

    def offer(self, group: G) -> None:
        """The group's least key may have fallen."""
        least = group.entries.keys[1]
        if least < self._bounds.get(group.number, ABSENT):
            self._bounds[group.number] = least
            if len(self._heap) > 2 * len(self.groups) + _SLACK:
                self._make_anew()
            else:
                heappush(self._heap, (least, next(self._serials), group))

    def _make_anew(self) -> None:
        """Have one entry for each group in the heap, and no void ones.

        These go by themselves when they come up. Where keys only ever fall, as those of workers do
        of which the last one used is to be used next, they never come up.
        """
        self._heap[:] = [
            (bound, next(self._serials), self.groups[number])
            for number, bound in self._bounds.items()
        ]
        heapify(self._heap)

    def search(self, ask: Callable[[G], tuple[Key, T] | None]) -> T | None:
        """The entry with the least key of those that the groups answer.

        Args:
            ask: the group's best entry that will do, and its key.
        """
        heap = self._heap
        if not heap:
            return None
        bound, _, first = heap[0]
        if first.entries.keys[1] != bound or self._bounds.get(first.number) != bound:
            found = self._first()
            if found is None:
                return None
            first = found
        best = ABSENT
        chosen: T | None = None
        answer = ask(first)
        if answer is not None:
            best, chosen = answer
            if best == first.entries.keys[1]:
                return chosen
        for group in self.groups.values():
            if group.entries.keys[1] < best and group is not first:
                answer = ask(group)
                if answer is not None and answer[0] < best:
                    best, chosen = answer
        return chosen

    def _first(self) -> G | None:
        """The group with the least key of all."""
        heap = self._heap
        bounds = self._bounds
        while heap:
            bound, _, group = heap[0]
            if bounds.get(group.number) != bound:
                heappop(heap)
                continue
            if group.entries.keys[1] == bound:
                return group
            heappop(heap)
            del bounds[group.number]
            self.offer(group)
        return None
