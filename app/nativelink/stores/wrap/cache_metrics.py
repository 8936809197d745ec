"""What a cache is asked, how often it has it, and how long that takes."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Protocol

from nativelink.core.digest import StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import CountingSink, Sink, Source
from nativelink.stores.store import DelegatingStore, Store

__all__ = ["CacheMetricsStore", "OperationRecorder"]


class OperationRecorder(Protocol):
    """Takes the measurements of one process's caches."""

    def record(
        self,
        cache_type: str,
        operation: str,
        result: str,
        seconds: float,
        size_bytes: int,
        /,
        *,
        count: int = 1,
    ) -> None:
        """Take one measurement.

        Args:
            cache_type: the configured label.
            operation: `read` or `write` (cache.operation.name).
            result: `hit`, `miss`, `success` or `error` (cache.operation.result).
            seconds: how long it took.
            size_bytes: of what was read or written; 0 where no bytes moved.
            count: so many look-ups ended like this together, within `seconds`.
        """
        ...


class CacheMetricsStore(DelegatingStore):
    """Records every operation on a store.

    A `get` is a read that hits or misses, a `put` is a write. The keys of a `has` are reads too,
    counted by how they ended, without bytes: for a client that asks before it uploads, that is
    where the cache hits. A call that is cancelled is not recorded, as the store did not end it.

    Args:
        backend: what is measured.
        cache_type: the label under which it is shown, such as `cas`.
        recorder: takes the measurements.
    """

    __slots__ = ("_cache_type", "_record")

    def __init__(self, backend: Store, *, cache_type: str, recorder: OperationRecorder) -> None:
        super().__init__(backend)
        self._cache_type = cache_type
        self._record = recorder.record

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        start = perf_counter()
        try:
            sizes = await self._backend.has(keys)
        except Exception:
            self._record(self._cache_type, "read", "error", perf_counter() - start, 0)
            raise
        seconds = perf_counter() - start
        misses = sizes.count(None)
        if misses:
            self._record(self._cache_type, "read", "miss", seconds, 0, count=misses)
        if hits := len(sizes) - misses:
            self._record(self._cache_type, "read", "hit", seconds, 0, count=hits)
        return sizes

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        counted = CountingSink(sink)
        start = perf_counter()
        try:
            await self._backend.get(key, counted, offset=offset, limit=limit)
        except Exception as error:
            missed = isinstance(error, NativeLinkError) and error.code is Code.NOT_FOUND
            result = "miss" if missed else "error"
            self._record(self._cache_type, "read", result, perf_counter() - start, counted.size)
            raise
        self._record(self._cache_type, "read", "hit", perf_counter() - start, counted.size)

    async def put(self, key: StoreKey, source: Source) -> int:
        start = perf_counter()
        try:
            size = await self._backend.put(key, source)
        except Exception:
            self._record(self._cache_type, "write", "error", perf_counter() - start, 0)
            raise
        self._record(self._cache_type, "write", "success", perf_counter() - start, size)
        return size
