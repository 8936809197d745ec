"""Containers that are damaged are told from absent ones, and cost no more memory than a block."""

from __future__ import annotations

import random
import struct

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSink, BytesSource, Source
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.stores.wrap.compression import CompressionStore
from nativelink.stores.wrap.compression_codecs import Codec, Lz4Codec, ZstdCodec
from nativelink.testing.fakes import DictStore, PiecesSource

DATA = random.Random(1).randbytes(2_500) + bytes(7_500)
KEY = DigestFunction.SHA256.digest_of(DATA)


def store(
    backend: DictStore, codec: Codec | None = None, *, block_size: int = 4096, limit: int = 0
) -> CompressionStore:
    return CompressionStore(
        backend, codec or Lz4Codec(), block_size=block_size, max_block_size=limit or block_size
    )


async def container(codec: Codec | None = None, source: Source | None = None) -> bytes:
    backend = DictStore()
    await store(backend, codec).put(KEY, source or BytesSource(DATA))
    return backend.blobs[KEY]


async def read(data: bytes, *, limit: int | None = None) -> bytes:
    backend = DictStore(chunk_size=100)
    backend.blobs[KEY] = data
    return await read_bytes(store(backend), KEY, limit=limit)


@pytest.mark.parametrize("codec", [Lz4Codec(), ZstdCodec(3)], ids=["lz4", "zstd"])
async def test_a_byte_that_changed_is_noticed_or_does_not_matter(codec: Codec) -> None:
    """Of the blocks themselves LZ4 has no checksum; the sizes and the container are checked."""
    good = await container(codec)
    assert await read(good) == DATA
    for at in (*range(17), *range(len(good) - 60, len(good))):
        bad = bytearray(good)
        bad[at] ^= 0x81
        code = Code.OK
        try:
            size = len(await read(bytes(bad)))
        except NativeLinkError as error:
            code, size = error.code, len(DATA)
        assert code in (Code.OK, Code.DATA_LOSS)
        assert size == len(DATA)


async def test_a_container_that_is_cut_off_is_data_loss() -> None:
    good = await container()
    for size in (0, 1, 16, 17, 20, 100, len(good) - 1):
        with pytest.raises(NativeLinkError) as caught:
            await read(good[:size])
        assert caught.value.code is Code.DATA_LOSS
    with pytest.raises(NativeLinkError, match="follows its end"):
        await read(good + bytes(5))


async def test_blocks_that_claim_too_much_are_refused_before_anything_is_allocated() -> None:
    huge = struct.pack("<BIIQ", 1, 2**32 - 1, 0, 5)
    with pytest.raises(NativeLinkError, match="4294967295 bytes, 4096 are allowed"):
        await read(huge)
    long = struct.pack("<BIIQ", 1, 4096, 0, 5) + struct.pack("<BI", 0, 2**31)
    with pytest.raises(NativeLinkError, match="takes 2147483648"):
        await read(long)


async def test_a_zstd_bomb_ends_at_the_size_of_a_block() -> None:
    bomb = bytearray()
    ZstdCodec(3).append(bytes(50_000_000), bomb)
    data = struct.pack("<BIIQ", 0x5A, 4096, 0, 5) + struct.pack("<BI", 0, len(bomb)) + bomb
    with pytest.raises(NativeLinkError) as caught:
        await read(data)
    assert caught.value.code is Code.DATA_LOSS


async def test_what_one_algorithm_wrote_is_read_where_another_is_configured() -> None:
    backend = DictStore()
    await write_bytes(store(backend, ZstdCodec(3)), KEY, DATA)
    assert await read_bytes(store(backend, Lz4Codec()), KEY) == DATA


async def test_the_header_says_whether_the_size_was_known() -> None:
    known = await container(source=BytesSource(DATA))
    unknown = await container(source=PiecesSource.split(DATA, 1000))
    assert struct.unpack_from("<II", known, 5) == (0, len(DATA))
    assert struct.unpack_from("<II", unknown, 5) == (1, len(DATA))
    assert known[17:] == unknown[17:]


async def test_a_source_that_is_shorter_than_it_said_stores_nothing() -> None:
    class Lying(BytesSource):
        def __init__(self) -> None:
            super().__init__(DATA)
            self.size = len(DATA) + 1

    backend = DictStore()
    with pytest.raises(NativeLinkError) as caught:
        await store(backend).put(KEY, Lying())
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert backend.blobs == {}


async def test_a_read_of_the_begin_ends_before_the_rest_is_fetched() -> None:
    good = await container()
    cut = good[: len(good) - 60]
    assert await read(cut, limit=2_000) == DATA[:2_000]


async def test_the_size_of_a_string_is_looked_up_in_its_container() -> None:
    backend = DictStore()
    await write_bytes(store(backend), "text", DATA)
    backend.blobs["foreign"] = b"short"
    assert await store(backend).has(["text", "foreign", "absent"]) == [len(DATA), None, None]


async def test_a_sink_that_fails_ends_the_read() -> None:
    backend = DictStore()
    await write_bytes(store(backend), KEY, DATA)
    with pytest.raises(NativeLinkError) as caught:
        await store(backend).get(KEY, BytesSink(100))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
