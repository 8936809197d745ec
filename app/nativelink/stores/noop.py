"""A store that keeps nothing."""

from __future__ import annotations

from collections.abc import Sequence

from nativelink.core.digest import EMPTY_DIGESTS, StoreKey
from nativelink.core.errors import out_of_range
from nativelink.core.streams import Sink, Source, drain
from nativelink.stores.store import absent

__all__ = ["NoopStore"]


class NoopStore:
    """Takes everything and has nothing but the empty blob.

    For one side of a fast_slow, or to switch a cache off without touching its clients.
    """

    __slots__ = ()

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        return [0 if key in EMPTY_DIGESTS else None for key in keys]

    async def get(
        self,
        key: StoreKey,
        sink: Sink,  # noqa: ARG002 - nothing is ever written
        *,
        offset: int = 0,
        limit: int | None = None,  # noqa: ARG002 - nothing is ever written
    ) -> None:
        if key not in EMPTY_DIGESTS:
            raise absent(key)
        if offset:
            raise out_of_range(f"offset {offset} is beyond the 0 bytes of {key}")

    async def put(
        self,
        key: StoreKey,  # noqa: ARG002 - nothing is kept under it
        source: Source,
    ) -> int:
        return await drain(source)
