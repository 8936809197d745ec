"""Compressed streams, and what damaged and hostile ones come to."""

from __future__ import annotations

import random

import backports.zstd as zstd
import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Chunk
from nativelink.core.zstandard import (
    MAX_WINDOW_LOG,
    CompressingSink,
    Compressor,
    DecompressingSink,
    DecompressingSource,
    Decompressor,
)

DATA = random.Random(1).randbytes(150_000) + bytes(3_000_000)


class Pieces:
    def __init__(self) -> None:
        self.pieces: list[Chunk] = []

    async def write(self, chunk: Chunk, /) -> None:
        assert chunk
        self.pieces.append(chunk)


class Stream:
    """Gives a stream piece by piece."""

    def __init__(self, stream: bytes, step: int) -> None:
        self.size: int | None = len(stream)
        self._pieces = [stream[at : at + step] for at in range(0, len(stream), step)]

    async def read(self) -> Chunk:
        return self._pieces.pop(0) if self._pieces else b""


async def pulled(stream: bytes, step: int) -> bytes:
    """What a source of unknown size gives."""
    source = DecompressingSource(Stream(stream, step))
    assert source.size is None
    pieces: list[Chunk] = []
    while piece := await source.read():
        pieces.append(piece)
    assert await source.read() == b""
    assert max(map(len, pieces), default=0) <= 1024 * 1024
    return b"".join(pieces)


async def plain(stream: bytes, size: int, step: int) -> bytes:
    pieces = Pieces()
    sink = DecompressingSink(pieces, size)
    for start in range(0, len(stream), step):
        await sink.write(memoryview(stream)[start : start + step])
    sink.end()
    assert max(map(len, pieces.pieces)) <= 1024 * 1024
    return b"".join(pieces.pieces)


@pytest.mark.parametrize("step", [1000, 70_000, 10_000_000])
async def test_what_was_compressed_is_read_back(step: int) -> None:
    compressor = Compressor()
    parts = [
        await compressor.compress([DATA[:100], DATA[100:200_000]], last=False),
        await compressor.compress([DATA[200_000:]], last=True),
    ]
    stream = b"".join(parts)
    assert len(stream) < 160_000
    assert zstd.decompress(stream) == DATA
    assert await plain(stream, len(DATA), step) == DATA
    assert await pulled(stream, step) == DATA


async def test_several_frames_are_one_blob() -> None:
    stream = zstd.compress(DATA[:1000]) + zstd.compress(b"") + zstd.compress(DATA[1000:])
    for step in (999, 100_000_000):
        assert await plain(stream, len(DATA), step) == DATA
        assert await pulled(stream, step) == DATA


async def test_a_blob_that_is_larger_than_promised_is_not_unpacked_any_further() -> None:
    bomb = zstd.compress(bytes(64 * 1024 * 1024))
    pieces = Pieces()
    with pytest.raises(NativeLinkError, match="more than the 2000000 bytes") as caught:
        await DecompressingSink(pieces, 2_000_000).write(bomb)
    assert caught.value.code is Code.DATA_LOSS
    assert sum(map(len, pieces.pieces)) <= 2_000_000


async def test_a_blob_that_is_smaller_than_promised_is_noticed() -> None:
    with pytest.raises(NativeLinkError, match="sent 10 of the blob's 11 bytes"):
        await plain(zstd.compress(bytes(10)), 11, 100)


async def test_what_is_no_zstd_is_noticed() -> None:
    with pytest.raises(NativeLinkError, match="no zstd") as caught:
        await plain(b"this is no zstd at all", 100, 100)
    assert caught.value.code is Code.DATA_LOSS


@pytest.mark.parametrize("size", [0, 1, 70_000, len(DATA)])
@pytest.mark.parametrize("step", [1000, 70_000, 10_000_000])
async def test_a_sink_compresses_what_it_is_given_into_one_frame(size: int, step: int) -> None:
    data = DATA[:size]
    pieces = Pieces()
    sink = CompressingSink(pieces, size)
    for start in range(0, size, step):
        await sink.write(memoryview(data)[start : start + step])
    await sink.end()

    stream = b"".join(pieces.pieces)
    assert sink.size == size
    assert zstd.decompress(stream) == data
    assert zstd.get_frame_info(stream).decompressed_size == size
    assert max(map(len, pieces.pieces)) <= 1_100_000


