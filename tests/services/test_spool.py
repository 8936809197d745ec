"""A blob is kept until its end is known."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.spool import BUFFER_BYTES, Spool
from nativelink.testing.fakes import wait_until


def names_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = Spool([], tmp_path)
    yield spool
    await spool.close()


@pytest.mark.parametrize("size", [0, 1, 1000, BUFFER_BYTES - 1, BUFFER_BYTES, 3 * BUFFER_BYTES + 7])
async def test_what_goes_in_comes_out(tmp_path: Path, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    hashers = [hashlib.sha256(), hashlib.sha512()]
    spool = Spool(hashers, tmp_path)
    try:
        for start in range(0, size, 100_000):
            await spool.write(memoryview(data)[start : start + 100_000])
        source = await spool.finish()
        got = bytearray()
        while chunk := await source.read():
            got += chunk
        assert bytes(got) == data
        assert source.size == spool.size == size
        assert [each.hexdigest() for each in hashers] == [
            hashlib.sha256(data).hexdigest(),
            hashlib.sha512(data).hexdigest(),
        ]
    finally:
        await spool.close()


@pytest.mark.parametrize("size", [0, 1000, 3 * BUFFER_BYTES + 7])
async def test_it_can_be_read_as_a_file_from_its_beginning(spool: Spool, size: int) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    for start in range(0, size, 100_000):
        await spool.write(memoryview(data)[start : start + 100_000])

    file = await spool.file()

    assert b"".join(iter(lambda: file.read(65_536), b"")) == data
    file.seek(0)
    assert file.read(10) == data[:10]


async def test_nothing_is_left_behind_and_no_name_is_seen(spool: Spool, tmp_path: Path) -> None:
    await spool.write(bytes(2 * BUFFER_BYTES))

    assert names_in(tmp_path) == []


async def test_a_full_disk_is_said_to_be_one(tmp_path: Path) -> None:
    spool = Spool([], tmp_path / "absent")

    with pytest.raises(NativeLinkError, match="no room") as raised:
        await spool.write(bytes(BUFFER_BYTES))
    assert raised.value.code is Code.RESOURCE_EXHAUSTED
    await spool.close()


async def test_a_thread_that_works_on_it_is_waited_for(tmp_path: Path) -> None:
    entered, may_go = threading.Event(), threading.Event()

    class Slow:
        def update(self, _data: Any, /) -> None:
            entered.set()
            assert may_go.wait(60)

        def hexdigest(self) -> str:
            return ""

    spool = Spool([Slow()], tmp_path)
    writing = asyncio.create_task(spool.write(bytes(BUFFER_BYTES)))
    await wait_until(entered.is_set)
    writing.cancel()
    closing = asyncio.create_task(spool.close())
    await asyncio.sleep(0)
    assert not closing.done()
    may_go.set()
    await closing

    with pytest.raises(asyncio.CancelledError):
        await writing


async def test_bytes_that_come_one_by_one_take_no_object_each(spool: Spool) -> None:
    for number in range(5000):
        await spool.write(bytes([number % 256]))
    assert len(spool._chunks) == 1
    await spool.write(bytes(5000))
    await spool.write(b"end")
    assert len(spool._chunks) == 3
    source = await spool.finish()
    assert await source.read() == bytes(n % 256 for n in range(5000)) + bytes(5000) + b"end"
