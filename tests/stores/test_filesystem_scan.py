"""How a filesystem store starts: what it tidies, and how it serves while it still looks."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import Code
from nativelink.stores import filesystem_scan
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import FakeClock, wait_until
from tests.stores.on_disk import (
    LARGE,
    SMALL,
    Held,
    blob,
    code_of,
    files,
    make,
    path_of,
    scanned,
    wait_for_files,
)


@pytest.fixture
def held_scan(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """The start-up scan does not begin to list before it is released."""
    held = Held(os.scandir)
    monkeypatch.setattr(filesystem_scan, "list_directory", held)
    yield held
    held.release()


# Start


async def test_start_up_tidies_its_own_directories_and_leaves_what_is_foreign_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old_layout, data = blob(SMALL)
    content, temp = tmp_path / "content", tmp_path / "temp"
    for directory in ("content/d/subdirectory", "content/s", "content/foreign", "temp/d", "temp/s"):
        (tmp_path / directory).mkdir(parents=True)
    (content / str(old_layout)).write_bytes(data)
    (content / "foreign.txt").write_text("somebody's")
    (content / "foreign" / "file").write_text("somebody's")
    upper = "AB" * 32 + "-3"
    for name in ("garbage", upper, "ab" * 32 + "-03"):
        (content / "d" / name).write_text("abc")
    (content / "s" / "name").write_text("value")
    for name in ("d", "s"):
        (temp / name / "unfinished").write_text("part")
    caplog.set_level(logging.WARNING)
    async with make(tmp_path) as store:
        assert files(temp) == set()
        await scanned(store)
        assert await read_bytes(store, old_layout) == data
        assert await store.has(["name", "garbage", "foreign.txt"]) == [5, None, None]
        assert store.statistics().entries.count == 2
    assert files(content / "d") == {str(old_layout)}
    assert (content / "d" / "subdirectory").is_dir()
    assert files(content / "foreign") == {"file"}
    assert (content / "foreign.txt").exists()
    assert not (content / str(old_layout)).exists()
    assert "foreign, foreign.txt" in caplog.text
    assert "subdirectory" in caplog.text


def aged(root: Path, ages_s: dict[int, tuple[float, float]], now: float) -> list[Digest]:
    """Files of a byte each whose access and modification were so many seconds ago."""
    (root / "content" / "d").mkdir(parents=True)
    keys = []
    for seed, (accessed, modified) in ages_s.items():
        key, data = blob(1, seed)
        key = Digest(f"{seed:064x}", 1)
        path_of(root, key).write_bytes(data)
        os.utime(path_of(root, key), (now - accessed, now - modified))
        keys.append(key)
    return keys


async def test_after_a_restart_the_least_recently_used_file_leaves_first(tmp_path: Path) -> None:
    clock = FakeClock()
    ages = {0: (50.0, 900.0), 1: (10.0, 900.0), 2: (900.0, 30.0), 3: (70.0, 900.0)}
    a, b, c, d = aged(tmp_path, ages, clock.time())
    gone: list[StoreKey] = []
    store = make(tmp_path, clock=clock, eviction=EvictionPolicy(max_count=4))
    store.on_removed(gone.append)
    async with store:
        await scanned(store)
        for seed in range(4):
            await write_bytes(store, f"new {seed}", b"x")
    assert gone == [d, a, c, b]
    assert files(tmp_path) == {f"new {seed}" for seed in range(4)}


async def test_after_a_restart_ages_go_on(tmp_path: Path) -> None:
    clock = FakeClock()
    ages = {0: (50.0, 50.0), 1: (110.0, 110.0), 2: (-500.0, -500.0), 3: (110.0, 90.0)}
    a, _, c, d = aged(tmp_path, ages, clock.time())
    store = make(tmp_path, clock=clock, eviction=EvictionPolicy(max_seconds=100))
    async with store:
        await scanned(store)
        assert await wait_for_files(tmp_path, {str(a), str(c), str(d)})
        clock.advance(40)
        await write_bytes(store, "new", b"x")
        assert await wait_for_files(tmp_path, {str(a), str(c), "new"})
        clock.advance(61)
        assert await store.has([a, c, "new"]) == [None, None, 1]


# The scan while serving


async def test_the_store_serves_while_the_scan_runs(tmp_path: Path, held_scan: Held) -> None:
    key, data = blob(SMALL)
    other, other_data = blob(LARGE)
    absent, _ = blob(5)
    path_of(tmp_path, key).parent.mkdir(parents=True)
    path_of(tmp_path, key).write_bytes(data)
    path_of(tmp_path, other).write_bytes(other_data)
    new, new_data = blob(SMALL, 1)
    async with make(tmp_path) as store:
        assert store.statistics().scanning
        assert await store.has([absent, key, new, key, other]) == [
            None, SMALL, None, SMALL, LARGE,
        ]  # fmt: skip
        assert await read_bytes(store, other, offset=5, limit=10) == other_data[5:15]
        assert await code_of(read_bytes(store, absent)) is Code.NOT_FOUND
        await write_bytes(store, new, new_data)
        assert await read_bytes(store, new) == new_data
        assert store.statistics().scanning
        held_scan.release()
        await scanned(store)
        assert store.statistics().entries.count == 3
        assert await store.has([absent, key, new, other]) == [None, SMALL, SMALL, LARGE]


async def test_the_scan_believes_nothing_about_files_that_changed_meanwhile(
    tmp_path: Path, held_scan: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced, removed = "replaced", "removed"
    directory = tmp_path / "content" / "s"
    directory.mkdir(parents=True)
    (directory / replaced).write_bytes(b"old")
    (directory / removed).write_bytes(b"old")
    listed = Held(lambda self, runs: hand_over(self, runs))
    hand_over = filesystem_scan.StartupScan._hand_over
    monkeypatch.setattr(
        filesystem_scan.StartupScan, "_hand_over", lambda self, runs: listed(self, runs)
    )
    async with make(tmp_path, eviction=EvictionPolicy(max_count=2)) as store:
        held_scan.release()
        await wait_until(lambda: listed.calls == 1)
        # The thread knows the old files now, and has not told anyone.
        assert await store.has([removed]) == [3]
        await write_bytes(store, replaced, b"a new value")
        await write_bytes(store, "third", b"x")
        assert await wait_for_files(tmp_path, {replaced, "third"})
        listed.release()
        await scanned(store)
        assert await store.has([replaced, removed, "third"]) == [11, None, 1]
        assert await read_bytes(store, replaced) == b"a new value"


async def test_leaving_stops_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(tmp_path, dict.fromkeys(range(30), (1.0, 1.0)), 0.0)
    monkeypatch.setattr(filesystem_scan, "_SLICE", 1)
    before = set(threading.enumerate())
    async with make(tmp_path) as store:
        await wait_until(lambda: store.statistics().entries.count > 2)
    assert store.statistics().entries.count < 30
    assert set(threading.enumerate()) <= before


async def test_a_directory_that_cannot_be_listed_leaves_the_store_looking_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(path: Path) -> Any:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(filesystem_scan, "list_directory", broken)
    (tmp_path / "content" / "s").mkdir(parents=True)
    (tmp_path / "content" / "s" / "name").write_bytes(b"value")
    async with make(tmp_path) as store:
        await wait_until(lambda: "the disk is broken" in caplog.text)
        assert await store.has(["name", "other"]) == [5, None]
