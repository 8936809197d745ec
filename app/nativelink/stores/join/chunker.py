"""Where NativeLink v1.6.6's dedup store cuts a blob into chunks.

A variant of FastCDC (Xia et al., "FastCDC: a fast and efficient content-defined chunking approach
for data deduplication", 2016) with a gear hash that shifts to the right. Within a chunk, from the
byte `min_size` on, `hash = (hash >> 1) + TABLE[byte]`; the chunk ends before the first byte at
which the low bits of the hash are zero, at `max_size`, or at the end of the blob. Nearer to the
chunk's begin than `normal` more bits must be zero than later, so most lengths are near the average.

A loop over bytes is what Python cannot run, so numpy computes the hash of a block of positions
at a time, by doubling: the sum of the last 2n bytes is that of the last n and, shifted by n, that
of the n before. Shifting piecewise rounds down more often than the loop does; where that could
matter (8 positions of 2^17 with the default sizes), the loop itself decides. `docs/adr` has the
measurements.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from nativelink.core.errors import invalid_argument

__all__ = ["Chunker"]

_Words: TypeAlias = NDArray[np.uint32]

#: Bytes whose hash is computed in one go: the arrays stay in a core's cache.
_BLOCK: Final = 32 * 1024

#: The hash is of 32 bits, of which each byte's part moves one to the right with each byte after
#: it: what is 32 bytes old is gone, but for the carry.
_WINDOW: Final = 32

#: Five doublings round down by less than 7 in all, and what is older than the window adds less
#: than 1. Half of this is added to each number of the table, which makes just under this of it in
#: the sum; so the sum is never less than the hash, and by no more than this above it.
_SLACK: Final = 8


@cache
def _table() -> tuple[int, ...]:
    """The 256 numbers that bytes stand for.

    They are the first 1024 bytes of AES-256's key stream in counter mode, key and counter zero, as
    big-endian numbers without their top bit.
    """
    stream = Cipher(algorithms.AES256(bytes(32)), modes.CTR(bytes(16))).encryptor()
    numbers = np.frombuffer(stream.update(bytes(1024)), dtype=">u4") & 0x7FFF_FFFF
    return tuple(int(number) for number in numbers)


class Chunker:
    """Cuts blobs; has no state but its buffers, so one serves all transfers of a loop's thread.

    Args:
        min_size: no chunk but a blob's last has fewer bytes.
        normal_size: what most chunks are about as long as.
        max_size: no chunk has more bytes.

    Raises:
        NativeLinkError: INVALID_ARGUMENT unless `0 < min_size < normal_size < max_size`.
    """

    __slots__ = (
        "_easy_mask",
        "_hard_mask",
        "_hits",
        "_min",
        "_normal",
        "_shifted",
        "_sums",
        "_table",
        "_words",
        "max_size",
    )

    def __init__(self, *, min_size: int, normal_size: int, max_size: int) -> None:
        if not 0 < min_size < normal_size < max_size:
            raise invalid_argument(
                f"chunks of {min_size} to {max_size}, normally {normal_size} bytes: each must be "
                "larger than the one before"
            )
        self.max_size = max_size
        self._min = min_size
        self._normal = normal_size - min(normal_size, min_size + (min_size + 1) // 2)
        bits = normal_size.bit_length() - 1
        self._hard_mask = 2 ** (bits + 1) - 1
        self._easy_mask = 2 ** max(bits - 1, 0) - 1
        self._table = _table()
        self._words: _Words = np.array(self._table, np.uint32) + np.uint32(_SLACK // 2)
        block = min(_BLOCK, max_size) + _WINDOW
        self._sums: _Words = np.empty(block, np.uint32)
        self._shifted: _Words = np.empty(block, np.uint32)
        self._hits: NDArray[np.bool_] = np.empty(block, np.bool_)

    def cut(self, data: bytes | bytearray | memoryview) -> int:
        """The length of the chunk that `data` begins with.

        Args:
            data: the blob from the begin of the chunk: all of it, or `max_size` bytes or more.
        """
        view = memoryview(data)
        end = min(len(view), self.max_size)
        at = self._min
        if end <= at:
            return end
        numbers: NDArray[np.uint8] = np.frombuffer(view[:end], np.uint8)
        while at < end:
            if at < self._normal:
                mask, stop = self._hard_mask, min(at + _BLOCK, end, self._normal)
            else:
                mask, stop = self._easy_mask, min(at + _BLOCK, end)
            found = self._search(view, numbers, at, stop, mask)
            if found is not None:
                return found
            at = stop
        return end

    def _search(
        self, view: memoryview, numbers: NDArray[np.uint8], start: int, stop: int, mask: int
    ) -> int | None:
        """The first position from `start` to `stop` at which the masked hash is zero."""
        first = max(self._min, start - _WINDOW)
        count = stop - first
        sums, shifted, hits = self._sums[:count], self._shifted[:count], self._hits[:count]
        self._words.take(numbers[first:stop], out=sums, mode="clip")
        for width in (1, 2, 4, 8, 16):
            if width < count:
                np.right_shift(sums[:-width], width, out=shifted[width:])
                np.add(sums[width:], shifted[width:], out=sums[width:])
        np.bitwise_and(sums, mask, out=sums)
        np.less_equal(sums, _SLACK, out=hits)
        hits[: start - first] = False
        if not hits.any():
            return None
        candidates: Any = np.flatnonzero(hits)
        for candidate in candidates.tolist():
            position: int = first + candidate
            if self._hash(view, position) & mask == 0:
                return position
        return None

    def _hash(self, view: memoryview, position: int) -> int:
        """The hash at a position of a chunk, exactly.

        Begun from the least and from the greatest hash somewhere before, it soon is the same, and
        then is right: with growing hashes each step gives growing hashes.
        """
        table = self._table
        length = 3 * _WINDOW // 2
        while True:
            first = position - length
            low, high = 0, 0xFFFF_FFFF
            if first <= self._min:
                first, high = self._min, 0
            for byte in view[first : position + 1]:
                low = (low >> 1) + table[byte]
                high = (high >> 1) + table[byte]
            if low == high:
                return low
            length *= 2
