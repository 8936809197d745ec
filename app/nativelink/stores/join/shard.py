"""Blobs spread over several stores by their hash."""

from __future__ import annotations

from collections.abc import Sequence

from nativelink.core.digest import StoreKey
from nativelink.core.eager import run_all
from nativelink.core.streams import Sink, Source
from nativelink.stores.join.shard_choice import Choice
from nativelink.stores.store import Store

__all__ = ["ShardStore"]


class ShardStore:
    """Several stores as one: each key belongs to exactly one of them.

    A shard that fails makes its share of the keys fail, and every `has` that asks for one of them.

    Args:
        shards: the stores.
        choice: where a key belongs.
    """

    __slots__ = ("_choice", "_shards")

    def __init__(self, shards: Sequence[Store], choice: Choice) -> None:
        self._shards = tuple(shards)
        self._choice = choice

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        parts: dict[int, list[StoreKey]] = {}
        places = list(map(self._choice, keys))
        for key, place in zip(keys, places, strict=True):
            parts.setdefault(place, []).append(key)
        if len(parts) == 1:
            return await self._shards[places[0]].has(keys)
        found = await run_all(self._shards[place].has(part) for place, part in parts.items())
        sizes = dict(zip(parts, map(iter, found), strict=True))
        return [next(sizes[place]) for place in places]

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        await self._shards[self._choice(key)].get(key, sink, offset=offset, limit=limit)

    async def put(self, key: StoreKey, source: Source) -> int:
        return await self._shards[self._choice(key)].put(key, source)
