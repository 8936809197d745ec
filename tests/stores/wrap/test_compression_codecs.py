"""A single block, there and back."""

from __future__ import annotations

import random

import lz4.block
import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.wrap.compression_codecs import Lz4Codec

SIZES = [1, 14, 15, 16, 269, 270, 271, 65_535, 65_536]


def packed(block: bytes) -> bytearray:
    out = bytearray()
    assert Lz4Codec().append(block, out) == len(out)
    return out


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["random", "text"])
def test_a_block_is_what_the_library_reads(size: int, kind: str) -> None:
    block = random.Random(size).randbytes(size) if kind == "random" else b"ab" * size
    data = packed(block[:size])
    expected = lz4.block.decompress(data, uncompressed_size=size)
    assert Lz4Codec().expand(memoryview(data), size) == expected == block[:size]


@pytest.mark.parametrize("size", SIZES)
def test_a_block_without_a_repetition_is_read_without_a_copy(size: int) -> None:
    data = packed(random.Random(size).randbytes(size))
    block = Lz4Codec().expand(memoryview(data), size)
    assert isinstance(block, memoryview)
    assert block.obj is data


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("at", [0, 1, -1])
def test_another_head_of_the_same_length_is_read_by_the_library(size: int, at: int) -> None:
    data = packed(random.Random(size).randbytes(size))
    head = len(data) - size
    data[at % head] ^= 0x10
    try:
        expected = lz4.block.decompress(data, uncompressed_size=size)
    except lz4.block.LZ4BlockError:
        with pytest.raises(NativeLinkError) as refused:
            Lz4Codec().expand(memoryview(data), size)
        assert refused.value.code == Code.DATA_LOSS
    else:
        assert Lz4Codec().expand(memoryview(data), size) == expected
