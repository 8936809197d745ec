"""The least of many entries that fit: a tournament tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeAlias, TypeVar

__all__ = ["ABSENT", "Key", "Tournament"]

#: Less is better; the second number makes keys of different things different.
Key: TypeAlias = tuple[float, int]

#: The key of what cannot be chosen.
ABSENT: Final[Key] = (float("inf"), 0)

T = TypeVar("T")


class Tournament(Generic[T]):
    """Entries with a key and a vector; finds the least key whose vector is within a limit.

    A binary tree over the entries: each node knows the least key below it and, for each dimension,
    the least number. A change costs the way up to the root, as far as something changes; a search
    leaves out every subtree with no better key or with nothing small enough. Where nearly all or
    hardly any entries fit that is O(log n). In between it goes astray once for each entry with a
    better key that does not fit, unless it shares its subtree with others that do not.

    The answer depends on the entries alone, not on their places or their history: keys differ.

    Attributes:
        keys: the least key below each node; node 1 is the root, the children of n are 2n and
            2n + 1, entries start at the capacity. Others may read the root's.
    """

    __slots__ = ("_capacity", "_columns", "_free", "_hints", "_items", "_leaves", "keys")

    def __init__(self, dimensions: int) -> None:
        self._capacity = 1
        self.keys: list[Key] = [ABSENT, ABSENT]
        self._columns: list[list[float]] = [[float("inf")] * 2 for _ in range(dimensions)]
        self._items: list[T | None] = [None]
        #: Of each place, its leaf, counted from the left; leaves are sorted when there are more.
        self._leaves = [0]
        self._hints: list[Sequence[float]] = [()]
        self._free = [0]

    def add(self, item: T, hint: Sequence[float]) -> int:
        """A place for an entry, which cannot be chosen for now.

        Args:
            item: what is found.
            hint: the vector that it will have, more or less: entries with like vectors come to
                lie beside each other, so that a search leaves out more at once.
        """
        if not self._free:
            self._grow()
        place = self._free.pop()
        self._items[self._leaves[place]] = item
        self._hints[place] = hint
        return place

    def remove(self, place: int) -> None:
        """Forget an entry."""
        self.clear(place)
        self._items[self._leaves[place]] = None
        self._free.append(place)

    def clear(self, place: int) -> None:
        """An entry cannot be chosen."""
        # Its vector must not make others believe that there is something small here.
        self.set(place, ABSENT, (float("inf"),) * len(self._columns))

    def set(self, place: int, key: Key, vector: Sequence[float]) -> None:
        """Give an entry another key and vector."""
        keys = self.keys
        columns = self._columns
        node = self._capacity + self._leaves[place]
        keys[node] = key
        for column, number in zip(columns, vector, strict=True):
            column[node] = number
        node >>= 1
        while node:
            left = keys[2 * node]
            right = keys[2 * node + 1]
            least = min(left, right)
            changed = keys[node] is not least
            keys[node] = least
            for column in columns:
                first = column[2 * node]
                second = column[2 * node + 1]
                if second < first:
                    first = second
                if column[node] != first:
                    column[node] = first
                    changed = True
            if not changed:
                return
            node >>= 1

    def best(
        self, limit: Sequence[float], refuses: Callable[[T], bool] | None = None
    ) -> tuple[Key, T] | None:
        """The entry of the least key, no number of its vector being more than `limit`'s.

        Args:
            limit: one number per dimension.
            refuses: asked about single entries, where something else may speak against one.
        """
        dimensions = list(zip(self._columns, limit, strict=True))
        for column, bound in dimensions:
            # Most searches that find nothing end here.
            if column[1] > bound:
                return None
        keys = self.keys
        capacity = self._capacity
        best = ABSENT
        chosen: T | None = None
        nodes = [1]
        while nodes:
            node = nodes.pop()
            if keys[node] >= best:
                continue
            for column, bound in dimensions:
                if column[node] > bound:
                    break
            else:
                if node < capacity:
                    node *= 2
                    left = keys[node]
                    right = keys[node + 1]
                    if left <= right:
                        if right < best:
                            nodes.append(node + 1)
                        nodes.append(node)
                    else:
                        if left < best:
                            nodes.append(node)
                        nodes.append(node + 1)
                else:
                    item = self._items[node - capacity]
                    assert item is not None
                    if refuses is None or not refuses(item):
                        best = keys[node]
                        chosen = item
        return None if chosen is None else (best, chosen)

    def _grow(self) -> None:
        """Twice as many places; entries keep theirs, but lie elsewhere."""
        old = self._capacity
        before = [old + leaf for leaf in self._leaves]
        keys, columns, items = self.keys, self._columns, self._items
        self._capacity = 2 * old
        self.keys = [ABSENT] * (2 * self._capacity)
        self._columns = [[float("inf")] * (2 * self._capacity) for _ in columns]
        self._items = [None] * self._capacity
        self._free = list(range(self._capacity - 1, old - 1, -1))
        order = sorted(range(old), key=lambda place: tuple(self._hints[place]))
        self._leaves = [0] * old + list(range(old, self._capacity))
        self._hints += [()] * old
        for leaf, place in enumerate(order):
            self._leaves[place] = leaf
            node = before[place]
            self._items[leaf] = items[node - old]
            self.set(place, keys[node], [column[node] for column in columns])
