"""Files that a worker made and the store takes as they are."""

from __future__ import annotations

import asyncio
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from nativelink.core.eager import run_all
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.store import has_one, read_bytes, write_bytes
from nativelink.testing.fakes import wait_until
from tests.stores.lent_files import (
    ONE,
    ONE_DATA,
    TWO,
    TWO_DATA,
    blob,
    lease,
    opened,
    overwrite_as_it_was,
    plain,
)


def written(path: Path, data: bytes, mode: int = 0o640) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


async def test_an_adopted_file_is_a_blob_like_any_other(tmp_path: Path) -> None:
    output = written(tmp_path / "output", ONE_DATA, 0o4755)
    os.utime(output, (0, 0))
    inode = output.stat().st_ino
    async with opened(tmp_path) as store:
        assert await store.files.adopt(ONE, output)
        assert not output.exists()
        assert await read_bytes(store, ONE) == ONE_DATA
        status = (store.files.directory / str(ONE)).stat()
        assert status.st_ino == inode
        assert stat.S_IMODE(status.st_mode) == 0o444
        assert status.st_mtime > 0
        assert list((tmp_path / "temp" / "d").iterdir()) == []
    async with opened(tmp_path) as store:
        assert await read_bytes(store, ONE) == ONE_DATA


async def test_adopting_what_is_there_removes_the_file(tmp_path: Path) -> None:
    output = written(tmp_path / "output", ONE_DATA)
    async with opened(tmp_path) as store:
        await write_bytes(store, ONE, ONE_DATA)
        inode = (store.files.directory / str(ONE)).stat().st_ino
        assert await store.files.adopt(ONE, output)
        assert not output.exists()
        assert (store.files.directory / str(ONE)).stat().st_ino == inode


async def test_adopting_replaces_a_damaged_file(tmp_path: Path) -> None:
    output = written(tmp_path / "output", ONE_DATA)
    async with opened(tmp_path) as store:
        await write_bytes(store, ONE, ONE_DATA)
        file = await lease(store, ONE)
        overwrite_as_it_was(plain(store, file))
        assert await store.files.adopt(ONE, output)
        assert await read_bytes(store, ONE) == ONE_DATA
        assert await store.files.changed([file]) == [file]


async def test_many_are_adopted_in_one_wait_for_the_disk(tmp_path: Path) -> None:
    blobs = [blob(b"output %d" % number) for number in range(50)]
    outputs = [written(tmp_path / f"{number}", data) for number, (_, data) in enumerate(blobs)]
    async with opened(tmp_path) as store:
        await run_all(
            store.files.adopt(key, output) for (key, _), output in zip(blobs, outputs, strict=True)
        )
        assert store.statistics().commits.cycles <= 3
        assert await store.has([key for key, _ in blobs]) == [len(data) for _, data in blobs]


def a_second_name(path: Path) -> None:
    path.with_name("second").hardlink_to(path)


def a_symlink(path: Path) -> None:
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def another_size(path: Path) -> None:
    path.write_bytes(b"longer than announced")


@pytest.mark.parametrize("change", [a_second_name, a_symlink, a_pipe, a_directory, another_size])
async def test_what_cannot_be_moved_stays_as_it_was(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    output = written(tmp_path / "output", ONE_DATA)
    change(output)
    before = output.lstat()
    async with opened(tmp_path) as store:
        assert not await store.files.adopt(ONE, output)
        after = output.lstat()
        assert (after.st_mode, after.st_ino, after.st_nlink) == (
            before.st_mode,
            before.st_ino,
            before.st_nlink,
        )
        assert await has_one(store, ONE) is None


def other_device(path: Path) -> Path | None:
    """A directory on another device than `path`, if this machine has one."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() and shm.stat().st_dev != path.stat().st_dev else None


async def test_a_file_on_another_device_is_not_adopted(tmp_path: Path) -> None:
    elsewhere = other_device(tmp_path)
    if elsewhere is None:
        pytest.skip("there is no second device to try it with")
    output = elsewhere / f"nativelink-test-{os.getpid()}"
    written(output, ONE_DATA)
    try:
        async with opened(tmp_path) as store:
            assert not await store.files.adopt(ONE, output)
            assert output.read_bytes() == ONE_DATA
    finally:
        output.unlink(missing_ok=True)


async def test_a_file_larger_than_the_store_is_not_adopted(tmp_path: Path) -> None:
    key, data = blob(b"x" * 10_000)
    output = written(tmp_path / "output", data)
    async with opened(tmp_path, eviction=EvictionPolicy(max_bytes=8192)) as store:
        assert not await store.files.adopt(key, output)
        assert output.exists()


async def test_an_adopted_file_counts_against_the_limits(tmp_path: Path) -> None:
    async with opened(tmp_path, eviction=EvictionPolicy(max_count=1)) as store:
        await write_bytes(store, TWO, TWO_DATA)
        assert await store.files.adopt(ONE, written(tmp_path / "output", ONE_DATA))
        assert await store.has([ONE, TWO]) == [len(ONE_DATA), None]


async def test_a_cancelled_adoption_leaves_no_half(tmp_path: Path) -> None:
    output = written(tmp_path / "output", ONE_DATA)
    async with opened(tmp_path) as store:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await store.files.adopt(ONE, output)
        assert await has_one(store, ONE) in {None, len(ONE_DATA)}
        await wait_until(lambda: store.statistics().commits.waiting == 0)
        assert list((tmp_path / "temp" / "d").iterdir()) == []


@pytest.mark.parametrize("mapped", [False, True])
async def test_a_file_that_somebody_can_still_write_to_is_not_adopted(
    tmp_path: Path, mapped: bool
) -> None:
    async with opened(tmp_path) as store:
        output = written(tmp_path / "output", ONE_DATA)
        with output.open("r+b") as writer:
            shared = mmap.mmap(writer.fileno(), len(ONE_DATA)) if mapped else None
            if shared is not None:
                writer.close()

            assert not await store.files.adopt(ONE, output)

            assert output.exists()
            assert not await has_one(store, ONE)
            if shared is not None:
                shared.close()
        assert await store.files.adopt(ONE, output)
