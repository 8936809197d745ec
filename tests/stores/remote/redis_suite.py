"""The store contract on real Redis servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nativelink.core.digest import StoreKey
from nativelink.core.streams import BytesSource
from nativelink.stores.remote.redis_client import RedisClient
from nativelink.stores.store import Store, read_bytes
from nativelink.testing.store_contract import RawAccess, StreamsBlobs, StringKeys
from tests.stores.remote.redis_server import (
    fresh_prefix,
    names,
    open_redis,
    shared_redis,
    standard,
)


class RedisContract(StringKeys, RawAccess, StreamsBlobs):
    """A subclass may say where the servers are."""

    def client(self) -> RedisClient:
        return standard(shared_redis().endpoint)

    def raw(self) -> Any:
        """A client of somebody else's, as a context."""
        return shared_redis().raw()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        self.prefix = fresh_prefix()
        async with open_redis(self.client(), prefix=self.prefix) as store:
            yield store

    async def test_1_string_keys_and_digests_live_side_by_side(self) -> None:
        """As with NativeLink, a string that reads like a digest is that digest's key."""
        key, data = self.blob(100)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            for name in ("x", "a.b_c-d", "worker:7@pool=a,b", "ünïcode", "-", "x" * 200):
                value = self.text(len(name) + 10, 1)
                await store.put(name, BytesSource(value))
                assert await store.has([name, str(key), key]) == [len(value), 100, 100]
                assert await read_bytes(store, name) == value
                assert await read_bytes(store, key) == data

    def raw_put(self, key: StoreKey, data: bytes) -> None:
        with self.raw() as raw:
            raw.set(f"{self.prefix}{key}", data)

    def raw_get(self, key: StoreKey) -> bytes | None:
        with self.raw() as raw:
            value: bytes | None = raw.get(f"{self.prefix}{key}")
            return value

    def raw_names(self) -> set[str]:
        with self.raw() as raw:
            return names(raw, self.prefix)
