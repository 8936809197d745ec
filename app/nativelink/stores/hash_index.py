"""The digests of a store by their hashes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nativelink.core.digest import Digest, StoreKey

__all__ = ["HashIndex"]


class HashIndex:
    """Follows the keys of a store that has them all in memory.

    Only who speaks plain HTTP asks, so nothing is kept before the first question: from then on a
    hundred bytes for each key. The first answer takes as long as a look at all keys, about a
    tenth of a second for a million.

    Args:
        keys: all keys of this moment.
    """

    __slots__ = ("_digests", "_keys")

    def __init__(self, keys: Callable[[], Iterable[StoreKey]]) -> None:
        self._keys = keys
        self._digests: dict[str, Digest] | None = None

    def find(self, hash_: str) -> Digest | None:
        """The digest that has this hash."""
        if self._digests is None:
            self._digests = {key.hash: key for key in self._keys() if isinstance(key, Digest)}
        return self._digests.get(hash_)

    def add(self, key: StoreKey) -> None:
        """A key came."""
        if self._digests is not None and isinstance(key, Digest):
            self._digests[key.hash] = key

    def discard(self, key: StoreKey) -> None:
        """A key left."""
        digests = self._digests
        # One hash may stand for entries of two sizes in an action cache: the newer one counts.
        if digests is not None and isinstance(key, Digest) and digests.get(key.hash) == key:
            del digests[key.hash]
