from __future__ import annotations

import asyncio
from pathlib import Path

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.eager import begin, ended
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.hash_index import HashIndex
from nativelink.stores.memory import MemoryStore
from nativelink.stores.store import write_bytes
from nativelink.testing.fakes import FakeClock, wait_until

A, B = "a" * 64, "b" * 64


async def test_it_knows_what_was_there_before_it_was_asked() -> None:
    keys: list[StoreKey] = [Digest(A, 1), "string", Digest(B, 2)]
    index = HashIndex(lambda: keys)
    assert await index.find(A) == Digest(A, 1)
    assert await index.find("string") is None


async def test_it_follows_what_comes_and_goes() -> None:
    index = HashIndex(list)
    index.add(Digest(B, 2))
    assert await index.find(A) is None
    index.add(Digest(A, 1))
    index.add("string")
    assert await index.find(A) == Digest(A, 1)
    index.discard(Digest(A, 1))
    index.discard("string")
    assert await index.find(A) is None


async def test_of_two_sizes_the_newer_one_counts_and_stays() -> None:
    index = HashIndex(lambda: [Digest(A, 1), Digest(A, 2)])
    assert await index.find(A) == Digest(A, 2)
    index.discard(Digest(A, 1))
    assert await index.find(A) == Digest(A, 2)


class Many:
    """An index of many keys, with the first question asked and not answered yet."""

    def __init__(self) -> None:
        self.keys = [Digest(f"{number:064x}", 1) for number in range(25_000)]
        self.index = HashIndex(lambda: self.keys)

    async def __aenter__(self) -> Many:
        begun = begin(self.index.find(self.keys[0].hash), asyncio.get_running_loop())
        assert isinstance(begun, asyncio.Task)
        self.first = begun
        return self

    async def __aexit__(self, *_error: object) -> None:
        await ended([self.first])


async def test_others_get_their_turn_while_it_is_made_and_what_they_do_counts() -> None:
    async with Many() as it:
        oldest, older, newest = it.keys[0], it.keys[1], it.keys[-1]
        it.index.discard(oldest)
        it.index.discard(newest)
        it.index.discard(older)
        it.index.add(older)
        it.index.add(Digest(A, 5))
        assert await it.first is None
        assert await it.index.find(newest.hash) is None
        assert await it.index.find(older.hash) == older
        assert await it.index.find(it.keys[2].hash) == it.keys[2]
        assert await it.index.find(A) == Digest(A, 5)


async def test_a_newer_size_that_comes_while_it_is_made_counts() -> None:
    async with Many() as it:
        newer = Digest(it.keys[0].hash, 2)
        it.index.add(newer)
        assert await it.first == newer


async def test_whoever_waits_goes_on_where_the_first_one_gave_up() -> None:
    async with Many() as it:
        second = begin(it.index.find(it.keys[7].hash), asyncio.get_running_loop())
        assert isinstance(second, asyncio.Task)
        it.first.cancel()
        assert await second == it.keys[7]


async def test_a_memory_store_finds_what_it_has_and_nothing_else() -> None:
    store = MemoryStore(eviction=EvictionPolicy(max_count=2), clock=FakeClock())
    await write_bytes(store, Digest(A, 1), b"a")
    assert await store.find(A) == Digest(A, 1)
    await write_bytes(store, Digest(B, 1), b"b")
    assert await store.find(B) == Digest(B, 1)
    await write_bytes(store, Digest("c" * 64, 1), b"c")
    assert await store.find(A) is None
    await write_bytes(store, "a string", b"s")
    assert await store.find("a string") is None


async def test_a_value_that_never_fits_is_not_found() -> None:
    store = MemoryStore(eviction=EvictionPolicy(max_bytes=4), clock=FakeClock())
    assert await store.find(A) is None
    await write_bytes(store, Digest(A, 9), b"too large")
    assert await store.find(A) is None


async def test_a_filesystem_store_finds_what_it_has_now_and_had_before(tmp_path: Path) -> None:
    def opened() -> FilesystemStore:
        return FilesystemStore(
            content_path=tmp_path / "content",
            temp_path=tmp_path / "temp",
            eviction=EvictionPolicy(max_count=2),
            clock=FakeClock(),
        )

    async with opened() as store:
        await write_bytes(store, Digest(A, 1), b"a")
        assert await store.find(A) == Digest(A, 1)
        await write_bytes(store, Digest(B, 1), b"b")
        assert await store.find(B) == Digest(B, 1)
    async with opened() as store:
        # Asked before the scan, and after.
        await store.find(A)
        await wait_until(lambda: not store.statistics().scanning)
        assert await store.find(A) == Digest(A, 1)
        await write_bytes(store, Digest("c" * 64, 1), b"c")
        assert [await store.find(each) for each in (A, B)].count(None) == 1
