"""What a filesystem store acknowledges is durable, and what fails leaves nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.digest import StoreKey
from nativelink.core.eager import run_all
from nativelink.core.errors import Code
from nativelink.stores import group_commit
from nativelink.stores.filesystem_layout import Layout
from nativelink.stores.group_commit import DiskSync
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import wait_until
from tests.stores.on_disk import LARGE, SMALL, Held, code_of, files, make, scanned


async def test_data_is_synced_before_the_rename_and_the_rename_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, rename = DiskSync.sync, Layout.publish

    def recorded_sync(self: Any, fds: Any, directories: Any) -> Any:
        events.append(
            "sync of " + " and ".join(["data"] * bool(fds) + ["names"] * bool(directories))
        )
        return sync(self, fds, directories)

    def recorded_rename(self: Any, name: str, key: StoreKey) -> int:
        events.append(f"rename {key}")
        return rename(self, name, key)

    monkeypatch.setattr(DiskSync, "sync", recorded_sync)
    monkeypatch.setattr(Layout, "publish", recorded_rename)
    async with make(tmp_path) as store:
        # New and replaced, alone and with others.
        await scanned(store)
        sizes = count(1)
        for keys in (["a"], ["a"], [f"{number}" for number in range(5)]):
            events.clear()
            size = next(sizes)
            await run_all(write_bytes(store, key, b"x" * size) for key in keys)
            events.append("answer")
            renames = [f"rename {key}" for key in keys]
            assert events == ["sync of data", *renames, "sync of names", "answer"]


async def test_many_uploads_share_few_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = Held(DiskSync.sync)
    async with make(tmp_path) as store:
        await scanned(store)
        monkeypatch.setattr(DiskSync, "sync", lambda self, fds, names: sync(self, fds, names))
        async with asyncio.TaskGroup() as tasks:
            for n in range(200):
                tasks.create_task(write_bytes(store, f"{n}", b"x" * n))
            # Whatever they wait for before, the first sync takes longer.
            await wait_until(lambda: store.statistics().commits.waiting == 200)
            sync.release()
        statistics = store.statistics().commits
    assert statistics.committed == 200
    assert statistics.waiting == 0
    assert statistics.cycles <= 6


@pytest.mark.parametrize("size", [SMALL, LARGE, 3_000_000])
async def test_a_put_cancelled_before_its_rename_leaves_nothing(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = Held(DiskSync.sync)
    async with make(tmp_path) as store:
        await scanned(store)
        monkeypatch.setattr(DiskSync, "sync", lambda self, fds, names: sync(self, fds, names))
        async with asyncio.TaskGroup() as tasks:
            putting = tasks.create_task(write_bytes(store, "key", bytes(size)))
            other = tasks.create_task(write_bytes(store, "other", b"x"))
            await wait_until(lambda: sync.calls == 1)
            await wait_until(lambda: store.statistics().commits.waiting == 2)
            putting.cancel()
            await wait_until(putting.done)
            assert len(files(tmp_path)) == 1
            sync.release()
        assert putting.cancelled()
        assert other.result() == 1
        assert await store.has(["key", "other"]) == [None, 1]
    assert files(tmp_path) == {"other"}


async def test_a_file_that_cannot_be_synced_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(fd: int) -> bool:
        raise OSError(errno.EIO, "something was lost")

    def fsync(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode) and os.fstat(fd).st_size == 13:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    real = os.fsync
    async with make(tmp_path) as store:
        monkeypatch.setattr(group_commit, "syncfs", sync)
        monkeypatch.setattr(os, "fsync", fsync)
        async with asyncio.TaskGroup() as tasks:
            good = [tasks.create_task(write_bytes(store, f"{n}", b"x")) for n in range(5)]
            bad = tasks.create_task(code_of(write_bytes(store, "bad", bytes(13))))
        assert [task.result() for task in good] == [1] * 5
        assert bad.result() is Code.RESOURCE_EXHAUSTED
        assert await store.has(["bad"]) == [None]
    assert files(tmp_path) == {f"{n}" for n in range(5)}


async def test_nothing_is_acknowledged_when_the_directory_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with make(tmp_path) as store:
        monkeypatch.setattr(group_commit, "syncfs", lambda fd: False)
        monkeypatch.setattr(os, "fsync", fsync)
        assert await code_of(write_bytes(store, "a", b"x")) is Code.INTERNAL
        monkeypatch.undo()
        await write_bytes(store, "a", b"x")
        assert await read_bytes(store, "a") == b"x"
