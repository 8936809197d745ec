"""A filesystem store's files, lent to a worker: leases, executables, damage, adoption."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import mmap
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.digest import EMPTY_DIGESTS, Digest, DigestFunction
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores import filesystem_executables, filesystem_files, filesystem_scan
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.local_files import LeasedFile
from nativelink.stores.store import has_one, read_bytes, write_bytes
from nativelink.testing.fakes import FakeClock, wait_until


def blob(data: bytes) -> tuple[Digest, bytes]:
    return Digest(hashlib.sha256(data).hexdigest(), len(data)), data


ONE, ONE_DATA = blob(b"one")
TWO, TWO_DATA = blob(b"two, which is longer")
PROGRAM, PROGRAM_DATA = blob(b"#!/bin/sh\necho ran\n")


@asynccontextmanager
async def opened(root: Path, **settings: Any) -> AsyncIterator[FilesystemStore]:
    settings.setdefault("eviction", EvictionPolicy())
    settings.setdefault("clock", FakeClock())
    store = FilesystemStore(content_path=root / "content", temp_path=root / "temp", **settings)
    async with store:
        await wait_until(lambda: not store.statistics().scanning)
        yield store


async def lease(store: FilesystemStore, key: Digest) -> LeasedFile:
    (file,) = await store.files.lease([key])
    assert file is not None
    return file


def plain(store: FilesystemStore, file: LeasedFile) -> Path:
    return store.files.directory / file.name


def executable(store: FilesystemStore, file: LeasedFile) -> Path:
    return store.files.executable_directory / file.name


# Leases.


async def test_a_leased_file_is_where_its_name_says_with_the_mode_0444(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await write_bytes(store, ONE, ONE_DATA)
        file = await lease(store, ONE)
        assert file.key == ONE
        assert plain(store, file).read_bytes() == ONE_DATA
        assert stat.S_IMODE(plain(store, file).stat().st_mode) == 0o444
        assert plain(store, file).stat().st_dev == store.files.device


async def test_what_is_absent_or_empty_gives_no_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await write_bytes(store, TWO, TWO_DATA)
        files = await store.files.lease([ONE, TWO, *EMPTY_DIGESTS])
        assert [file is not None for file in files] == [False, True, False, False]


async def test_a_leased_file_is_not_evicted_until_its_last_release(tmp_path: Path) -> None:
    async with opened(tmp_path, eviction=EvictionPolicy(max_count=1)) as store:
        await write_bytes(store, ONE, ONE_DATA)
        first, second = await lease(store, ONE), await lease(store, ONE)
        await write_bytes(store, TWO, TWO_DATA)
        store.files.release([first])
        await write_bytes(store, PROGRAM, PROGRAM_DATA)
        assert await has_one(store, ONE) == len(ONE_DATA)
        store.files.release([second])
        await write_bytes(store, TWO, TWO_DATA)
        assert await has_one(store, ONE) is None


async def test_a_leased_file_does_not_expire(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock, eviction=EvictionPolicy(max_seconds=10)) as store:
        await write_bytes(store, ONE, ONE_DATA)
        file = await lease(store, ONE)
        clock.advance(100)
        assert await has_one(store, ONE) == len(ONE_DATA)
        store.files.release([file])
        assert await has_one(store, ONE) == len(ONE_DATA)
        clock.advance(11)
        assert await has_one(store, ONE) is None


async def test_a_file_that_someone_removed_is_not_leased(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await write_bytes(store, ONE, ONE_DATA)
        (store.files.directory / str(ONE)).unlink()
        assert await store.files.lease([ONE]) == [None]
        assert await has_one(store, ONE) is None


async def test_files_that_the_scan_has_not_reached_are_leased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as store:
        await write_bytes(store, ONE, ONE_DATA)
    gate = threading.Event()

    def list_directory(path: Path) -> Any:
        gate.wait()
        return os.scandir(path)

    monkeypatch.setattr(filesystem_scan, "list_directory", list_directory)
    store = FilesystemStore(
        content_path=tmp_path / "content",
        temp_path=tmp_path / "temp",
        eviction=EvictionPolicy(),
        clock=FakeClock(),
    )
    async with store:
        try:
            files = await store.files.lease([ONE, TWO])
        finally:
            gate.set()
        assert [file is not None for file in files] == [True, False]


async def test_releases_after_a_blob_left_do_not_end_the_leases_of_its_successor(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, eviction=EvictionPolicy(max_count=1)) as store:
        await write_bytes(store, ONE, ONE_DATA)
        older = await lease(store, ONE)
        store._map.remove(ONE)
        await wait_until(lambda: store.statistics().removing == 0)
        await write_bytes(store, ONE, ONE_DATA)
        newer = await lease(store, ONE)
        store.files.release([older])
        await write_bytes(store, TWO, TWO_DATA)
        assert await has_one(store, ONE) == len(ONE_DATA)
        store.files.release([newer])


async def test_records_of_files_that_nobody_leases_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem_files, "_MAX_RECORDS", 2)
    async with opened(tmp_path) as store:
        blobs = [blob(b"%d" % number) for number in range(5)]
        for key, data in blobs:
            await write_bytes(store, key, data)
        held = await lease(store, blobs[0][0])
        for key, _ in blobs[1:]:
            store.files.release([await lease(store, key)])
        assert len(store.files.records) <= 3
        assert blobs[0][0] in store.files.records
        store.files.release([held])


# Executables.


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


# Damage: what somebody who may write to everything does to the files.


def append(path: Path) -> None:
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"x")


def overwrite(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)


def overwrite_as_it_was(path: Path) -> None:
    overwrite(path)
    path.chmod(0o444)


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 0)


def make_writable(path: Path) -> None:
    path.chmod(0o644)


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


DAMAGES = (append, overwrite, overwrite_as_it_was, truncate, make_writable, touch)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_file_that_was_written_to_is_noticed_and_leaves(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    async with opened(tmp_path) as store:
        await write_bytes(store, ONE, ONE_DATA)
        await write_bytes(store, TWO, TWO_DATA)
        one, two, other = await lease(store, ONE), await lease(store, TWO), await lease(store, ONE)
        assert await store.files.changed([one, two]) == []
        damage(plain(store, one))
        assert await store.files.changed([one, two]) == [one]
        assert await store.has([ONE, TWO]) == [None, len(TWO_DATA)]
        # Everybody who used it hears of it, also after it is there again.
        await wait_until(lambda: store.statistics().removing == 0)
        await write_bytes(store, ONE, ONE_DATA)
        assert await store.files.changed([other]) == [other]
        newer = await lease(store, ONE)
        assert await store.files.changed([newer]) == []
        assert await read_bytes(store, ONE) == ONE_DATA
        store.files.release([one, two, other, newer])


@pytest.mark.parametrize("damage", DAMAGES)
async def test_an_executable_that_was_written_to_is_noticed_and_leaves(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    async with opened(tmp_path) as store:
        await write_bytes(store, PROGRAM, PROGRAM_DATA)
        file = await lease(store, PROGRAM)
        await store.files.executables([file])
        damage(executable(store, file))
        assert await store.files.changed([file]) == [file]
        await wait_until(lambda: not list(store.files.executable_directory.iterdir()))
        await write_bytes(store, PROGRAM, PROGRAM_DATA)
        newer = await lease(store, PROGRAM)
        await store.files.executables([newer])
        assert executable(store, newer).read_bytes() == PROGRAM_DATA


async def test_a_link_to_a_file_is_no_change(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await write_bytes(store, ONE, ONE_DATA)
        file = await lease(store, ONE)
        (tmp_path / "link").hardlink_to(plain(store, file))
        (tmp_path / "link").read_bytes()
        (tmp_path / "link").unlink()
        assert await store.files.changed([file]) == []


@pytest.mark.parametrize("damage", DAMAGES)
async def test_bytes_that_an_action_wrote_are_given_to_nobody(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    async with opened(tmp_path) as store:
        await write_bytes(store, ONE, ONE_DATA)
        file = await lease(store, ONE)
        damage(plain(store, file))
        with pytest.raises(NativeLinkError) as caught:
            await read_bytes(store, ONE)
        assert caught.value.code is Code.NOT_FOUND
        assert await store.files.changed([file]) == [file]


async def test_an_upload_heals_a_damaged_file_and_its_users_hear_of_the_damage(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as store:
        await write_bytes(store, ONE, ONE_DATA)
        file = await lease(store, ONE)
        overwrite_as_it_was(plain(store, file))
        await write_bytes(store, ONE, ONE_DATA)
        assert await read_bytes(store, ONE) == ONE_DATA
        assert await store.files.changed([file]) == [file]
        assert await read_bytes(store, ONE) == ONE_DATA


# Adoption.


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
