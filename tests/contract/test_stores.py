"""Every kind of store keeps the contract, alone and in the compositions of the documents."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pytest

import nativelink.stores
from nativelink.config.specs_stores import StoreSpec
from nativelink.core.digest import DigestFunction, StoreKey
from nativelink.core.streams import BytesSource
from nativelink.proto.build.bazel.remote.execution.v2.remote_execution_pb2 import ActionResult
from nativelink.stores.cloud.ontap_existence_cache import OntapS3ExistenceCacheStore
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.join.chunker import Chunker
from nativelink.stores.join.dedup import DedupStore
from nativelink.stores.join.fast_slow import FastSlowStore, StoreDirection
from nativelink.stores.join.shard import ShardStore
from nativelink.stores.join.shard_choice import Bounds, Rendezvous
from nativelink.stores.join.size_partition import SizePartitioningStore
from nativelink.stores.memory import MemoryStore
from nativelink.stores.noop import NoopStore
from nativelink.stores.remote.grpc_ac import GrpcAcStore
from nativelink.stores.remote.grpc_cas import GrpcCasStore
from nativelink.stores.remote.mongo import MongoStore
from nativelink.stores.remote.redis import RedisStore
from nativelink.stores.store import DelegatingStore, Store, read_bytes
from nativelink.stores.wrap.absences import AbsencesStore
from nativelink.stores.wrap.cache_metrics import CacheMetricsStore
from nativelink.stores.wrap.completeness import CompletenessCheckingStore
from nativelink.stores.wrap.compression import CompressionStore
from nativelink.stores.wrap.compression_codecs import Codec, Lz4Codec, ZstdCodec
from nativelink.stores.wrap.existence_cache import ExistenceCacheStore
from nativelink.stores.wrap.verify import VerifyStore
from nativelink.testing.fakes import DictStore, FakeClock
from nativelink.testing.faults import FaultyStore, Latency, injected
from nativelink.testing.store_contract import (
    DigestKeysOnly,
    RawAccess,
    StoreBasics,
    StoreContract,
    StreamsBlobs,
    StringKeys,
)
from nativelink.testing.store_machine import StoreMachine
from tests.stores.cloud.servers import Moto, shared
from tests.stores.cloud.suite import CloudContract
from tests.stores.remote.mongo_server import fresh_collection, open_mongo, raw_collection
from tests.stores.remote.redis_suite import RedisContract
from tests.stores.remote.upstream import NO_BATCHES, ac_of, cas_of, serving


def memory() -> MemoryStore:
    return MemoryStore(eviction=EvictionPolicy(), clock=FakeClock())


class NullRecorder:
    def record(self, *_args: object, count: int = 1) -> None:
        assert count > 0


# Leaves


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
        with TemporaryDirectory() as root:
            async with FilesystemStore(
                content_path=Path(root) / "content",
                temp_path=Path(root) / "temp",
                eviction=EvictionPolicy(),
                clock=FakeClock(),
            ) as store:
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


class TestExperimentalMongo(StringKeys, RawAccess):
    """On a server that speaks MongoDB's protocol; a document is in memory as a whole."""

    kind = MongoStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        self.name = fresh_collection()
        async with open_mongo(self.name) as store:
            yield store

    async def test_1_string_keys_and_digests_live_side_by_side(self) -> None:
        """As with NativeLink, a string that reads like a digest is that digest's key."""
        key, data = self.blob(100)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            for name in ("x", "a.b_c-d", "worker:7@pool=a,b", "ünïcode", "-", "x" * 200):
                await store.put(name, BytesSource(name.encode()))
                assert await store.has([name, str(key)]) == [len(name.encode()), 100]
                assert await read_bytes(store, name) == name.encode()

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
    """Over a bucket that is listed when the store is opened."""

    kind = OntapS3ExistenceCacheStore
    server = Moto

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        with TemporaryDirectory() as folder:
            async with (
                self.open_at(shared(Moto).port) as backend,
                OntapS3ExistenceCacheStore(
                    backend,
                    names=backend.names,
                    index_path=Path(folder) / "index",
                    sync_interval_s=3600,
                    clock=FakeClock(),
                ) as store,
            ):
                yield store


