"""A disk that is full, or says that it could not write."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nativelink.core.errors import Code
from nativelink.core.streams import Chunk
from nativelink.stores import disk_calls
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import PiecesSource
from tests.stores.on_disk import code_of, files, make, scanned


def full_after(monkeypatch: pytest.MonkeyPatch, size: int, code: int = errno.ENOSPC) -> None:
    """Writes fail once a call would write more than `size` bytes."""
    write_all = disk_calls.write_all

    def limited(fd: int, chunks: list[Chunk]) -> int:
        if sum(map(len, chunks)) > size:
            os.write(fd, b"".join(chunks)[:size])
            raise OSError(code, os.strerror(code))
        return write_all(fd, chunks)

    monkeypatch.setattr("nativelink.stores.filesystem_write.write_all", limited)


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("size", [1001, 400_000, 3_000_000])
async def test_a_full_disk_fails_the_write_alone(
    size: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after(monkeypatch, 1000, code)
    async with make(tmp_path) as store:
        async with asyncio.TaskGroup() as tasks:
            small = [tasks.create_task(write_bytes(store, f"{n}", b"x")) for n in range(10)]
            big = tasks.create_task(
                code_of(store.put("big", PiecesSource.split(bytes(size), 50_000)))
            )
        assert [task.result() for task in small] == [1] * 10
        assert big.result() is Code.RESOURCE_EXHAUSTED
        assert await store.has(["big"]) == [None]
        assert files(tmp_path) == {f"{n}" for n in range(10)}


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("size", [300_000, 9_000_000])
@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ((errno.EIO,), Code.INTERNAL),
        ((errno.ENOSPC,), Code.RESOURCE_EXHAUSTED),
        ((errno.EINVAL, errno.ENOSYS), None),
    ],
)
async def test_what_the_disk_did_not_take_is_told_where_linux_tells_it_once(
    size: int,
    errors: tuple[int, ...],
    code: Code | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = 0

    def sync_file_range(fd: int, offset: int, length: int, flags: int) -> int:
        nonlocal waiting
        if flags == disk_calls._RANGE_WRITE:
            return 0
        ctypes.set_errno(errors[waiting % len(errors)])
        waiting += 1
        return -1

    monkeypatch.setattr(disk_calls, "_sync_file_range", sync_file_range)
    async with make(tmp_path) as store:
        put = store.put("big", PiecesSource.split(bytes(size), 50_000))
        if code is None:
            assert await put == size
        else:
            assert await code_of(put) is code
            assert await store.has(["big"]) == [None]
        assert files(tmp_path) == ({"big"} if code is None else set())
    assert waiting


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of so many bytes."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "none", str(mount)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting needs root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize(
    ("small_disk", "size"), [(128 << 10, 200_000), (8 << 20, 9_000_000)], indirect=["small_disk"]
)
async def test_a_really_full_disk_fails_the_write_alone(small_disk: Path, size: int) -> None:
    async with make(small_disk) as store:
        await scanned(store)
        await write_bytes(store, "kept", b"x" * 4096)
        big = PiecesSource.split(bytes(size), 65_536)
        assert await code_of(store.put("big", big)) is Code.RESOURCE_EXHAUSTED
        assert files(small_disk) == {"kept"}
        assert await store.has(["kept", "big"]) == [4096, None]
        # What was written of it is gone, so there is room again.
        await write_bytes(store, "small", bytes(50_000))
        assert await read_bytes(store, "small") == bytes(50_000)
