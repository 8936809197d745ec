"""Every kind of store that keeps blobs itself keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nativelink.core.digest import StoreKey
from nativelink.stores.cloud.ontap_existence_cache import OntapS3ExistenceCacheStore
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.memory import MemoryStore
from nativelink.stores.noop import NoopStore
from nativelink.stores.remote.mongo import MongoStore
from nativelink.stores.remote.redis import RedisStore
from nativelink.stores.store import Store
from nativelink.testing.fakes import FakeClock
from nativelink.testing.store_contract import (
    OneKeyspace,
    RawAccess,
    StoreBasics,
    StreamsBlobs,
    StringKeys,
)
from tests.contract.parts import memory, on_disk
from tests.stores.cloud.servers import Moto, Versity, shared
from tests.stores.cloud.suite import CloudContract
from tests.stores.remote.mongo_server import fresh_collection, open_mongo, raw_collection
from tests.stores.remote.redis_suite import RedisContract


class TestMemory(StringKeys):
    kind = MemoryStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield memory()


class TestFilesystem(StringKeys, StreamsBlobs):
    """Its other ways of working are in test_filesystem.py."""

    kind = FilesystemStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with on_disk() as store:
            yield store


class TestNoop(StoreBasics):
    kind = NoopStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield NoopStore()


class TestRedis(RedisContract):
    """One real server; its other ways of working are in test_redis.py."""

    kind = RedisStore


@pytest.mark.slow
class TestCloudObject(CloudContract):
    """moto's S3; the other providers' protocols are in test_cloud.py."""

    server = Moto


class TestExperimentalMongo(OneKeyspace, RawAccess):
    """On a server that speaks MongoDB's protocol; a document is in memory as a whole."""

    kind = MongoStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        self.name = fresh_collection()
        async with open_mongo(self.name) as store:
            yield store

    def raw_put(self, key: StoreKey, data: bytes) -> None:
        with raw_collection(self.name) as raw:
            raw.insert_one({"_id": str(key), "data": data, "size": len(data)})

    def raw_get(self, key: StoreKey) -> bytes | None:
        with raw_collection(self.name) as raw:
            document = raw.find_one({"_id": str(key)})
            return None if document is None else bytes(document["data"])

    def raw_names(self) -> set[str]:
        with raw_collection(self.name) as raw:
            return {document["_id"] for document in raw.find()}


@pytest.mark.slow
class TestOntapS3ExistenceCache(CloudContract):
    """Over a bucket that is listed when the store is opened; versitygw's, the quickest."""

    kind = OntapS3ExistenceCacheStore
    server = Versity

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        with TemporaryDirectory() as folder:
            async with (
                self.open_at(shared(self.server).port) as backend,
                OntapS3ExistenceCacheStore(
                    backend,
                    names=backend.names,
                    index_path=Path(folder) / "index",
                    sync_interval_s=3600,
                    clock=FakeClock(),
                ) as store,
            ):
                yield store