class TestGrpcCas(DigestKeysOnly, StreamsBlobs):
    """Over the real transport."""

    kind = GrpcCasStore
    # A message of 1 MiB is in the store, in grpcio, and in the server, which runs here too.
    allowed_bytes = 12 * 1024 * 1024

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        with TemporaryDirectory() as root:
            async with (
                FilesystemStore(
                    content_path=Path(root) / "content",
                    temp_path=Path(root) / "temp",
                    eviction=EvictionPolicy(),
                    clock=FakeClock(),
                ) as backend,
                serving(backend) as upstream,
                cas_of(upstream.address) as store,
            ):
                yield store


class TestGrpcCasWithoutBatches(DigestKeysOnly):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with (
            serving(memory()) as upstream,
            cas_of(upstream.address, batching=NO_BATCHES) as store,
        ):
            yield store


class TestGrpcCasBehindAnother(DigestKeysOnly):
    """A chain of two servers."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with (
            serving(memory()) as last,
            cas_of(last.address) as between,
            serving(between) as first,
            cas_of(first.address) as store,
        ):
            yield store


class TestGrpcAc(DigestKeysOnly):
    """Values are action results."""

    kind = GrpcAcStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with serving(memory()) as upstream, ac_of(upstream.address) as store:
            yield store

    def blob(self, size: int, seed: int = 0) -> tuple[StoreKey, bytes]:
        key, data = super().blob(size, seed)
        return key, ActionResult(stdout_raw=data).SerializeToString()


# Wrappers


class TestDelegating(StringKeys):
    kind = DelegatingStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield DelegatingStore(memory())


class TestVerify(DigestKeysOnly):
    kind = VerifyStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield VerifyStore(
            DictStore(chunk_size=9_000),
            verify_size=True,
            verify_hash=True,
            default_function=DigestFunction.SHA256,
        )


class TestVerifyThatChecksNothing(DigestKeysOnly):
    kind = VerifyStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield VerifyStore(
            memory(), verify_size=False, verify_hash=False, default_function=DigestFunction.BLAKE3
        )


class TestExistenceCache(StringKeys):
    kind = ExistenceCacheStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        backend = DictStore(chunk_size=9_000)
        yield ExistenceCacheStore(
            backend, eviction=EvictionPolicy(), clock=FakeClock(), removals=backend
        )


class TestTinyExistenceCache(StringKeys):
    """One that forgets nearly everything at once is as good a store."""

    kind = ExistenceCacheStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield ExistenceCacheStore(
            memory(), eviction=EvictionPolicy(max_count=1), clock=FakeClock(), removals=None
        )


class TestAbsences(StringKeys):
    kind = AbsencesStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield AbsencesStore(DictStore(chunk_size=9_000))


class TestCacheMetrics(StringKeys):
    kind = CacheMetricsStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield CacheMetricsStore(
            DictStore(chunk_size=9_000), cache_type="cas", recorder=NullRecorder()
        )


class TestCompleteness(StringKeys):
    """Values under digests are action results that need nothing but themselves."""

    kind = CompletenessCheckingStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield CompletenessCheckingStore(DictStore(chunk_size=9_000), memory())

    def blob(self, size: int, seed: int = 0) -> tuple[StoreKey, bytes]:
        key, data = super().blob(size, seed)
        return key, ActionResult(stdout_raw=data).SerializeToString()


def compression(backend: Store, codec: Codec | None = None, block_size: int = 65_536) -> Store:
    return CompressionStore(
        backend, codec or Lz4Codec(), block_size=block_size, max_block_size=block_size
    )


class TestCompression(StringKeys, StreamsBlobs):
    kind = CompressionStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        with TemporaryDirectory() as root:
            async with FilesystemStore(
                content_path=Path(root) / "content",
                temp_path=Path(root) / "temp",
                eviction=EvictionPolicy(),
                clock=FakeClock(),
            ) as backend:
                yield compression(backend)


class TestCompressionInPieces(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield compression(DictStore(chunk_size=7), block_size=5_000)


class TestCompressionByZstandard(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield compression(memory(), ZstdCodec(3), block_size=30_000)


# Joins


class TestDedup(StringKeys, StreamsBlobs):
    kind = DedupStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        with TemporaryDirectory() as root:
            async with FilesystemStore(
                content_path=Path(root) / "content",
                temp_path=Path(root) / "temp",
                eviction=EvictionPolicy(),
                clock=FakeClock(),
            ) as content:
                yield dedup(memory(), content, (65_536, 262_144, 524_288), max_concurrent=2)


def dedup(
    index: Store, content: Store, sizes: tuple[int, int, int] = (4096, 16_384, 65_536), **more: int
) -> DedupStore:
    low, normal, high = sizes
    chunker = Chunker(min_size=low, normal_size=normal, max_size=high)
    return DedupStore(index, content, chunker=chunker, **{"max_concurrent": 10, **more})


class TestDedupInSmallChunks(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        content = VerifyStore(
            DictStore(chunk_size=100),
            verify_size=True,
            verify_hash=True,
            default_function=DigestFunction.BLAKE3,
        )
        yield dedup(DictStore(chunk_size=7), content, (64, 500, 3000), max_concurrent=3)


class TestDedupOverCompression(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield dedup(memory(), compression(DictStore(chunk_size=1000)), max_concurrent=1)


class TestShard(StringKeys):
    kind = ShardStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield ShardStore((memory(), DictStore(chunk_size=9_000), memory()), Bounds((1, 2, 5)))


class TestShardByRendezvous(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield ShardStore((memory(), DictStore(chunk_size=9_000), memory()), Rendezvous((1, 0, 5)))


class TestSizePartitioning(DigestKeysOnly):
    kind = SizePartitioningStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield SizePartitioningStore(memory(), DictStore(chunk_size=9_000), size=4096)


def fast_slow(
    fast: StoreDirection = StoreDirection.BOTH,
    slow: StoreDirection = StoreDirection.BOTH,
    **settings: int,
) -> FastSlowStore:
    return FastSlowStore(
        memory(),
        DictStore(chunk_size=20_000),
        fast_direction=fast,
        slow_direction=slow,
        **settings,
    )


class TestFastSlow(StringKeys):
    kind = FastSlowStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield fast_slow()


class TestFastSlowWithFastGet(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield fast_slow(fast=StoreDirection.GET)


class TestFastSlowWithFastUpdate(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield fast_slow(fast=StoreDirection.UPDATE)


class TestFastSlowWithFastReadOnly(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield fast_slow(fast=StoreDirection.READ_ONLY)


class TestFastSlowWithSlowGet(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield fast_slow(slow=StoreDirection.GET)


class TestFastSlowWithSlowUpdate(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield fast_slow(slow=StoreDirection.UPDATE)


class TestFastSlowWithSlowReadOnly(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield fast_slow(slow=StoreDirection.READ_ONLY)


class TestFastSlowThatBypasses(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield fast_slow(fast=StoreDirection.GET, bypass_dedup_threshold_bytes=50_000)


class TestFastSlowOverABrokenFastSide(StringKeys):
    """It is as good a store as its slow side alone."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        fast = FaultyStore(memory())
        fast.go_down()
        yield FastSlowStore(fast, DictStore(chunk_size=20_000))


