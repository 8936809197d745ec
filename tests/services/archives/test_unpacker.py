"""From an archive in the CAS to a directory in the CAS."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.core.streams import Sink, Source
from nativelink.services.archives.contents import Entries
from nativelink.services.archives.limits import ArchiveLimits
from nativelink.services.archives.unpacker import Unpacker
from nativelink.testing.fakes import DictStore, wait_until
from tests.services.archives.making import LIMITS, SHA256, Entry, tar


class Cas(DictStore):
    """Says how it is used.

    Attributes:
        reading: reads under way.
        asked: how many digests each `has` was asked for.
        stored: digests, in the order in which they came.
        fails: what `put` raises.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reading = 0
        self.asked: list[int] = []
        self.stored: list[StoreKey] = []
        self.fails: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        assert not self.reading
        self.asked.append(len(keys))
        return await super().has(keys)

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        self.reading += 1
        try:
            await super().get(key, sink, offset=offset, limit=limit)
        finally:
            self.reading -= 1

    async def put(self, key: StoreKey, source: Source) -> int:
        # A backend that serves one request at a time must be able to take it.
        assert not self.reading
        self.stored.append(key)
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        return await super().put(key, source)

    def add(self, data: bytes) -> Digest:
        digest = SHA256.digest_of(data)
        self.blobs[digest] = data
        return digest


@pytest.fixture
def cas() -> Cas:
    return Cas()


@pytest.fixture
def unpacker(cas: Cas, tmp_path: Path) -> Unpacker:
    return Unpacker(cas, limits=LIMITS, folder=tmp_path)


async def test_many_small_files_are_asked_for_and_stored_together(
    cas: Cas, unpacker: Unpacker
) -> None:
    archive = cas.add(tar(*(Entry(f"d/{n}", b"%d" % n) for n in range(500))))

    await unpacker.unpack(archive, SHA256)

    assert len(cas.stored) == 502
    assert len(cas.asked) < 20
    assert max(cas.asked) <= 256 + 2


async def test_what_is_there_is_not_stored_again(cas: Cas, unpacker: Unpacker) -> None:
    archive = cas.add(tar(Entry("a", b"x"), Entry("b", b"x"), Entry("c", b"")))
    there = cas.add(b"x")

    root = await unpacker.unpack(archive, SHA256)

    assert cas.stored == [root]
    assert there not in cas.stored


async def test_a_large_file_goes_through_the_folder(cas: Cas, unpacker: Unpacker) -> None:
    data = bytes(range(256)) * 10_000
    archive = cas.add(tar(Entry("large", data), Entry("small", b"x")))

    assert isinstance(await unpacker.unpack(archive, SHA256), Digest)

    assert cas.blobs[SHA256.digest_of(data)] == data
    absent = Unpacker(cas, limits=LIMITS, folder=Path("/absent"))
    with pytest.raises(NativeLinkError, match="no room") as raised:
        await absent.unpack(archive, SHA256)
    assert raised.value.code is Code.RESOURCE_EXHAUSTED


async def test_a_folder_that_is_full_when_a_file_is_unpacked_is_this_servers_error(
    cas: Cas, tmp_path: Path
) -> None:
    # The archive itself is small enough to need no file.
    archive = cas.add(gzip.compress(tar(Entry("large", bytes(900_000)))))
    unpacker = Unpacker(cas, limits=LIMITS, folder=tmp_path / "absent")

    with pytest.raises(NativeLinkError, match="no room"):
        await unpacker.unpack(archive, SHA256)


async def test_an_error_of_the_cas_is_raised(cas: Cas, unpacker: Unpacker) -> None:
    archive = cas.add(tar(Entry("a", b"x")))
    cas.fails = unavailable("the CAS is down")

    with pytest.raises(NativeLinkError, match="CAS is down"):
        await unpacker.unpack(archive, SHA256)
    with pytest.raises(NativeLinkError) as raised:
        await unpacker.unpack(SHA256.digest_of(b"absent"), SHA256)
    assert raised.value.code is Code.NOT_FOUND


async def test_it_can_be_cancelled_at_any_step(cas: Cas, unpacker: Unpacker) -> None:
    archive = cas.add(tar(*(Entry(f"{n}", b"%d" % n) for n in range(300))))
    cas.gate.clear()
    task = asyncio.create_task(unpacker.unpack(archive, SHA256))
    await wait_until(lambda: bool(cas.stored))
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    cas.gate.set()
    assert isinstance(await unpacker.unpack(archive, SHA256), Digest)


async def test_one_that_is_cancelled_twice_is_closed_when_no_thread_reads_it(
    cas: Cas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = threading.Event(), threading.Event()
    closed: list[bool] = []

    class Slow(Entries):
        def begin(self, path: str, *, is_executable: bool) -> None:
            begun.set()
            gate.wait()
            super().begin(path, is_executable=is_executable)

        def close(self) -> None:
            closed.append(gate.is_set())
            super().close()

    monkeypatch.setattr("nativelink.services.archives.unpacker.Entries", Slow)
    unpacker = Unpacker(cas, limits=LIMITS, folder=tmp_path)
    task = asyncio.create_task(unpacker.unpack(cas.add(tar(Entry("a", b"x"))), SHA256))
    await wait_until(begun.is_set)
    try:
        for _ in range(3):
            task.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
        assert closed == []
    finally:
        gate.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == [True]


async def test_an_archive_of_more_bytes_than_may_be_in_it_is_not_even_read(
    cas: Cas, tmp_path: Path
) -> None:
    archive = cas.add(tar(Entry("a", b"x" * 100)))
    unpacker = Unpacker(
        cas, limits=ArchiveLimits(archive.size_bytes - 1, 10), folder=tmp_path / "absent"
    )
    cas.blobs.clear()

    error = await unpacker.unpack(archive, SHA256)

    assert isinstance(error, NativeLinkError)
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert f"it has {archive.size_bytes} bytes" in error.message


async def test_it_says_what_is_a_zip(cas: Cas, unpacker: Unpacker) -> None:
    assert await unpacker.is_zip(cas.add(b"PK\x03\x04 and more"))
    assert not await unpacker.is_zip(cas.add(b"PK"))
    assert not await unpacker.is_zip(cas.add(tar()))
