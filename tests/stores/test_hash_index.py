from __future__ import annotations

from pathlib import Path

from nativelink.core.digest import Digest, StoreKey
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.hash_index import HashIndex
from nativelink.stores.memory import MemoryStore
from nativelink.stores.store import write_bytes
from nativelink.testing.fakes import FakeClock, wait_until

A, B = "a" * 64, "b" * 64


def test_it_knows_what_was_there_before_it_was_asked() -> None:
    keys: list[StoreKey] = [Digest(A, 1), "string", Digest(B, 2)]
    index = HashIndex(lambda: keys)
    assert index.find(A) == Digest(A, 1)
    assert index.find("string") is None


def test_it_follows_what_comes_and_goes() -> None:
    index = HashIndex(list)
    index.add(Digest(B, 2))
    assert index.find(A) is None
    index.add(Digest(A, 1))
    index.add("string")
    assert index.find(A) == Digest(A, 1)
    index.discard(Digest(A, 1))
    index.discard("string")
    assert index.find(A) is None


def test_of_two_sizes_the_newer_one_counts_and_stays() -> None:
    index = HashIndex(lambda: [Digest(A, 1), Digest(A, 2)])
    assert index.find(A) == Digest(A, 2)
    index.discard(Digest(A, 1))
    assert index.find(A) == Digest(A, 2)


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