class TestFastSlowOverAFastSideThatBreaksInTheMiddle(StoreContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        fast = FaultyStore(DictStore(chunk_size=7_000))
        fast.get_error = injected()
        fast.get_fails_at = 10_000
        yield FastSlowStore(fast, DictStore(chunk_size=20_000))


class TestFastSlowOverATinyFastSide(StringKeys):
    """Its fast side evicts all the time."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        fast = MemoryStore(eviction=EvictionPolicy(max_bytes=50_000), clock=FakeClock())
        yield FastSlowStore(fast, memory())


class TestFastSlowWithoutFast(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield FastSlowStore(NoopStore(), memory())


class TestFastSlowWithoutSlow(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield FastSlowStore(memory(), NoopStore(), slow_direction=StoreDirection.READ_ONLY)


# Machines


class CompressionMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield compression(FaultyStore(DictStore(chunk_size=11_000), latency=Latency(3, 2)))


TestCompressionMachine = CompressionMachine.TestCase


class DedupMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        content = FaultyStore(DictStore(chunk_size=11_000), latency=Latency(3, 2))
        yield dedup(memory(), content, (256, 2000, 10_000), max_concurrent=5)


TestDedupMachine = DedupMachine.TestCase


class ShardMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        slow = FaultyStore(DictStore(chunk_size=11_000), latency=Latency(3, 2))
        yield ShardStore((memory(), slow), Bounds((1, 1)))


TestShardMachine = ShardMachine.TestCase


class FastSlowMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        fast = MemoryStore(eviction=EvictionPolicy(max_bytes=200_000), clock=FakeClock())
        slow = FaultyStore(DictStore(chunk_size=30_000), latency=Latency(1, 3))
        yield FastSlowStore(fast, slow)


TestFastSlowMachine = FastSlowMachine.TestCase


class FastSlowGetMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        fast = FaultyStore(DictStore(chunk_size=30_000), latency=Latency(2, 3))
        yield FastSlowStore(fast, memory(), fast_direction=StoreDirection.GET)


TestFastSlowGetMachine = FastSlowGetMachine.TestCase


class ExistenceCacheMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield ExistenceCacheStore(
            memory(), eviction=EvictionPolicy(max_count=3), clock=FakeClock(), removals=None
        )


TestExistenceCacheMachine = ExistenceCacheMachine.TestCase


class CompletenessMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield CompletenessCheckingStore(memory(), NoopStore())

    def blob(self, index: int) -> tuple[StoreKey, bytes]:
        key, data = super().blob(index)
        return key, ActionResult(stdout_raw=data).SerializeToString()


TestCompletenessMachine = CompletenessMachine.TestCase


class VerifyMachine(StoreMachine):
    string_keys = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield VerifyStore(
            memory(), verify_size=True, verify_hash=True, default_function=DigestFunction.SHA256
        )


TestVerifyMachine = VerifyMachine.TestCase


class SizePartitioningMachine(StoreMachine):
    string_keys = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield SizePartitioningStore(memory(), memory(), size=40_000)


TestSizePartitioningMachine = SizePartitioningMachine.TestCase


class GrpcCasMachine(StoreMachine):
    string_keys = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with serving(memory()) as upstream, cas_of(upstream.address) as store:
            yield store


TestGrpcCasMachine = GrpcCasMachine.TestCase


class GrpcAcMachine(StoreMachine):
    string_keys = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with serving(memory()) as upstream, ac_of(upstream.address) as store:
            yield store

    def blob(self, index: int) -> tuple[StoreKey, bytes]:
        key, data = super().blob(index)
        return key, ActionResult(stdout_raw=data).SerializeToString()


TestGrpcAcMachine = GrpcAcMachine.TestCase


# Nobody is forgotten


def _is_store(value: object) -> bool:
    return inspect.isclass(value) and all(
        inspect.iscoroutinefunction(getattr(value, name, None)) for name in ("has", "get", "put")
    )


def _kinds() -> Iterator[type[Any]]:
    """Every class of the package that has the three methods of a store."""
    for found in pkgutil.walk_packages(nativelink.stores.__path__, "nativelink.stores."):
        module = importlib.import_module(found.name)
        for value in vars(module).values():
            if _is_store(value) and value.__module__ == module.__name__ and value is not Store:
                yield value


def _tested() -> set[str]:
    return {
        suite.kind.__name__
        for name, suite in globals().items()
        if name.startswith("Test") and inspect.isclass(suite) and issubclass(suite, StoreBasics)
        if suite.kind is not None
    }


def test_every_kind_of_store_has_an_entry_in_the_contract_suite():
    assert {kind.__name__ for kind in _kinds()} - _tested() == set()


def test_every_store_that_can_be_configured_and_started_has_an_entry_too():
    union, *_ = get_args(StoreSpec.__value__)
    configurable = {member.__metadata__[-1].tag for member in get_args(union)}
    assert {"memory", "ref_store", "redis_store"} < configurable
    # A ref_store is the store that it names: test_compositions.py.
    names = configurable - {"ref_store"}
    names = names - {"grpc", "experimental_cloud_object_store"}
    names |= {"grpc_cas", "grpc_ac", "cloud_object"}
    for kind in names:
        assert kind.removeprefix("experimental_").removesuffix("_store").replace("_", "") in {
            name.lower().removesuffix("store") for name in _tested()
        }, kind
