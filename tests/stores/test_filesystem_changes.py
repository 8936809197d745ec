"""Files that others change, and values that are there already."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from nativelink.core.digest import StoreKey
from nativelink.core.errors import Code
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import PiecesSource
from tests.stores.on_disk import (
    LARGE,
    SMALL,
    Sink,
    blob,
    code_of,
    files,
    make,
    path_of,
    scanned,
    wait_for_files,
)

# Changes behind the store's back


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("change", ["deleted", "truncated", "emptied", "grown"])
async def test_a_file_that_somebody_changed_is_absent(
    change: str, size: int, tmp_path: Path
) -> None:
    key, data = blob(size)
    gone: list[StoreKey] = []
    store = make(tmp_path)
    store.on_removed(gone.append)
    async with store:
        await scanned(store)
        await write_bytes(store, key, data)
        path = path_of(tmp_path, key)
        path.chmod(0o644)
        if change == "deleted":
            path.unlink()
        else:
            wrong = {"truncated": data[:-1], "emptied": b"", "grown": data + b"x"}[change]
            path.write_bytes(wrong)
        for offset, limit in ((0, None), (10, 5)):
            sink = Sink()
            assert await code_of(store.get(key, sink, offset=offset, limit=limit)) is Code.NOT_FOUND
            assert sink.pieces == []
        assert await store.has([key]) == [None]
        assert gone == [key]
        assert await wait_for_files(tmp_path, set())
        await write_bytes(store, key, data)
        assert await read_bytes(store, key) == data


@pytest.mark.usefixtures("_disk")
async def test_a_file_truncated_while_it_is_read_ends_the_read_with_data_loss(
    tmp_path: Path,
) -> None:
    key, data = blob(3_000_000)
    async with make(tmp_path) as store:
        await write_bytes(store, key, data)
        path = path_of(tmp_path, key)
        path.chmod(0o644)
        sink = Sink(lambda: os.truncate(path, 1_500_000))
        assert await code_of(store.get(key, sink)) is Code.DATA_LOSS
        got = b"".join(sink.pieces)
        assert data.startswith(got)
        assert len(got) < len(data)
        assert await store.has([key]) == [None]


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_value_replaced_while_it_is_opened_is_no_changed_file(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader gets one of the values, whole, and the new one stays."""
    old, new = blob(size)[1], blob(size + 1)[1]
    async with make(tmp_path) as store:
        await write_bytes(store, "key", old)
        async with asyncio.TaskGroup() as tasks:
            reads = [tasks.create_task(read_bytes(store, "key")) for _ in range(20)]
            tasks.create_task(write_bytes(store, "key", new))
            for _ in range(20):
                await asyncio.sleep(0)
                reads.append(tasks.create_task(read_bytes(store, "key")))
        assert {read.result() for read in reads} <= {old, new}
        assert await read_bytes(store, "key") == new


# Values that are there already


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("size", [SMALL, LARGE, 3_000_000])
async def test_an_identical_value_is_not_written_again(size: int, tmp_path: Path) -> None:
    key, data = blob(size)
    async with make(tmp_path) as store:
        await write_bytes(store, key, data)
        inode = path_of(tmp_path, key).stat().st_ino
        assert await store.put(key, PiecesSource.split(data, 100_000)) == size
        assert path_of(tmp_path, key).stat().st_ino == inode
        assert store.statistics().commits.committed == 1
    assert files(tmp_path) == {str(key)}


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("size", [SMALL, LARGE, 3_000_000])
@pytest.mark.parametrize("differs_at", [0, -1])
@pytest.mark.parametrize("announced", [True, False])
async def test_another_value_of_the_same_size_replaces_the_older_one(
    size: int, differs_at: int, announced: bool, tmp_path: Path
) -> None:
    """An action cache's keys are digests of something else than their values."""
    key, data = blob(size)
    other = bytearray(data)
    other[differs_at] ^= 1
    async with make(tmp_path) as store:
        await write_bytes(store, key, data)
        source = PiecesSource.split(bytes(other), 100_000, announced=announced)
        assert await store.put(key, source) == size
        assert await read_bytes(store, key) == other
    assert files(tmp_path) == {str(key)}


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("difference", [-1, -1_500_000, 1])
async def test_a_value_that_begins_like_the_older_one_replaces_it(
    difference: int, tmp_path: Path
) -> None:
    _, data = blob(3_000_001)
    older, newer = data[:3_000_000], data[: 3_000_000 + difference]
    async with make(tmp_path) as store:
        await write_bytes(store, "key", older)
        await store.put("key", PiecesSource.split(newer, 100_000))
        assert await read_bytes(store, "key") == newer
