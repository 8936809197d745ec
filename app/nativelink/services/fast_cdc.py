"""Where REAPI's FAST_CDC_2020 cuts a blob into chunks.

Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage
Systems", IEEE TPDS 31(9), 2020, as clients and servers of the Remote Execution API agreed on it:
a least chunk of a quarter and a longest of four times the average, normalization level 2, a gear
hash of 64 bits that shifts to the left (`hash = (hash << 1) + GEAR[byte]`), and masks whose bits
are spread. (The paper's "rolling two bytes each time" is a way of computing, with one trace:
positions are counted in pairs, so an odd byte at the end of a chunk's range is not looked at.)

The masks choose bits of which none is above 47, so only the last 48 bytes matter; and a third of
them are below 32, where only the last 32 bytes do. So numpy computes the low half of the hash for
a block of positions at once, by doubling: the sum of the last 2n bytes is that of the last n and,
shifted by n, that of the n before, exactly. The few positions whose low half fits are candidates,
and for them the whole hash is computed, byte by byte, all candidates at once.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nativelink.core.errors import invalid_argument

__all__ = ["FastCdc2020"]

_Words: TypeAlias = NDArray[np.uint32]

#: Positions whose hash is computed in one go: the arrays stay in a core's cache.
_BLOCK: Final = 32 * 1024
#: Bytes that matter to the low 32 bits of a hash, and to all bits of any mask.
_LOW_WINDOW: Final = 32
_WINDOW: Final = 48
_LOW: Final = 0xFFFF_FFFF
#: How many bytes ago those of a window were.
_AGES: Final[NDArray[np.intp]] = np.arange(_WINDOW, dtype=np.intp)

#: Level 2: a mask of two bits more before the average size, and of two bits less after it.
_NORMALIZATION: Final = 2

#: The masks of the paper's authors (those from 256 KiB on are of the restic-FastCDC project), for
#: chunks of 2^8 bytes, 2^9 and so on.
_FIRST_BITS: Final = 8
_MASKS: Final = (
    0x0000_0018_0003_5300,
    0x0000_0190_0035_3000,
    0x0000_5900_0353_0000,
    0x0000_D900_0353_0000,
    0x0000_D901_0353_0000,
    0x0000_D903_0353_0000,
    0x0000_D903_1353_0000,
    0x0000_D90F_0353_0000,
    0x0000_D903_0353_7000,
    0x0000_D907_0353_7000,
    0x0000_D907_0753_7000,
    0x0000_D917_0753_7000,
    0x0000_D917_4753_7000,
    0x0000_D917_6753_7000,
    0x0000_D937_6753_7000,
)

#: What REAPI allows for the average.
_MIN_AVERAGE: Final = 1024
_MAX_AVERAGE: Final = 1024 * 1024


@cache
def _gear() -> tuple[int, ...]:
    """The 256 numbers that bytes stand for: the first half of the MD5 of 64 such bytes."""
    digests = (
        hashlib.md5(bytes([byte]) * 64, usedforsecurity=False).digest() for byte in range(256)
    )
    return tuple(int.from_bytes(digest[:8], "big") for digest in digests)


class FastCdc2020:
    """Cuts blobs; has no state but its buffers, so one serves all blobs of a loop's thread.

    Args:
        average_size: of a chunk, 1 KiB to 1 MiB. (Bazel takes powers of two only.)

    Attributes:
        min_size: no chunk but a blob's last has fewer bytes.
        average_size: as given.
        max_size: no chunk has more bytes.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for another average.
    """

    __slots__ = (
        "_hits",
        "_low_gear",
        "_mask_after",
        "_mask_before",
        "_shifted",
        "_sums",
        "_wide_gear",
        "average_size",
        "max_size",
        "min_size",
    )

    def __init__(self, average_size: int) -> None:
        if not _MIN_AVERAGE <= average_size <= _MAX_AVERAGE:
            raise invalid_argument(
                f"chunks of {average_size} bytes on average: {_MIN_AVERAGE} to {_MAX_AVERAGE} "
                "are allowed"
            )
        self.min_size = average_size // 4
        self.average_size = average_size
        self.max_size = average_size * 4
        # Of the two powers of two the one that is nearer on a logarithmic scale.
        bits = average_size.bit_length() - 1
        if average_size**2 > 2 ** (2 * bits + 1):
            bits += 1
        self._mask_before = _MASKS[bits + _NORMALIZATION - _FIRST_BITS]
        self._mask_after = _MASKS[bits - _NORMALIZATION - _FIRST_BITS]
        self._wide_gear: NDArray[np.uint64] = np.array(_gear(), np.uint64)
        self._low_gear: _Words = self._wide_gear.astype(np.uint32)
        block = _BLOCK + _LOW_WINDOW
        self._sums: _Words = np.empty(block, np.uint32)
        self._shifted: _Words = np.empty(block, np.uint32)
        self._hits: NDArray[np.bool_] = np.empty(block, np.bool_)

    def cut(self, data: bytes | bytearray | memoryview) -> int:
        """The length of the chunk that `data` begins with.

        Args:
            data: the blob from the begin of the chunk: all of it, or `max_size` bytes or more.
        """
        end = min(len(data), self.max_size)
        if end <= self.min_size:
            return end
        numbers: NDArray[np.uint8] = np.frombuffer(memoryview(data)[:end], np.uint8)
        at = _even(self.min_size)
        for mask, last in (
            (self._mask_before, _even(min(end, self.average_size))),
            (self._mask_after, _even(end)),
        ):
            while at < last:
                stop = min(at + _BLOCK, last)
                found = self._search(numbers, at, stop, mask)
                if found is not None:
                    return found
                at = stop
        return end

    def _search(self, numbers: NDArray[np.uint8], start: int, stop: int, mask: int) -> int | None:
        """The first position from `start` to `stop` at which the masked hash is zero."""
        first = max(_even(self.min_size), start - _LOW_WINDOW)
        count = stop - first
        sums, shifted, hits = self._sums[:count], self._shifted[:count], self._hits[:count]
        self._low_gear.take(numbers[first:stop], out=sums, mode="clip")
        width = 1
        while width < _LOW_WINDOW and width < count:
            np.left_shift(sums[:-width], width, out=shifted[width:])
            np.add(sums[width:], shifted[width:], out=sums[width:])
            width *= 2
        np.bitwise_and(sums, np.uint32(mask & _LOW), out=sums)
        np.equal(sums, 0, out=hits)
        candidates = np.flatnonzero(hits[start - first :])
        if not len(candidates):
            return None
        exact: NDArray[np.uint64] = self._hashes(numbers, candidates + start)
        fitting: Any = np.flatnonzero((exact & np.uint64(mask)) == 0)
        return start + int(candidates[fitting[0]]) if len(fitting) else None

    def _hashes(self, numbers: NDArray[np.uint8], positions: NDArray[np.intp]) -> Any:
        """The hashes at positions of a chunk, right in the bits that masks choose."""
        begin = _even(self.min_size)
        sources = positions[:, np.newaxis] - _AGES
        parts = self._wide_gear.take(numbers.take(sources, mode="clip")) << _AGES.astype(np.uint64)
        parts[sources < begin] = 0
        return parts.sum(axis=1)


def _even(position: int) -> int:
    return position & ~1
