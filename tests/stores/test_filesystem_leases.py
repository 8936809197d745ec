"""A filesystem store's files, lent to a worker."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.digest import EMPTY_DIGESTS
from nativelink.stores import filesystem_files, filesystem_scan
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.store import has_one, write_bytes
from nativelink.testing.fakes import FakeClock, wait_until
from tests.stores.lent_files import (
    ONE,
    ONE_DATA,
    PROGRAM,
    PROGRAM_DATA,
    TWO,
    TWO_DATA,
    blob,
    lease,
    opened,
    plain,
)


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
