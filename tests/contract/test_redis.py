"""`redis_store` on real servers keeps the store contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nativelink.core.digest import StoreKey
from nativelink.core.streams import BytesSource
from nativelink.stores.remote.redis import RedisStore
from nativelink.stores.store import Store, read_bytes
from nativelink.testing.store_contract import RawAccess, StreamsBlobs, StringKeys
from nativelink.testing.store_machine import StoreMachine
from tests.stores.remote.redis_server import fresh_prefix, names, open_redis, shared_redis


class TestRedis(StringKeys, RawAccess, StreamsBlobs):
    kind = RedisStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        self.prefix = fresh_prefix()
        async with open_redis(prefix=self.prefix) as store:
            yield store

    async def test_1_string_keys_and_digests_live_side_by_side(self) -> None:
        """Also in NativeLink, a string that reads like a digest is that digest's key."""
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
        with shared_redis().raw() as raw:
            raw.set(f"{self.prefix}{key}", data)

    def raw_get(self, key: StoreKey) -> bytes | None:
        with shared_redis().raw() as raw:
            value: bytes | None = raw.get(f"{self.prefix}{key}")
            return value

    def raw_names(self) -> set[str]:
        with shared_redis().raw() as raw:
            return names(raw, self.prefix)


class RedisMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with open_redis(read_chunk_size=10_000, max_chunk_uploads=2) as store:
            yield store


TestRedisMachine = RedisMachine.TestCase
