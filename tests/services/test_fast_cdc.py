"""Chunks end where FAST_CDC_2020 ends them, byte for byte."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.fast_cdc import _MASKS, FastCdc2020, _gear

_WORD = 2**64 - 1


def lengths(chunker: FastCdc2020, data: bytes) -> list[int]:
    found, view = [], memoryview(data)
    while view:
        found.append(chunker.cut(view))
        view = view[found[-1] :]
    return found


def defined(data: bytes, average: int, before: int, after: int) -> list[int]:
    """The definition as the paper has it, two bytes a step; masks as arguments."""
    gear, found = _gear(), []
    low, high = average // 4, average * 4
    while data:
        left = min(len(data), high)
        length, hash_ = left, 0
        for index in range(low // 2, left // 2) if left > low else ():
            mask = before if index < min(left, average) // 2 else after
            even, odd = data[2 * index], data[2 * index + 1]
            hash_ = ((hash_ << 2) + (gear[even] << 1)) & _WORD
            if not hash_ & mask << 1:
                length = 2 * index
                break
            hash_ = (hash_ + gear[odd]) & _WORD
            if not hash_ & mask:
                length = 2 * index + 1
                break
        found.append(length)
        data = data[length:]
    return found


#: Average, the masks that belong to it: of two bits more, and of two bits less.
SIZES = [
    (1024, 0x0000D90103530000, 0x0000001800035300),
    (1447, 0x0000D90103530000, 0x0000001800035300),
    (1449, 0x0000D90303530000, 0x0000019000353000),
    (2049, 0x0000D90303530000, 0x0000019000353000),
    (16_384, 0x0000D90303537000, 0x0000D90103530000),
]


def test_the_table_is_the_one_of_the_papers_authors() -> None:
    table = _gear()
    assert (len(table), table[0], table[1], table[3]) == (
        256,
        0x3B5D3C7D207E37DC,
        0x784D68BA91123086,
        0xEACF8E4E19FDCCA7,
    )
    # From 256 bytes to 4 MiB, and never fewer bits for larger chunks.
    counts = [mask.bit_count() for mask in _MASKS]
    assert len(_MASKS) == 15
    assert counts == sorted(counts)
    assert max(_MASKS).bit_length() == 48


@pytest.mark.parametrize(("average", "before", "after"), SIZES)
@pytest.mark.parametrize("kind", ["noise", "few", "zeros"])
def test_chunks_end_where_the_definition_says(
    average: int, before: int, after: int, kind: str
) -> None:
    noise = random.Random(kind)
    data = {
        "noise": lambda: noise.randbytes(80_000),
        "few": lambda: bytes(noise.choices(range(3), k=80_000)),
        "zeros": lambda: bytes(70_001),
    }[kind]()
    assert lengths(FastCdc2020(average), data) == defined(data, average, before, after)


@settings(max_examples=50)
@given(st.binary(max_size=1500), st.integers(0, 4), st.integers(0, 3))
def test_any_bytes_are_cut_as_defined(data: bytes, size: int, repeat: int) -> None:
    average, before, after = SIZES[min(size, 3)]
    data *= 1 + repeat
    assert lengths(FastCdc2020(average), data) == defined(data, average, before, after)


def test_the_chunks_of_half_a_mebibyte_are_those_of_other_implementations() -> None:
    # The lengths were computed by pyfastcdc 0.3.1 (FastCDC(524288, normalized_chunking=2)).
    data = random.Random(2020).randbytes(2_500_000)
    assert lengths(FastCdc2020(512 * 1024), data) == [700_820, 579_651, 546_978, 586_810, 85_741]


def test_what_follows_the_longest_chunk_does_not_matter() -> None:
    data = random.Random(5).randbytes(60_000)
    chunker = FastCdc2020(1024)
    assert (chunker.min_size, chunker.average_size, chunker.max_size) == (256, 1024, 4096)
    for at in range(0, 50_000, 7_001):
        assert chunker.cut(data[at:]) == chunker.cut(bytearray(data[at : at + 4096]))


@pytest.mark.parametrize("average", [0, 1023, 1024 * 1024 + 1])
def test_averages_that_clients_would_not_take_are_refused(average: int) -> None:
    with pytest.raises(NativeLinkError, match="1024 to 1048576 are allowed") as caught:
        FastCdc2020(average)
    assert caught.value.code is Code.INVALID_ARGUMENT
