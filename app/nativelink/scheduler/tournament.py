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

    __slots__ = (
        "_capacity",
        "_columns",
        "_free",
        "_hints",
        "_items",
        "_leaves",
        "_nothing",
        "keys",
    )

    def __init__(self, dimensions: int) -> None:
        self._capacity = 1
        self.keys: list[Key] = [ABSENT, ABSENT]
        self._columns: list[list[float]] = [[float("inf")] * 2 for _ in range(dimensions)]
        self._nothing = (float("inf"),) * dimensions
        self._items: list[T | None] = [None]
        #: Of each place, its leaf, counted from the left.
        self._leaves = [0]
        self._free = [0]

    def add(self, item: T) -> int:
        """A place for an entry, which cannot be chosen for now."""
        if not self._free:
            self._grow()
        place = self._free.pop()
        self._items[self._leaves[place]] = item
        return place

    def remove(self, place: int) -> None:
        """Forget an entry."""
        self.clear(place)
        self._items[self._leaves[place]] = None
        self._free.append(place)

    def clear(self, place: int) -> None:
        """An entry cannot be chosen."""
        if self.keys[self._capacity + self._leaves[place]] is ABSENT:
            return
        # Its vector must not make others believe that there is something small here.
        self.set(place, ABSENT, self._nothing)

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
        columns = self._columns
        for column, bound in zip(columns, limit, strict=True):
            # Most searches that find nothing end here.
            if column[1] > bound:
                return None
        dimensions = list(zip(self._columns, limit, strict=True))
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

    def arrange(self, order: Callable[[T], Sequence[float]]) -> None:
        """Have entries lie in this order, so that a search leaves out more of them at once.

        Pays if entries with like vectors come to lie beside each other, and keep them. Costs as
        much as changing all of them.
        """
        places = [place for place, leaf in enumerate(self._leaves) if self._items[leaf] is not None]
        places.sort(key=lambda place: tuple(order(self._item(place))))
        self._lay_out([*places, *self._free], self._capacity)

    def _item(self, place: int) -> T:
        item = self._items[self._leaves[place]]
        assert item is not None
        return item

    def _grow(self) -> None:
        """Twice as many places; entries keep theirs."""
        old = self._capacity
        in_order = sorted(range(old), key=self._leaves.__getitem__)
        self._free = list(range(2 * old - 1, old - 1, -1))
        self._lay_out(in_order, 2 * old)

    def _lay_out(self, places: Sequence[int], capacity: int) -> None:
        """Make the tree anew, with the entries at these places from left to right."""
        nodes = [self._capacity + self._leaves[place] for place in places]
        keys, columns, items = self.keys, self._columns, self._items
        self._items = [items[node - self._capacity] for node in nodes]
        self._items += [None] * (capacity - len(nodes))
        self._leaves += range(len(self._leaves), capacity)
        self.keys = [ABSENT] * (2 * capacity)
        self._columns = [[float("inf")] * (2 * capacity) for _ in columns]
        self._capacity = capacity
        for leaf, (place, node) in enumerate(zip(places, nodes, strict=True)):
            self._leaves[place] = leaf
            self.set(place, keys[node], [column[node] for column in columns])
