"""Executables: a second file of a blob, with another mode."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores import filesystem_executables
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.store import write_bytes
from nativelink.testing.fakes import wait_until
from tests.stores.lent_files import (
    ONE,
    ONE_DATA,
    PROGRAM,
    PROGRAM_DATA,
    TWO,
    TWO_DATA,
    executable,
    lease,
    opened,
    overwrite_as_it_was,
    plain,
)


async def test_an_executable_is_a_file_of_its_own_with_the_mode_0555(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await write_bytes(store, PROGRAM, PROGRAM_DATA)
        file = await lease(store, PROGRAM)
        await store.files.executables([file])
        path = tmp_path / "content.exec" / "d" / str(PROGRAM)
        assert path == executable(store, file)
        assert path.read_bytes() == PROGRAM_DATA
        assert stat.S_IMODE(path.stat().st_mode) == 0o555
        assert path.stat().st_ino != plain(store, file).stat().st_ino
        assert stat.S_IMODE(plain(store, file).stat().st_mode) == 0o444
        assert [entry.name for entry in path.parent.iterdir()] == [str(PROGRAM)]


async def test_an_executable_wanted_by_many_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = 0
    copy_bytes = filesystem_executables._copy_bytes

    def counted(source: int, target: int) -> None:
        nonlocal copies
        copies += 1
        copy_bytes(source, target)

    monkeypatch.setattr(filesystem_executables, "_copy_bytes", counted)
    async with opened(tmp_path) as store:
        await write_bytes(store, PROGRAM, PROGRAM_DATA)
        file = await lease(store, PROGRAM)
        await run_all([store.files.executables([file, file]) for _ in range(3)])
        await store.files.executables([file])
    assert copies == 1


async def test_an_executable_leaves_with_its_blob(tmp_path: Path) -> None:
    async with opened(tmp_path, eviction=EvictionPolicy(max_count=1)) as store:
        await write_bytes(store, PROGRAM, PROGRAM_DATA)
        file = await lease(store, PROGRAM)
        await store.files.executables([file])
        store.files.release([file])
        await write_bytes(store, ONE, ONE_DATA)
        await wait_until(lambda: not list(store.files.executable_directory.iterdir()))


async def test_executables_of_an_earlier_process_are_removed_at_the_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await write_bytes(store, PROGRAM, PROGRAM_DATA)
        file = await lease(store, PROGRAM)
        await store.files.executables([file])
        path = executable(store, file)
    assert path.exists()
    path.chmod(0o755)
    path.write_bytes(b"something else")
    async with opened(tmp_path) as store:
        assert not path.exists()
        file = await lease(store, PROGRAM)
        await store.files.executables([file])
        assert path.read_bytes() == PROGRAM_DATA


async def test_a_directory_that_cannot_hold_executables_is_named(tmp_path: Path) -> None:
    (tmp_path / "content.exec").write_bytes(b"in the way")
    async with opened(tmp_path) as store:
        await write_bytes(store, PROGRAM, PROGRAM_DATA)
        file = await lease(store, PROGRAM)
        with pytest.raises(NativeLinkError, match=r"content\.exec.*writable") as caught:
            await store.files.executables([file])
        assert caught.value.code is Code.FAILED_PRECONDITION


async def test_a_failed_copy_leaves_nothing_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as store:
        await write_bytes(store, PROGRAM, PROGRAM_DATA)
        file = await lease(store, PROGRAM)

        def full(source: int, target: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(filesystem_executables, "_copy_bytes", full)
            with pytest.raises(NativeLinkError) as caught:
                await store.files.executables([file])
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert list(store.files.executable_directory.iterdir()) == []
        await store.files.executables([file])
        assert executable(store, file).read_bytes() == PROGRAM_DATA


async def test_a_cancelled_copy_leaves_nothing_and_another_one_makes_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await write_bytes(store, PROGRAM, PROGRAM_DATA)
        file = await lease(store, PROGRAM)

        async def impatient() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await store.files.executables([file])

        await run_all([impatient(), store.files.executables([file])])
        assert executable(store, file).read_bytes() == PROGRAM_DATA
        names = [path.name for path in store.files.executable_directory.iterdir()]
        assert names == [str(PROGRAM)]


async def test_files_that_are_not_what_their_digest_says_are_given_up(tmp_path: Path) -> None:
    blake = DigestFunction.BLAKE3.digest_of(ONE_DATA)
    async with opened(tmp_path) as store:
        for key, data in ((ONE, ONE_DATA), (TWO, TWO_DATA), (blake, ONE_DATA)):
            await write_bytes(store, key, data)
        paths = [store.files.directory / str(key) for key in (ONE, TWO, blake)]
        inodes = [path.stat().st_ino for path in paths]
        assert await store.files.recheck(inodes) == []
        overwrite_as_it_was(paths[1])
        assert await store.files.recheck(inodes[:1]) == []
        assert await store.files.recheck(inodes) == [TWO]
        assert await store.has([ONE, TWO, blake]) == [3, None, 3]


async def test_an_executable_is_not_given_while_a_forked_process_has_it_open_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process about to execute its program has a copy of every descriptor until it does."""
    copies: list[int] = []
    copy_bytes = filesystem_executables._copy_bytes

    def copy_and_fork(source: int, target: int) -> None:
        copy_bytes(source, target)
        copies.append(os.dup(target))

    looks = 0

    def look(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            os.close(copies.pop())

    monkeypatch.setattr(filesystem_executables, "_copy_bytes", copy_and_fork)
    monkeypatch.setattr(filesystem_executables, "_pause", look)
    async with opened(tmp_path) as store:
        await write_bytes(store, PROGRAM, PROGRAM_DATA)
        file = await lease(store, PROGRAM)
        await store.files.executables([file])
        assert looks == 3
        fd = os.open(executable(store, file), os.O_RDONLY)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        finally:
            os.close(fd)
