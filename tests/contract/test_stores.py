"""Every kind of store keeps the contract, alone and in the compositions of the documents."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import nativelink.stores
from nativelink.core.digest import DigestFunction
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.join.size_partition import SizePartitioningStore
from nativelink.stores.memory import MemoryStore
from nativelink.stores.noop import NoopStore
from nativelink.stores.store import DelegatingStore, Store
from nativelink.stores.wrap.cache_metrics import CacheMetricsStore
from nativelink.stores.wrap.existence_cache import ExistenceCacheStore
from nativelink.stores.wrap.verify import VerifyStore
from nativelink.testing.fakes import DictStore, FakeClock
from nativelink.testing.store_contract import DigestKeysOnly, StoreBasics, StringKeys
from nativelink.testing.store_machine import StoreMachine


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


class TestNoop(StoreBasics):
    kind = NoopStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield NoopStore()


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


class TestCacheMetrics(StringKeys):
    kind = CacheMetricsStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield CacheMetricsStore(
            DictStore(chunk_size=9_000), cache_type="cas", recorder=NullRecorder()
        )


# Joins


class TestSizePartitioning(DigestKeysOnly):
    kind = SizePartitioningStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield SizePartitioningStore(memory(), DictStore(chunk_size=9_000), size=4096)


# Machines


class ExistenceCacheMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield ExistenceCacheStore(
            memory(), eviction=EvictionPolicy(max_count=3), clock=FakeClock(), removals=None
        )


TestExistenceCacheMachine = ExistenceCacheMachine.TestCase


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


def test_every_kind_of_store_has_an_entry_in_the_contract_suite():
    tested = {
        suite.kind
        for name, suite in globals().items()
        if name.startswith("Test") and inspect.isclass(suite) and issubclass(suite, StoreBasics)
    }
    assert {kind.__name__ for kind in _kinds()} - {
        kind.__name__ for kind in tested if kind
    } == set()