async def test_a_frame_without_its_end_is_noticed_even_if_all_bytes_came() -> None:
    stream = zstd.compress(DATA, options={zstd.CompressionParameter.checksum_flag: 1})
    for cut in (1, 4):
        with pytest.raises(NativeLinkError, match="without its end"):
            await plain(stream[:-cut], len(DATA), 70_000)


async def test_bytes_behind_the_last_frame_are_noticed() -> None:
    with pytest.raises(NativeLinkError, match="no zstd"):
        await plain(zstd.compress(b"blob") + b"garbage", 4, 100)


async def test_a_damaged_byte_is_noticed_where_frames_have_checksums() -> None:
    options: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
    stream = bytearray(zstd.compress(DATA[:100_000], options=options))
    stream[50_000] ^= 1
    with pytest.raises(NativeLinkError, match="no zstd"):
        await plain(bytes(stream), 100_000, 1000)


async def test_a_longer_window_than_allowed_is_refused() -> None:
    def stream(log: int) -> bytes:
        # Nothing is known of the size, so the header has the window as it was asked for.
        compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: log})
        return compressor.compress(DATA) + compressor.flush()

    limit = MAX_WINDOW_LOG
    for log in (limit, limit + 1):
        unpacking = Decompressor(len(DATA), code=Code.INVALID_ARGUMENT, max_window_log=limit)
        unpacking.feed(stream(log))
        if log == limit:
            while await unpacking.piece():
                pass
            unpacking.end()
            assert unpacking.unpacked == len(DATA)
        else:
            with pytest.raises(NativeLinkError, match="too much memory") as caught:
                await unpacking.piece()
            assert caught.value.code is Code.INVALID_ARGUMENT


async def test_frames_that_hold_next_to_nothing_are_not_many() -> None:
    frame = zstd.compress(b"")
    with pytest.raises(NativeLinkError, match="sent 100 zstd frames with 0 bytes"):
        await plain(frame * 200_000, 5000, 1_000_000)
    small = zstd.compress(bytes(4096))
    await plain(small * 500, 500 * 4096, 1000)


async def test_skippable_frames_are_skipped() -> None:
    skippable = bytes.fromhex("502a4d18") + (6).to_bytes(4, "little") + b"seekme"
    assert await plain(zstd.compress(b"blob") + skippable, 4, 3) == b"blob"


class TestASourceOfUnknownSize:
    """What a peer sends whose size is not known is refused for the same reasons."""

    @pytest.mark.parametrize(
        ("stream", "message"),
        [
            (zstd.compress(b"blob") + b"garbage", "no zstd"),
            (b"this is no zstd at all", "no zstd"),
            (zstd.compress(b"blob" * 100)[:-1], "without its end"),
            (zstd.compress(b"") * 200_000, "sent 100 zstd frames with 0 bytes"),
        ],
        ids=["rubbish behind", "rubbish", "cut off", "frames of nothing"],
    )
    async def test_what_is_no_stream_is_refused(self, stream: bytes, message: str) -> None:
        with pytest.raises(NativeLinkError, match=message) as caught:
            await pulled(stream, 1_000_000)
        assert caught.value.code is Code.INVALID_ARGUMENT

    async def test_a_window_beyond_what_decoders_must_have_is_refused(self) -> None:
        options: dict[int, int] = {zstd.CompressionParameter.window_log: MAX_WINDOW_LOG + 1}
        compressor = zstd.ZstdCompressor(options=options)
        with pytest.raises(NativeLinkError, match="too much memory"):
            await pulled(compressor.compress(DATA) + compressor.flush(), 1_000_000)

    async def test_nothing_is_nothing(self) -> None:
        assert await pulled(b"", 1) == b""
        assert await pulled(zstd.compress(b""), 1) == b""
