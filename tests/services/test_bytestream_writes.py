"""ByteStream.Write in one call: what is kept, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.store import write_bytes
from nativelink.testing.calls import FakeMessageSource
from nativelink.testing.fakes import DictStore
from tests.services.bytestream_calls import (
    LARGE,
    PIECE,
    SHA256,
    SMALL,
    FullStore,
    Server,
    SlowStore,
    error_of,
    name_of,
    requests,
    serving,
    settle,
    write,
)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(DictStore()) as server:
        yield server


class TestWholeWrites:
    @pytest.mark.parametrize("data", [b"", b"x", SMALL, LARGE])
    @pytest.mark.parametrize("piece", [100_000, PIECE, 10_000_000])
    async def test_a_blob_is_written(self, server: Server, data: bytes, piece: int) -> None:
        assert await server.write(*requests(name_of(data, "u"), data, piece=piece)) == len(data)
        assert server.store.blobs == ({SHA256.digest_of(data): data} if data else {})
        assert server.service.statistics().active == 0
        assert await server.status(name_of(data, "u")) == (len(data), True)

    async def test_a_blob_may_end_in_a_message_of_its_own(self, server: Server) -> None:
        messages = [write(name_of(SMALL, "u"), 0, SMALL), write("", len(SMALL), b"", finish=True)]
        assert await server.write(*messages) == len(SMALL)
        assert list(server.store.blobs.values()) == [SMALL]

    async def test_later_messages_may_repeat_the_name(self, server: Server) -> None:
        name = name_of(SMALL, "u")
        messages = [write(name, 0, SMALL[:10]), write(name, 10, SMALL[10:], finish=True)]
        assert await server.write(*messages) == len(SMALL)

    async def test_what_is_there_already_is_not_read(self, server: Server) -> None:
        await write_bytes(server.store, SHA256.digest_of(LARGE), LARGE)
        source = FakeMessageSource(*requests(name_of(LARGE, "u"), LARGE))
        assert await server.write(source=source) == len(LARGE)
        assert source.reads == 1

    async def test_small_blobs_are_written_without_a_task(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(asyncio, "Task")
        for uuid, piece in (("u", 100), ("v", 10_000)):
            data = SMALL + uuid.encode()
            assert await server.write(*requests(name_of(data, uuid), data, piece=piece)) == len(
                data
            )

    async def test_bytes_that_were_received_already_are_skipped(self, server: Server) -> None:
        messages = [
            write(name_of(SMALL, "u"), 0, SMALL[:600]),
            write("", 0, SMALL[:300]),
            write("", 500, SMALL[500:700]),
            write("", 100, SMALL[100:], finish=True),
        ]
        assert await server.write(*messages) == len(SMALL)
        assert list(server.store.blobs.values()) == [SMALL]

    @pytest.mark.parametrize("data", [SMALL, LARGE])
    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (lambda m: m[1].MergeFrom(write("", m[1].write_offset + 1)), "leaves a gap"),
            (lambda m: m[1].MergeFrom(write("", -1)), "write_offset -1 is negative"),
            (lambda m: m.insert(-1, write("", 0, LARGE + b"x")), "bytes were sent for blob"),
            (lambda m: m[-1].ClearField("data"), "finish_write after"),
            (lambda m: m[1].MergeFrom(write("other")), "in a stream that started with"),
            (lambda m: m[-1].ClearField("finish_write"), "ended without finish_write"),
        ],
    )
    async def test_a_wrong_stream_is_refused_and_leaves_nothing(
        self, server: Server, data: bytes, change: Any, why: str
    ) -> None:
        messages = requests(name_of(data, "u"), data, piece=len(data) // 4)
        change(messages)
        with pytest.raises(NativeLinkError, match=why) as raised:
            await server.write(*messages)
        assert error_of(raised)[0] is Code.INVALID_ARGUMENT
        await settle()
        assert not server.store.blobs
        assert server.service.statistics().active == 0

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("", "malformed resource name"),
            (name_of(SMALL), "not one of an upload"),
            (name_of(SMALL, "u").replace("blobs", "compressed-blobs/zstd"), "zstd is not enabled"),
        ],
    )
    async def test_a_wrong_name_is_refused(self, server: Server, name: str, why: str) -> None:
        with pytest.raises(NativeLinkError, match=why) as raised:
            await server.write(write(name, 0, SMALL, finish=True))
        assert error_of(raised)[0] is Code.INVALID_ARGUMENT
        with pytest.raises(NativeLinkError, match=why):
            await server.status(name)

    async def test_a_stream_without_a_message_is_refused(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match="before its first request"):
            await server.write()

    async def test_bytes_that_are_no_request_are_refused(self, server: Server) -> None:
        source = FakeMessageSource(requests(name_of(SMALL, "u"), SMALL, piece=100)[0], b"\xff")
        with pytest.raises(NativeLinkError, match="malformed google"):
            await server.write(source=source)

    @pytest.mark.parametrize("data", [SMALL, LARGE])
    @pytest.mark.parametrize("piece", [PIECE, 10_000_000])
    async def test_the_stores_error_is_the_calls(self, data: bytes, piece: int) -> None:
        store = DictStore()
        async with serving(store, wrapped=FullStore(store)) as server:
            with pytest.raises(NativeLinkError, match="the disk is full"):
                await server.write(*requests(name_of(data, "u"), data, piece=piece))
            assert await server.status(name_of(data, "u")) == (0, False)

    async def test_the_names_digest_function_reaches_the_store(self) -> None:
        store = DictStore()
        slow = SlowStore(store)
        slow.gate.set()
        async with serving(store, wrapped=slow) as server:
            for data in (SMALL, LARGE):
                for function in ("", "sha256/", "blake3/"):
                    store.blobs.clear()
                    name = name_of(data, "u", function=function)
                    assert await server.write(*requests(name, data)) == len(data)
        assert slow.functions == [None, None, DigestFunction.BLAKE3] * 2
