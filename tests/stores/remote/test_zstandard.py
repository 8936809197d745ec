"""Compressed streams, and what damaged and hostile ones come to."""

from __future__ import annotations

import random

import backports.zstd as zstd
import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Chunk
from nativelink.stores.remote.zstandard import Compressor, DecompressingSink

DATA = random.Random(1).randbytes(150_000) + bytes(3_000_000)


class Pieces:
    def __init__(self) -> None:
        self.pieces: list[Chunk] = []

    async def write(self, chunk: Chunk, /) -> None:
        assert chunk
        self.pieces.append(chunk)


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


async def test_several_frames_are_one_blob() -> None:
    stream = zstd.compress(DATA[:1000]) + zstd.compress(b"") + zstd.compress(DATA[1000:])
    for step in (1, 7, 100_000_000) if len(stream) < 1000 else (999, 100_000_000):
        assert await plain(stream, len(DATA), step) == DATA


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
