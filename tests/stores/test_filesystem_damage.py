"""What somebody who may write to everything does to the files, and who hears of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.store import read_bytes, write_bytes
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
    overwrite,
    overwrite_as_it_was,
    plain,
)


def append(path: Path) -> None:
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"x")


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
