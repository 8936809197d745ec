"""ByteStream of `compressed-blobs/zstd` (REAPI v2, ContentAddressableStorage)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import backports.zstd as zstd
import pytest

from nativelink.core.digest import StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Source
from nativelink.proto.google.bytestream import bytestream_pb2 as pb
from nativelink.services.uploads import Uploads
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.calls import FakeMessageSource
from nativelink.testing.fakes import DictStore, wait_until
from tests.services.bytestream_calls import (
    SHA256,
    FullStore,
    Server,
    cancelled,
    error_of,
    serving,
    write,
)

SMALL = bytes(range(250)) * 4
#: Half of it compresses.
LARGE = random.Random(7).randbytes(700_000) + bytes(range(256)) * 3000
PIECE = 16 * 1024


def name_of(data: bytes, uuid: str = "", compressor: str = "zstd", size: int | None = None) -> str:
    digest = SHA256.digest_of(data)
    upload = f"uploads/{uuid}/" if uuid else ""
    size = digest.size_bytes if size is None else size
    return f"{upload}compressed-blobs/{compressor}/{digest.hash}/{size}"


def frame(data: bytes, checksum: bool = True) -> bytes:
    options: dict[int, int] = {zstd.CompressionParameter.checksum_flag: int(checksum)}
    return zstd.compress(data, options=options)


def requests(name: str, stream: bytes, start: int = 0, piece: int = PIECE) -> list[pb.WriteRequest]:
    """What a client sends that uploads `stream`, which is of a blob from `start` on."""
    sent = [
        write(name if not at else "", start + at, stream[at : at + piece])
        for at in range(0, len(stream), piece)
    ] or [write(name, start)]
    sent[-1].finish_write = True
    return sent


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(DictStore(), zstd=True) as server:
        yield server


async def stored(server: Server, data: bytes) -> bytes:
    return await read_bytes(server.store, SHA256.digest_of(data))


def received(server: Server) -> int:
    """Plain bytes that uploads have taken."""
    uploads = server.service._uploads._named.values()
    return sum(upload.received for upload in uploads)


class TestRead:
    @pytest.mark.parametrize("data", [b"", b"x", SMALL, LARGE], ids=len)
    async def test_a_blob_is_one_frame_that_says_its_size(
        self, server: Server, data: bytes
    ) -> None:
        await write_bytes(server.store, SHA256.digest_of(data), data)
        pieces = await server.read(name_of(data))
        stream = b"".join(pieces)
        assert zstd.decompress(stream) == data
        assert zstd.get_frame_info(stream).decompressed_size == len(data)
        assert len(stream) < 0.6 * len(data) or len(data) < 10
        assert max(map(len, pieces)) <= 64 * 1024

    @pytest.mark.parametrize("offset", [1, 999, 1000])
    async def test_an_offset_counts_plain_bytes(self, server: Server, offset: int) -> None:
        await write_bytes(server.store, SHA256.digest_of(SMALL), SMALL)
        stream = b"".join(await server.read(name_of(SMALL), offset))
        assert zstd.decompress(stream) == SMALL[offset:]

    async def test_a_limit_is_refused(self, server: Server) -> None:
        await write_bytes(server.store, SHA256.digest_of(SMALL), SMALL)
        with pytest.raises(NativeLinkError, match="read_limit 5 of a compressed blob") as caught:
            await server.read(name_of(SMALL), 0, 5)
        assert caught.value.code is Code.INVALID_ARGUMENT

    @pytest.mark.parametrize(("offset", "code"), [(1001, Code.OUT_OF_RANGE), (-1, None)])
    async def test_an_offset_outside_is_refused(
        self, server: Server, offset: int, code: Code | None
    ) -> None:
        await write_bytes(server.store, SHA256.digest_of(SMALL), SMALL)
        with pytest.raises(NativeLinkError) as caught:
            await server.read(name_of(SMALL), offset)
        assert caught.value.code is (code or Code.OUT_OF_RANGE)

    async def test_what_is_absent_is_not_found(self, server: Server) -> None:
        with pytest.raises(NativeLinkError) as caught:
            await server.read(name_of(SMALL))
        assert caught.value.code is Code.NOT_FOUND

    async def test_a_blob_that_is_shorter_in_the_store_has_no_end(self, server: Server) -> None:
        server.store.blobs[SHA256.digest_of(SMALL)] = SMALL[:-1]
        with pytest.raises(NativeLinkError, match="999 bytes of 1000") as caught:
            await server.read(name_of(SMALL))
        assert caught.value.code is Code.DATA_LOSS

    @pytest.mark.parametrize("compressor", ["deflate", "brotli", "gzip", "ZSTD"])
    async def test_other_compressors_are_refused(self, server: Server, compressor: str) -> None:
        with pytest.raises(NativeLinkError, match="use blobs and compressed-blobs/zstd") as caught:
            await server.read(name_of(SMALL, compressor=compressor))
        assert caught.value.code is Code.INVALID_ARGUMENT

    async def test_without_the_setting_nothing_is_compressed(self) -> None:
        async with serving(DictStore()) as server:
            for call in (
                server.read(name_of(SMALL)),
                server.write(write(name_of(SMALL, "u"), 0, frame(SMALL), True)),
                server.status(name_of(SMALL, "u")),
            ):
                with pytest.raises(NativeLinkError, match="zstd is not enabled") as caught:
                    await call
                assert caught.value.code is Code.INVALID_ARGUMENT
            assert not server.store.blobs

    async def test_identity_is_always_allowed(self, server: Server) -> None:
        await write_bytes(server.store, SHA256.digest_of(SMALL), SMALL)
        assert b"".join(await server.read(name_of(SMALL, compressor="identity"))) == SMALL


class TestWrite:
    @pytest.mark.parametrize("data", [b"x", SMALL, LARGE], ids=len)
    @pytest.mark.parametrize("piece", [100, PIECE, 5_000_000])
    async def test_the_plain_blob_is_stored(self, server: Server, data: bytes, piece: int) -> None:
        stream = frame(data)
        if len(stream) > 1000 * piece:
            return
        # REAPI v2 leaves it open what a whole compressed upload answers; Bazel wants what it sent.
        assert await server.write(*requests(name_of(data, "u"), stream, piece=piece)) == len(stream)
        assert await stored(server, data) == data
        assert await server.status(name_of(data, "u")) == (len(data), True)

    async def test_a_blob_that_is_there_is_answered_with_minus_one(self, server: Server) -> None:
        await write_bytes(server.store, SHA256.digest_of(LARGE), LARGE)
        source = FakeMessageSource(*requests(name_of(LARGE, "u"), frame(LARGE)))
        assert await server.write(source=source) == -1
        assert source.reads == 1
        assert await server.write(*requests(name_of(b"", "u"), frame(b""))) == -1

    async def test_a_stream_may_be_several_frames(self, server: Server) -> None:
        stream = frame(LARGE[:5]) + frame(b"") + frame(LARGE[5:])
        await server.write(*requests(name_of(LARGE, "u"), stream))
        assert await stored(server, LARGE) == LARGE

    @pytest.mark.parametrize(
        ("stream", "message"),
        [
            (frame(SMALL)[:-2], "without its end"),
            (frame(SMALL)[:-60], "bytes"),
            (b"", "sent 0 of the blob's 1000 bytes"),
            (frame(SMALL[:-1]), "sent 999 of the blob's 1000 bytes"),
            (frame(SMALL + b"!"), "more than the 1000 bytes"),
            (frame(SMALL) + b"rubbish", "no zstd"),
            (frame(SMALL) + frame(b"!"), "more than the 1000 bytes"),
            (SMALL, "no zstd"),
        ],
    )
    async def test_what_is_no_frame_of_the_blob_is_refused(
        self, server: Server, stream: bytes, message: str
    ) -> None:
        with pytest.raises(NativeLinkError, match=message) as caught:
            await server.write(*requests(name_of(SMALL, "u"), stream))
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert SHA256.digest_of(SMALL) not in server.store.blobs
        assert server.service.statistics().parked == 0
        # The same name may be tried again at once.
        await server.write(*requests(name_of(SMALL, "u"), frame(SMALL)))
        assert await stored(server, SMALL) == SMALL

    async def test_a_bomb_is_not_unpacked(self, server: Server) -> None:
        bomb = frame(bytes(50_000_000))
        with pytest.raises(NativeLinkError, match="more than the 600000 bytes") as caught:
            await server.write(*requests(name_of(SMALL, "u", size=600_000), bomb))
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert server.service.statistics().buffered_bytes == 0

    @pytest.mark.parametrize("data", [SMALL, LARGE], ids=len)
    async def test_a_wrong_hash_is_refused_though_the_store_does_not_look(
        self, server: Server, data: bytes
    ) -> None:
        with pytest.raises(NativeLinkError, match="SHA256 hash") as caught:
            await server.write(*requests(name_of(data, "u"), frame(data[::-1])))
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert not server.store.blobs

    async def test_a_store_that_looks_itself_is_left_to_it(self) -> None:
        store = DictStore()
        async with serving(store, zstd=True, verified=True) as server:
            await server.write(*requests(name_of(SMALL, "u"), frame(SMALL[::-1])))
        assert store.blobs == {SHA256.digest_of(SMALL): SMALL[::-1]}

    async def test_an_error_of_the_store_is_the_answer(self) -> None:
        async with serving(DictStore(), wrapped=FullStore(DictStore()), zstd=True) as server:
            with pytest.raises(NativeLinkError) as caught:
                await server.write(*requests(name_of(LARGE, "u"), frame(LARGE)))
            assert error_of(caught) == (Code.RESOURCE_EXHAUSTED, "the disk is full")

    @pytest.mark.parametrize("offset", [-1, 5])
    async def test_a_first_offset_that_nobody_told_is_refused(
        self, server: Server, offset: int
    ) -> None:
        with pytest.raises(NativeLinkError) as caught:
            await server.write(write(name_of(SMALL, "u"), offset, frame(SMALL), True))
        assert caught.value.code is (Code.ABORTED if offset > 0 else Code.INVALID_ARGUMENT)


class TestOffsets:
    async def test_later_ones_count_compressed_bytes(self, server: Server) -> None:
        name, stream = name_of(SMALL, "u"), frame(SMALL)
        for wrong in (101, -1):
            with pytest.raises(NativeLinkError, match="100 is next") as caught:
                await server.write(write(name, 0, stream[:100]), write("", wrong, stream[100:]))
            assert caught.value.code is Code.INVALID_ARGUMENT

    async def test_a_repeated_request_is_skipped(self, server: Server) -> None:
        name, stream = name_of(SMALL, "u"), frame(SMALL)
        again = [write(name, 0, stream[:100]), write("", 0, stream[:120])]
        await server.write(*again, write("", 60, stream[60:], True))
        assert await stored(server, SMALL) == SMALL

    async def lost(self, server: Server, name: str, stream: bytes, upto: int) -> int:
        """A client that goes away after `upto` bytes; what its next call is told."""
        source = FakeMessageSource(
            *(write(name, at, stream[at : at + PIECE]) for at in range(0, upto, PIECE)), ended=False
        )
        task = await server.start(source)
        await wait_until(lambda: source.reads == -(-upto // PIECE))
        await wait_until(lambda: received(server) > 0)
        await cancelled(task)
        committed, complete = await server.status(name)
        assert not complete
        return committed

    async def test_a_lost_upload_goes_on_from_the_plain_offset(self) -> None:
        async with serving(DictStore(), zstd=True, uploads=Uploads()) as server:
            # So large that a part of it has gone to the store already, and so noisy that
            # compressed and plain offsets are close: they must not be mistaken for each other.
            data = random.Random(3).randbytes(600_000) + bytes(10_000)
            name = name_of(data, "u")
            committed = await self.lost(server, name, frame(data, checksum=False), 540_000)
            assert 256 * 1024 <= committed < len(data)

            rest = frame(data[committed:])
            end = await server.write(*requests(name, rest, committed))

            assert end == committed + len(rest)
            assert await stored(server, data) == data

    async def test_the_rest_may_begin_earlier_and_may_be_plain(self, server: Server) -> None:
        data = random.Random(4).randbytes(600_000)
        name = name_of(data, "u")
        committed = await self.lost(server, name, frame(data, checksum=False), 540_000)
        begin = committed - 1000
        part = frame(data[begin:])
        with pytest.raises(NativeLinkError, match="without finish_write"):
            await server.write(*(write(name, begin, part[: len(part) // 2]),))
        plain = name.replace("compressed-blobs/zstd", "blobs")
        committed, _ = await server.status(plain)
        assert begin <= committed
        assert await server.write(write(plain, committed, data[committed:], True)) == len(data)
        assert await stored(server, data) == data

    async def test_what_began_plain_is_begun_again(self, server: Server) -> None:
        # It could not be checked as a whole.
        name = name_of(SMALL, "u")
        plain = name.replace("compressed-blobs/zstd", "blobs")
        with pytest.raises(NativeLinkError, match="without finish_write"):
            await server.write(write(plain, 0, SMALL[::-1][:600]))
        rest = requests(name, frame(SMALL[::-1][600:]), 600)
        with pytest.raises(NativeLinkError, match="began uncompressed") as caught:
            await server.write(*rest)
        assert caught.value.code is Code.ABORTED
        assert await server.status(name) == (0, False)
        assert not server.store.blobs
        await server.write(*requests(name, frame(SMALL)))
        assert await stored(server, SMALL) == SMALL

    async def test_a_call_that_was_taken_over_does_not_end_the_other(self, server: Server) -> None:
        data = random.Random(5).randbytes(600_000)
        name, stream = name_of(data, "u"), frame(data, checksum=False)
        first = FakeMessageSource(write(name, 0, stream[:400_000]), ended=False)
        task = await server.start(first)
        await wait_until(lambda: received(server) > 0)
        committed, _ = await server.status(name)
        second = FakeMessageSource(write(name, committed, b""), ended=False)
        other = await server.start(second)

        first.send(write("", 400_000, stream[400_000:], True))
        with pytest.raises(NativeLinkError) as caught:
            await task
        assert caught.value.code is Code.ABORTED
        second.send(write("", committed, frame(data[committed:]), True))
        await other
        assert await stored(server, data) == data


async def test_the_memory_of_an_upload_is_bounded(server: Server) -> None:
    # What unpacks to much waits inside of the decompressor while the store is slow.
    data = bytes(30_000_000)
    largest = 0
    gate = asyncio.Event()

    class Slow(DictStore):
        async def put(self, key: StoreKey, source: Source) -> int:
            nonlocal largest
            size = 0
            await gate.wait()
            while chunk := await source.read():
                largest = max(largest, len(chunk), service.statistics().buffered_bytes)
                size += len(chunk)
            return size

    async with serving(DictStore(), wrapped=Slow(), zstd=True) as server:
        service = server.service
        source = FakeMessageSource(*requests(name_of(data, "u"), frame(data)))
        task = await server.start(source)
        await wait_until(lambda: service.statistics().buffered_bytes > 0)
        gate.set()
        await task
    assert 0 < largest <= 2 * 1024 * 1024
