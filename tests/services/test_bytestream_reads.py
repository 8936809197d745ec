"""ByteStream.Read: all of a blob or a part, and what is no blob."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.store import write_bytes
from nativelink.testing.calls import FakeMessageSink
from nativelink.testing.fakes import DictStore
from tests.services.bytestream_calls import (
    LARGE,
    SHA256,
    SMALL,
    Server,
    error_of,
    name_of,
    requests,
    serving,
)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(DictStore()) as server:
        yield server


class TestRead:
    async def stored(self, server: Server, data: bytes) -> str:
        await write_bytes(server.store, SHA256.digest_of(data), data)
        return name_of(data)

    @pytest.mark.parametrize(
        ("offset", "limit"), [(0, 0), (3, 0), (0, 7), (990, 0), (990, 100), (1000, 0), (999, 1)]
    )
    async def test_a_range_is_read(self, server: Server, offset: int, limit: int) -> None:
        name = await self.stored(server, SMALL)
        data = b"".join(await server.read(name, offset, limit))
        assert data == SMALL[offset : offset + limit if limit else None]

    @pytest.mark.parametrize("size", [1, 99, 100, 101, 1000])
    async def test_no_message_is_larger_than_the_limit(self, size: int) -> None:
        async with serving(DictStore(), max_bytes_per_stream=100) as server:
            data = SMALL[:size]
            messages = await server.read(await self.stored(server, data))
        assert b"".join(messages) == data
        assert max(map(len, messages)) <= 100
        assert len(messages) == -(-size // 100)

    async def test_a_blob_travels_without_a_copy(self, server: Server) -> None:
        name = await self.stored(server, LARGE)
        sink = FakeMessageSink()
        await server.read(name, sink=sink)
        (stored,) = server.store.blobs.values()
        assert sum(len(chunk) for _, chunk in sink.parts) == len(LARGE)
        for _, chunk in sink.parts:
            assert isinstance(chunk, memoryview)
            assert chunk.obj is stored

    async def test_the_empty_blob_is_no_message(self, server: Server) -> None:
        assert await server.read(name_of(b"")) == []

    async def test_an_absent_blob_is_not_found(self, server: Server) -> None:
        with pytest.raises(NativeLinkError) as raised:
            await server.read(name_of(SMALL))
        assert error_of(raised)[0] is Code.NOT_FOUND
        assert str(SHA256.digest_of(SMALL)) in raised.value.message

    @pytest.mark.parametrize(
        ("offset", "limit", "code"),
        [
            (1001, 0, Code.OUT_OF_RANGE),
            (-1, 0, Code.OUT_OF_RANGE),
            (0, -1, Code.INVALID_ARGUMENT),
        ],
    )
    async def test_a_wrong_range_is_refused(
        self, server: Server, offset: int, limit: int, code: Code
    ) -> None:
        name = await self.stored(server, SMALL)
        with pytest.raises(NativeLinkError) as raised:
            await server.read(name, offset, limit)
        assert error_of(raised)[0] is code

    async def test_a_blob_that_is_shorter_than_its_name_says_is_data_loss(
        self, server: Server
    ) -> None:
        name = await self.stored(server, SMALL)
        server.store.blobs[SHA256.digest_of(SMALL)] = SMALL[:-1]
        with pytest.raises(NativeLinkError) as raised:
            await server.read(name)
        assert error_of(raised)[0] is Code.DATA_LOSS

    async def test_the_name_of_an_upload_is_not_read(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match="one of an upload") as raised:
            await server.read(name_of(SMALL, "u"))
        assert error_of(raised)[0] is Code.INVALID_ARGUMENT

    async def test_an_unknown_instance_is_not_found(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match="instances: '', 'a/b'") as raised:
            await server.read(name_of(SMALL, prefix="a/c/"))
        assert error_of(raised)[0] is Code.NOT_FOUND

    @pytest.mark.parametrize("compressor", ["zstd", "deflate", "nonsense"])
    async def test_compression_is_refused_by_name(self, server: Server, compressor: str) -> None:
        name = name_of(SMALL).replace("blobs/", f"compressed-blobs/{compressor}/")
        with pytest.raises(NativeLinkError, match=f"{compressor} is not enabled") as raised:
            await server.read(name)
        assert error_of(raised)[0] is Code.INVALID_ARGUMENT

    async def test_an_instance_name_may_contain_slashes(self, server: Server) -> None:
        assert await server.write(*requests(name_of(SMALL, "u", "a/b/"), SMALL)) == len(SMALL)
        assert b"".join(await server.read(name_of(SMALL, prefix="a/b/"))) == SMALL
