"""Every kind of store around another one keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nativelink.core.digest import DigestFunction, StoreKey
from nativelink.proto.build.bazel.remote.execution.v2.remote_execution_pb2 import ActionResult
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.noop import NoopStore
from nativelink.stores.store import DelegatingStore, Store
from nativelink.stores.wrap.absences import AbsencesStore
from nativelink.stores.wrap.cache_metrics import CacheMetricsStore
from nativelink.stores.wrap.completeness import CompletenessCheckingStore
from nativelink.stores.wrap.compression import CompressionStore
from nativelink.stores.wrap.compression_codecs import ZstdCodec
from nativelink.stores.wrap.existence_cache import ExistenceCacheStore
from nativelink.stores.wrap.verify import VerifyStore
from nativelink.testing.fakes import DictStore, FakeClock
from nativelink.testing.faults import FaultyStore, Latency
from nativelink.testing.store_contract import (
    DigestKeysOnly,
    StreamsBlobs,
    StringKeys,
)
from nativelink.testing.store_machine import StoreMachine
from tests.contract.parts import compression, memory, on_disk


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


class NullRecorder:
    def record(self, *_args: object, count: int = 1) -> None:
        assert count > 0


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


class TestCompression(StringKeys, StreamsBlobs):
    kind = CompressionStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with on_disk() as backend:
            yield compression(backend)


class TestCompressionInPieces(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield compression(DictStore(chunk_size=7), block_size=5_000)


class TestCompressionByZstandard(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield compression(memory(), ZstdCodec(3), block_size=30_000)


class CompressionMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield compression(FaultyStore(DictStore(chunk_size=11_000), latency=Latency(3, 2)))


TestCompressionMachine = CompressionMachine.TestCase


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
