"""Two processes cannot use the directories of one filesystem store at a time."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSource
from tests.stores.on_disk import SMALL, blob, files, make


@contextmanager
def someone_else(directory: Path) -> Iterator[None]:
    """Lock a directory as another process would: locks belong to how a file was opened."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def is_claimed(directory: Path) -> bool:
    try:
        with someone_else(directory):
            return False
    except BlockingIOError:
        return True


@pytest.mark.parametrize("root", ["content", "temp"])
async def test_what_another_process_uses_is_refused_and_left_as_it_is(
    tmp_path: Path, root: str
) -> None:
    for name in ("content", "temp"):
        (tmp_path / name / "d").mkdir(parents=True)
    (tmp_path / "temp" / "d" / "an upload").touch()
    with someone_else(tmp_path / root / "d"), pytest.raises(NativeLinkError) as caught:
        await make(tmp_path).__aenter__()
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert f"{tmp_path / root} is in use by another process" in caught.value.message
    assert files(tmp_path) == {"an upload"}
    async with make(tmp_path):
        assert files(tmp_path) == set()


async def test_stores_of_one_process_share_and_the_last_one_gives_back(tmp_path: Path) -> None:
    directories = [tmp_path / "content" / "d", tmp_path / "temp" / "d"]
    key, data = blob(SMALL)
    async with make(tmp_path) as second:
        async with make(tmp_path):
            assert all(map(is_claimed, directories))
        assert all(map(is_claimed, directories))
        await second.put(key, BytesSource(data))
    assert not any(map(is_claimed, directories))


async def test_a_store_that_fails_after_its_claim_gives_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("nativelink.stores.filesystem.DiskSync.sync", refuse)
    before = set(threading.enumerate())
    with pytest.raises(OSError, match="Input/output error"):
        await make(tmp_path).__aenter__()
    left = set(threading.enumerate()) - before
    assert not [each for each in left if each.name.startswith("filesystem-")]
    assert not is_claimed(tmp_path / "content" / "d")


async def test_a_filesystem_without_such_locks_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int, __: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("nativelink.stores.directory_claims.fcntl.flock", refuse)
    key, data = blob(SMALL)
    async with make(tmp_path) as store:
        await store.put(key, BytesSource(data))
        assert await store.has([key]) == [SMALL]
