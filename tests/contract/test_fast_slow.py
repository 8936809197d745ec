"""A fast store in front of a slow one keeps the contract, in every direction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.join.fast_slow import FastSlowStore, StoreDirection
from nativelink.stores.memory import MemoryStore
from nativelink.stores.noop import NoopStore
from nativelink.stores.store import Store
from nativelink.testing.fakes import DictStore, FakeClock
from nativelink.testing.faults import FaultyStore, Latency, injected
from nativelink.testing.store_contract import (
    StoreContract,
    StringKeys,
)
from nativelink.testing.store_machine import StoreMachine
from tests.contract.parts import memory


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
