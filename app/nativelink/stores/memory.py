"""Blobs in this process's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nativelink.core.clock import Clock
from nativelink.core.digest import EMPTY_DIGESTS, Digest, StoreKey
from nativelink.core.errors import out_of_range
from nativelink.core.streams import Chunk, Sink, Source, drain
from nativelink.stores.eviction import EvictingMap, EvictionPolicy, EvictionStatistics
from nativelink.stores.hash_index import HashIndex
from nativelink.stores.store import absent

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps values as `bytes` until its eviction policy lets them go.

    Nothing here ever waits but the source or the sink, so a hit costs a look-up and one write of
    the stored object itself, or of a view into it. A value that is known to reach `max_bytes`, by
    its announced size or while it comes in, is read to its end and dropped, and counts as evicted.

    Args:
        eviction: the limits; without any, memory grows with what is put.
        clock: ages are measured by its monotonic time.
    """

    __slots__ = ("_by_hash", "_callbacks", "_map", "_max_bytes", "_now")

    def __init__(self, *, eviction: EvictionPolicy, clock: Clock) -> None:
        self._map: EvictingMap[StoreKey, bytes] = EvictingMap(eviction, weigh=len)
        for digest in EMPTY_DIGESTS:
            self._map.pin(digest, b"")
        self._max_bytes = eviction.max_bytes
        self._now = clock.monotonic
        self._callbacks: list[Callable[[StoreKey], None]] = []
        self._map.on_removed(self._report)
        self._by_hash = HashIndex(self._map.keys_oldest_first)

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        values = self._map.get_many(keys, self._now())
        return [None if value is None else len(value) for value in values]

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        value = self._map.get(key, self._now())
        if value is None:
            raise absent(key)
        size = len(value)
        if offset > size:
            raise out_of_range(f"offset {offset} is beyond the {size} bytes of {key}")
        if offset == 0 and (limit is None or limit >= size):
            if value:
                await sink.write(value)
            return
        part = memoryview(value)[offset : None if limit is None else offset + limit]
        if part:
            await sink.write(part)

    async def put(self, key: StoreKey, source: Source) -> int:
        if key in EMPTY_DIGESTS:
            return await drain(source)
        max_bytes = self._max_bytes
        if max_bytes and source.size is not None and source.size >= max_bytes:
            return await self._refuse(key, source)
        first = await source.read()
        chunks: list[Chunk] = [first]
        size = len(first)
        if first:
            while chunk := await source.read():
                chunks.append(chunk)
                size += len(chunk)
                if max_bytes and size >= max_bytes:
                    chunks.clear()
                    return size + await self._refuse(key, source)
        if len(chunks) == 1 and isinstance(first, bytes):
            value = first
        else:
            # A view would keep the whole buffer alive that it was cut from.
            value = b"".join(chunks)
        # Before the map is told: it may evict the key at once.
        self._by_hash.add(key)
        self._map.insert(key, value, self._now())
        return size

    async def find(self, hash_: str) -> Digest | None:
        """`BlobFinder`."""
        return await self._by_hash.find(hash_)

    def on_removed(self, callback: Callable[[StoreKey], None], /) -> None:
        """`RemovalFeed`."""
        self._callbacks.append(callback)

    def statistics(self) -> EvictionStatistics:
        """What is held, and what was let go."""
        return self._map.statistics()

    async def _refuse(self, key: StoreKey, source: Source) -> int:
        """Read the rest of a value that is too large, then let the key go."""
        size = await drain(source)
        # An older value of the key goes too: it is not what the key stands for any more.
        if self._map.remove(key) is None:
            self._report(key)
        return size

    def _report(self, key: StoreKey, _value: bytes = b"") -> None:
        self._by_hash.discard(key)
        for callback in self._callbacks:
            callback(key)
