"""Chunks end where the loop of the definition ends them."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.join.chunker import Chunker, _table

SIZES = [
    (1, 2, 3),
    (64, 500, 3000),
    (1000, 1001, 40_000),
    (8192, 16_384, 32_768),
    (10, 70_000, 9**6),
]


def lengths(chunker: Chunker, data: bytes) -> list[int]:
    found = []
    while data:
        found.append(chunker.cut(data))
        data = data[found[-1] :]
    return found


def defined(data: bytes, low: int, normal: int, high: int) -> list[int]:
    """The definition, byte by byte."""
    table = _table()
    bits = normal.bit_length() - 1
    hard, easy = 2 ** (bits + 1) - 1, int(2 ** (bits - 1)) - 1
    border = normal - min(normal, low + -(-low // 2))
    found = []
    while data:
        length, hash_ = len(data), 0
        for at in range(low, len(data)):
            hash_ = (hash_ >> 1) + table[data[at]]
            if hash_ & (hard if at < border else easy) == 0 or at >= high:
                length = at
                break
        found.append(length)
        data = data[length:]
    return found


def test_the_table_is_the_one_that_nativelink_uses() -> None:
    table = _table()
    assert (len(table), table[0], table[-1]) == (256, 0x5C95C078, 0x32E8EA7E)
    packed = b"".join(number.to_bytes(4, "little") for number in table)
    assert hashlib.sha256(packed).hexdigest().startswith("d499f6cd")


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", ["noise", "few", "zeros"])
def test_chunks_end_where_the_definition_says(sizes: tuple[int, int, int], kind: str) -> None:
    noise = random.Random(kind)
    data = {
        "noise": lambda: noise.randbytes(150_000),
        "few": lambda: bytes(noise.choices(range(3), k=100_000)),
        "zeros": lambda: bytes(100_000),
    }[kind]()
    if sizes[0] == 1:
        data = data[:500]
    low, normal, high = sizes
    chunker = Chunker(min_size=low, normal_size=normal, max_size=high)
    assert lengths(chunker, data) == defined(data, low, normal, high)


@given(
    st.binary(max_size=600),
    st.integers(1, 40),
    st.integers(1, 60),
    st.integers(1, 200),
)
def test_any_sizes_cut_any_bytes_as_defined(data: bytes, low: int, more: int, most: int) -> None:
    chunker = Chunker(min_size=low, normal_size=low + more, max_size=low + more + most)
    assert lengths(chunker, data) == defined(data, low, low + more, low + more + most)


def test_what_follows_the_longest_chunk_does_not_matter() -> None:
    data = random.Random(5).randbytes(100_000)
    chunker = Chunker(min_size=64, normal_size=500, max_size=3000)
    for at in range(0, 90_000, 7_001):
        assert chunker.cut(data[at:]) == chunker.cut(bytearray(data[at : at + 3000]))


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 2, 3), (2, 3, 3), (5, 4, 9)])
def test_sizes_out_of_order_are_refused(sizes: tuple[int, int, int]) -> None:
    low, normal, high = sizes
    with pytest.raises(NativeLinkError) as caught:
        Chunker(min_size=low, normal_size=normal, max_size=high)
    assert caught.value.code is Code.INVALID_ARGUMENT
