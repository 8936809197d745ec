"""The filesystem store: names and modes of its files, how much it does at once, its end."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from pathlib import Path

import blake3
import pytest

from nativelink.core.digest import Digest
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.filesystem_layout import Layout
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import FakeClock, PiecesSource, wait_until
from nativelink.testing.faults import FaultySource, Gate
from tests.stores.on_disk import LARGE, SMALL, blob, code_of, files, make, path_of, scanned


def device_of(path: Path) -> int | None:
    return path.stat().st_dev if path.is_dir() else None


# Names and modes


async def test_files_are_read_only_for_everyone_whatever_the_umask(tmp_path: Path) -> None:
    older = os.umask(0o077)
    try:
        async with make(tmp_path) as store:
            keys = [blob(size)[0] for size in (SMALL, 2_000_000)]
            for key in keys:
                await write_bytes(store, key, bytes(key.size_bytes))
    finally:
        os.umask(older)
    for key in keys:
        assert stat.S_IMODE(path_of(tmp_path, key).stat().st_mode) == 0o444


def test_a_temporary_file_is_named_after_its_digest_and_a_counter() -> None:
    layout = Layout(Path("content"), Path("temp"))
    key = Digest("ab" * 32, 123)
    first, second = layout.temp_name(key), layout.temp_name(key)
    assert first[:48] == "ab" * 24
    assert first[64:] == "-123"
    numbers = [int.from_bytes(bytes.fromhex(name[48:64]), "little") for name in (first, second)]
    assert numbers[1] == numbers[0] + 1
    text = layout.temp_name("ключ")
    assert text[:48] == blake3.blake3("ключ".encode()).hexdigest()[:48]
    assert text[64:] == "-8"


@pytest.mark.parametrize(
    "key", ["", ".", "..", "a/b", "../d/x", "/etc/passwd", "a\0b", "x" * 256, "ю" * 128, "\ud800"]
)
async def test_a_string_that_is_no_plain_file_name_is_refused(key: str, tmp_path: Path) -> None:
    async with make(tmp_path) as store:
        assert await store.has([key]) == [None]
        await scanned(store)
        assert await store.has([key]) == [None]
        assert await code_of(write_bytes(store, key, b"x")) is Code.INVALID_ARGUMENT
        assert await code_of(read_bytes(store, key)) is Code.INVALID_ARGUMENT
    assert files(tmp_path) == set()


async def test_a_name_of_255_bytes_can_be_stored(tmp_path: Path) -> None:
    key = "ю" * 127 + "x"
    async with make(tmp_path) as store:
        await write_bytes(store, key, b"value")
        assert await read_bytes(store, key) == b"value"
    assert files(tmp_path) == {key}


async def test_content_and_temp_path_must_be_on_one_filesystem(tmp_path: Path) -> None:
    other = Path("/dev/shm")  # the one other filesystem that Linux always has
    if device_of(other) in {None, device_of(tmp_path)}:
        pytest.skip("this machine has one filesystem only")
    temp = other / f"nativelink-test-{os.getpid()}"
    store = FilesystemStore(
        content_path=tmp_path, temp_path=temp, eviction=EvictionPolicy(), clock=FakeClock()
    )
    try:
        with pytest.raises(NativeLinkError, match="must be on one filesystem") as caught:
            await store.__aenter__()
    finally:
        for name in ("d", "s"):
            (temp / name).rmdir()
        temp.rmdir()
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_content_and_temp_path_must_not_be_the_same(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / str(blob(SMALL)[0])).write_bytes(blob(SMALL)[1])
    store = FilesystemStore(
        content_path=tmp_path, temp_path=tmp_path, eviction=EvictionPolicy(), clock=FakeClock()
    )
    with pytest.raises(NativeLinkError, match="the same directory") as caught:
        await store.__aenter__()
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert files(tmp_path) == {str(blob(SMALL)[0])}


async def test_a_path_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "content").write_text("a file")
    with pytest.raises(NativeLinkError, match=str(tmp_path / "content")) as caught:
        await make(tmp_path).__aenter__()
    assert caught.value.code is Code.FAILED_PRECONDITION


# Bounds and lifetime


@pytest.mark.parametrize(("allowed", "threads"), [(0, 4), (1, 1), (3, 3), (4, 4), (100, 4)])
async def test_max_concurrent_writes_is_honoured(
    tmp_path: Path, allowed: int, threads: int
) -> None:
    meeting = threading.Barrier(threads)
    async with make(tmp_path, max_concurrent_writes=allowed) as store:
        assert store.statistics().writes.threads == threads
        # As many as are allowed do write at a time: each waits until all of them are there.
        lane = store._writes
        await run_all(lane.run(lambda: meeting.wait(60)) for _ in range(threads))


async def test_uploads_that_stall_keep_nobody_from_writing(tmp_path: Path) -> None:
    gate = Gate()
    data = bytes(3_000_000)
    async with (
        make(tmp_path, max_concurrent_writes=1) as store,
        asyncio.TaskGroup() as tasks,
    ):
        for n in range(3):
            source = FaultySource(PiecesSource.split(data, 500_000), gate=gate, gate_at=2_000_000)
            tasks.create_task(store.put(f"stalled {n}", source))
        await wait_until(lambda: gate.waiting == 3)
        for n in range(3):
            assert await store.put(f"{n}", PiecesSource.split(data, 500_000)) == len(data)
        gate.open()


async def test_leaving_waits_for_commits_and_leaves_no_temporary_files(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    store = make(tmp_path)
    async with asyncio.TaskGroup() as tasks:
        async with store:
            puts = [tasks.create_task(write_bytes(store, f"{n}", b"x")) for n in range(20)]
            await wait_until(lambda: store.statistics().commits.waiting == 20)
        assert files(tmp_path) == {f"{n}" for n in range(20)}
        assert files(tmp_path / "temp") == set()
    assert [put.result() for put in puts] == [1] * 20
    assert set(threading.enumerate()) <= before


async def test_the_health_check_looks_at_the_directory(tmp_path: Path) -> None:
    async with make(tmp_path) as store:
        await store.check()
        (tmp_path / "content").rename(tmp_path / "elsewhere")
        assert await code_of(store.check()) is Code.UNAVAILABLE


async def test_the_page_cache_is_evicted_where_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advised: list[int] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda fd, start, length, advice: advised.append(advice)
    )
    key, data = blob(LARGE)
    for evict_page_cache in (False, True):
        async with make(
            tmp_path / f"{evict_page_cache}", evict_page_cache=evict_page_cache
        ) as store:
            await write_bytes(store, key, data)
            assert await read_bytes(store, key) == data
        assert advised == [os.POSIX_FADV_DONTNEED] * (2 if evict_page_cache else 0)
