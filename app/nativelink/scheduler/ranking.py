"""Which of many groups to ask first, and how far to go on asking."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Generic, Protocol, TypeVar

from nativelink.scheduler.tournament import ABSENT, Key

__all__ = ["Group", "Ranking"]


class Group(Protocol):
    """Something with entries, of which it knows the least key."""

    @property
    def number(self) -> int:
        """Its own among the groups of a ranking."""
        ...

    @property
    def least(self) -> Key:
        """No entry of it has a lesser key; `ABSENT` if it has none."""
        ...


G = TypeVar("G", bound=Group)
T = TypeVar("T")


class Ranking(Generic[G]):
    """Groups by their least key, in a lazy heap.

    What stands in the heap for a group is never more than its least key: keys that rise are
    noticed when the group comes up, and one that falls must be told by `offer`. So groups that
    change but are not asked cost nothing.
    """

    __slots__ = ("_bounds", "_heap", "_serials")

    def __init__(self) -> None:
        self._heap: list[tuple[Key, int, G]] = []
        #: What stands in the heap for a group, by number; further entries of it are void.
        self._bounds: dict[int, Key] = {}
        self._serials = count()

    def offer(self, group: G) -> None:
        """The group's least key may have fallen, or the group is new."""
        least = group.least
        if least < self._bounds.get(group.number, ABSENT):
            self._bounds[group.number] = least
            heappush(self._heap, (least, next(self._serials), group))

    def search(self, ask: Callable[[G], tuple[Key, T] | None]) -> T | None:
        """The entry with the least key of those that the groups answer.

        Args:
            ask: the group's best entry that will do, and its key.
        """
        heap = self._heap
        bounds = self._bounds
        best = ABSENT
        chosen: T | None = None
        asked: list[G] = []
        while heap and heap[0][0] < best:
            bound, _, group = heap[0]
            if bounds.get(group.number) != bound:
                heappop(heap)
                continue
            least = group.least
            if least > bound:
                heappop(heap)
                del bounds[group.number]
                self.offer(group)
                continue
            answer = ask(group)
            if answer is not None and answer[0] < best:
                best, chosen = answer
                if best == least:
                    # Nothing can be better, and it may stay where it is.
                    break
            heappop(heap)
            del bounds[group.number]
            asked.append(group)
        for group in asked:
            self.offer(group)
        return chosen
