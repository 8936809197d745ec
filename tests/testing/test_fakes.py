"""The fakes keep the contracts of what they fake."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nativelink.core.digest import StoreKey
from nativelink.stores.store import Store
from nativelink.testing.fakes import DictStore, FakeClock, PassingTime, Turns, wait_until
from nativelink.testing.faults import FaultyStore, Latency
from nativelink.testing.store_contract import RawAccess, StringKeys
from nativelink.testing.store_machine import StoreMachine


class TestDictStore(StringKeys, RawAccess):
    kind = DictStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        self.store = DictStore()
        yield self.store

    def raw_put(self, key: StoreKey, data: bytes) -> None:
        self.store.blobs[key] = data

    def raw_get(self, key: StoreKey) -> bytes | None:
        return self.store.blobs.get(key)

    def raw_names(self) -> set[str]:
        return set(map(str, self.store.blobs))


class TestDictStoreInPieces(StringKeys):
    kind = DictStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield DictStore(chunk_size=10_000)


class TestFaultyStoreWithoutFaults(StringKeys):
    kind = FaultyStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield FaultyStore(DictStore(chunk_size=10_000), latency=Latency(1, 2))


class DictStoreMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield DictStore(chunk_size=10_000)


TestDictStoreMachine = DictStoreMachine.TestCase


def test_the_fake_clock_moves_only_when_told():
    clock = FakeClock()
    wall, mono = clock.time(), clock.monotonic()
    clock.advance(2.5)
    assert (clock.time(), clock.monotonic()) == (wall + 2.5, mono + 2.5)
    clock.set_time(7.0)
    assert (clock.time(), clock.monotonic()) == (7.0, mono + 2.5)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


async def test_a_loops_time_goes_on_by_itself_and_further_when_told():
    loop, before = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    passing = PassingTime()
    assert before <= loop.time() < before + 1000

    async def wait_for_ever() -> None:
        async with asyncio.timeout(2000):
            passing.pass_by(3000)
            await loop.create_future()

    with pytest.raises(TimeoutError):
        await wait_for_ever()
    assert loop.time() >= before + 3000
    assert await asyncio.wait_for(asyncio.sleep(0, "in time"), 1000) == "in time"


async def test_turns_that_others_get_are_counted():
    async with Turns() as turns:
        for _ in range(5):
            await asyncio.sleep(0)
    assert turns.taken == 5


async def test_wait_until_leaves_the_processor_to_others_after_a_hundred_turns():
    asked = 0

    def never() -> bool:
        nonlocal asked
        asked += 1
        return False

    with pytest.raises(TimeoutError):
        await wait_until(never, timeout_s=0.05)
    # It asks a hundred times at once, and then in each of these milliseconds once at most.
    assert asked < 200


async def test_wait_until_does_not_wait_for_a_loop_whose_time_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: 1_000.0)
    with pytest.raises(TimeoutError):
        await wait_until(lambda: False, timeout_s=0.05)


async def test_wait_until_gives_up():
    with pytest.raises(TimeoutError):
        await wait_until(lambda: False, timeout_s=0.01)
