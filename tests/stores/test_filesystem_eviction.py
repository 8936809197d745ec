"""What leaves a filesystem store, and who reads it meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nativelink.core.digest import StoreKey
from nativelink.core.streams import Chunk
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem_layout import Layout
from nativelink.stores.free_space import DiskSpace
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import PiecesSource, wait_until
from nativelink.testing.faults import Gate
from tests.stores.on_disk import LARGE, Held, Sink, blob, files, make, scanned, wait_for_files


async def test_sizes_count_in_whole_blocks(tmp_path: Path) -> None:
    policy = EvictionPolicy(max_bytes=3 * 512)
    async with make(tmp_path, eviction=policy, block_size=512) as store:
        await write_bytes(store, "a", b"x")
        await write_bytes(store, "b", b"x" * 512)
        assert store.statistics().entries.total_bytes == 1024
        await write_bytes(store, "c", b"x")
        assert await store.has(["a", "b", "c"]) == [None, 512, 1]
        assert await wait_for_files(tmp_path, {"b", "c"})


async def test_a_value_that_would_evict_everything_is_read_and_dropped(tmp_path: Path) -> None:
    gone: list[StoreKey] = []
    store = make(tmp_path, eviction=EvictionPolicy(max_bytes=2_000_000))
    store.on_removed(gone.append)
    async with store:
        await write_bytes(store, "kept", b"x")
        for announced in (True, False):
            for size in (1_999_000, 5_000_000):
                source = PiecesSource.split(bytes(size), 300_000, announced=announced)
                assert await store.put("huge", source) == size
                assert await source.read() == b""
        assert await store.has(["kept", "huge"]) == [1, None]
        assert gone == ["huge"] * 4
    assert files(tmp_path) == {"kept"}


async def test_a_key_put_again_while_its_evicted_file_is_removed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removal = Held(Layout.remove)
    monkeypatch.setattr(Layout, "remove", lambda self, key: removal(self, key))
    async with make(tmp_path, eviction=EvictionPolicy(max_count=1)) as store:
        await write_bytes(store, "a", b"old")
        await write_bytes(store, "b", b"x")
        await wait_until(lambda: removal.calls == 1)
        assert await store.has(["a"]) == [None]
        async with asyncio.TaskGroup() as tasks:
            putting = tasks.create_task(write_bytes(store, "a", b"newer"))
            # It cannot be published while the old file may still be taken away.
            await wait_until(lambda: store.statistics().commits.cycles > 6)
            assert not putting.done()
            removal.release()
        assert await read_bytes(store, "a") == b"newer"
        assert await wait_for_files(tmp_path, {"a"})


async def test_a_blob_evicted_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    key, data = blob(LARGE)
    gate = Gate()
    async with make(tmp_path, eviction=EvictionPolicy(max_count=1)) as store:
        await write_bytes(store, key, data)

        class Waiting(Sink):
            async def write(self, chunk: Chunk, /) -> None:
                await super().write(chunk)
                await gate.wait()

        sink = Waiting()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(store.get(key, sink))
            await wait_until(lambda: bool(sink.pieces))
            await write_bytes(store, "other", b"x")
            assert await wait_for_files(tmp_path, {"other"})
            gate.open()
        assert b"".join(sink.pieces) == data


async def test_below_the_low_water_mark_the_oldest_files_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    available = 1 << 30
    monkeypatch.setattr(DiskSpace, "of", lambda fd: DiskSpace(1 << 30, available))
    async with make(tmp_path) as store:
        await scanned(store)
        for n in range(4):
            await write_bytes(store, f"{n}", bytes(20 << 20))
        assert store.statistics().entries.count == 4
        # A tenth of the disk is to be free, 102 MiB; one step of 12 MiB is freed beyond.
        available = 90 << 20
        await write_bytes(store, "last", bytes(20 << 20))
        assert await store.has(["0", "1", "2"]) == [None, None, 20 << 20]
    assert "90 MiB are free" in caplog.text
    assert files(tmp_path) == {"2", "3", "last"}
