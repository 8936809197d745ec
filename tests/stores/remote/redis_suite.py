"""The store contract on real Redis servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nativelink.core.digest import StoreKey
from nativelink.stores.remote.redis_client import RedisClient
from nativelink.stores.store import Store
from nativelink.testing.store_contract import OneKeyspace, RawAccess, StreamsBlobs
from tests.stores.remote.redis_server import (
    fresh_prefix,
    names,
    open_redis,
    shared_redis,
    standard,
)


class RedisContract(OneKeyspace, RawAccess, StreamsBlobs):
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
