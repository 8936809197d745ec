"""The digests of a store by their hashes alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from nativelink.core.digest import Digest, StoreKey

__all__ = ["HashIndex"]

#: Keys that are looked at before others get their turn on the loop: 5 ms.
_SLICE_KEYS: Final = 10_000


class HashIndex:
    """Follows the keys of a store that has them all in memory.

    Only who speaks plain HTTP asks, so nothing is kept before the first question: from then on
    some 60 bytes for each key. The first answer waits until all keys were looked at, half a second
    for a million; others get their turns meanwhile.

    Args:
        keys: all keys of this moment, the oldest first.
    """

    __slots__ = ("_complete", "_digests", "_gone", "_keys", "_lock")

    def __init__(self, keys: Callable[[], Sequence[StoreKey]]) -> None:
        self._keys = keys
        self._digests: dict[str, Digest] | None = None
        self._complete = False
        #: Keys that left while the index is made.
        self._gone: set[Digest] = set()
        self._lock = asyncio.Lock()

    async def find(self, hash_: str) -> Digest | None:
        """The digest that has this hash."""
        if not self._complete:
            async with self._lock:
                if not self._complete:
                    await self._make()
        assert self._digests is not None
        return self._digests.get(hash_)

    def add(self, key: StoreKey) -> None:
        """A key came."""
        if self._digests is not None and isinstance(key, Digest):
            self._digests[key.hash] = key
            if self._gone:
                self._gone.discard(key)

    def discard(self, key: StoreKey) -> None:
        """A key left."""
        digests = self._digests
        if digests is None or not isinstance(key, Digest):
            return
        # One hash may stand for entries of two sizes in an action cache: the newer one counts.
        if digests.get(key.hash) == key:
            del digests[key.hash]
        if not self._complete:
            self._gone.add(key)

    async def _make(self) -> None:
        digests = self._digests = {}
        try:
            keys = self._keys()
            # Backwards, as of two sizes the newer one counts, and what comes meanwhile is newer.
            for end in range(len(keys), 0, -_SLICE_KEYS):
                gone = self._gone
                for key in reversed(keys[max(end - _SLICE_KEYS, 0) : end]):
                    if isinstance(key, Digest) and not (gone and key in gone):
                        digests.setdefault(key.hash, key)
                await asyncio.sleep(0)
        except BaseException:
            # Cancelled: whoever asks next begins again.
            self._digests = None
            raise
        finally:
            self._gone.clear()
        self._complete = True
