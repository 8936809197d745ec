"""Small blobs to one store, large ones to another."""

from __future__ import annotations

from collections.abc import Sequence

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.eager import run_all
from nativelink.core.errors import invalid_argument
from nativelink.core.streams import Sink, Source
from nativelink.stores.store import Store

__all__ = ["SizePartitioningStore"]


class SizePartitioningStore:
    """Sends each blob to one of two stores by the size that its digest names.

    Only right where that size is the blob's own (a CAS): an action cache's keys name the size of
    the action, not of its result. A string key has no size and is an INVALID_ARGUMENT.

    Args:
        lower: for digests of less than `size` bytes.
        upper: for all others.
        size: the first size that belongs to `upper`, in bytes.
    """

    __slots__ = ("_lower", "_size", "_upper")

    def __init__(self, lower: Store, upper: Store, *, size: int) -> None:
        self._lower = lower
        self._upper = upper
        self._size = size

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        bound = self._size
        try:
            # A string has no size; looking at each key's type would cost more than this.
            above = [key.size_bytes >= bound for key in keys]  # type: ignore[union-attr]
        except AttributeError:
            raise _string_key(next(key for key in keys if isinstance(key, str))) from None
        if True not in above:
            return await self._lower.has(keys)
        if False not in above:
            return await self._upper.has(keys)
        lower, upper = await run_all(
            (
                self._lower.has([key for key, up in zip(keys, above, strict=True) if not up]),
                self._upper.has([key for key, up in zip(keys, above, strict=True) if up]),
            )
        )
        sides = (iter(lower), iter(upper))
        return [next(sides[up]) for up in above]

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        await self._side(key).get(key, sink, offset=offset, limit=limit)

    async def put(self, key: StoreKey, source: Source) -> int:
        return await self._side(key).put(key, source)

    def _side(self, key: StoreKey) -> Store:
        if not isinstance(key, Digest):
            raise _string_key(key)
        return self._lower if key.size_bytes < self._size else self._upper


def _string_key(key: str) -> Exception:
    return invalid_argument(
        f"size_partitioning cannot place the string key {key[:100]!r}: a digest is needed"
    )
