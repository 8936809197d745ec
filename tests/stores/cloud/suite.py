"""The store contract over a bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from nativelink.core.digest import StoreKey
from nativelink.core.retry import Retry
from nativelink.stores.cloud.keys import Keys
from nativelink.stores.cloud.object_store import CloudObjectStore
from nativelink.stores.store import Store
from nativelink.testing.fakes import FakeClock
from nativelink.testing.store_contract import OneKeyspace, RawAccess, StreamsBlobs
from tests.stores.cloud.proxy import Fault, every, faults_between
from tests.stores.cloud.servers import ObjectServer, fresh_prefix, shared

__all__ = ["BucketContract", "CloudContract", "FaultyCloudContract"]

_NONE_IS_NEEDED = Retry()


class BucketContract(OneKeyspace, RawAccess):
    """The contract, except for memory, which servers in this process would be counted in."""

    server: ClassVar[type[ObjectServer]]
    kind = CloudObjectStore
    # Each key is a request of its own, and this more than twice as many as travel at a time.
    large_batch = 600

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with self.open_at(shared(self.server).port) as store:
            yield store

    @asynccontextmanager
    async def open_at(
        self, port: int, *, retry: Retry = _NONE_IS_NEEDED
    ) -> AsyncIterator[CloudObjectStore]:
        self.prefix = fresh_prefix()
        async with CloudObjectStore(
            shared(self.server).bucket(port=port, retry=retry),
            keys=Keys(self.prefix),
            clock=FakeClock(),
            max_concurrent_parts=2,
        ) as store:
            yield store

    def raw_put(self, key: StoreKey, data: bytes) -> None:
        shared(self.server).write(f"{self.prefix}{key}", data)

    def raw_get(self, key: StoreKey) -> bytes | None:
        return shared(self.server).read(f"{self.prefix}{key}")

    def raw_names(self) -> set[str]:
        return shared(self.server).names(self.prefix)


class CloudContract(BucketContract, StreamsBlobs):
    """The contract over the server of `server`."""

    large_bytes = 96 * 1024 * 1024
    # Six parts of 5 MiB: two travel, one waits to, one was handed over, one is gathered and joined.
    allowed_bytes = 36 * 1024 * 1024


class FaultyCloudContract(BucketContract):
    """The same, although every third request fails in one way or another."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        choose = every(
            3,
            Fault.RESET,
            Fault.ERROR,
            Fault.SLOW_DOWN,
            Fault.HALF,
            Fault.SLOW,
            Fault.LATENCY,
        )
        async with (
            faults_between(shared(self.server).port, choose) as proxy,
            # Some calls are several requests.
            self.open_at(proxy.port, retry=Retry(max_retries=12, delay_s=0.001)) as store,
        ):
            yield store
