"""The list of a blob's chunks, as NativeLink v1.6.6 stores it.

A u64 count, then of each chunk the 32 bytes of its BLAKE3 hash and its size as u64; all integers
little-endian. What is not of this form (older versions wrote texts) counts as not there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from nativelink.core.digest import MAX_SIZE_BYTES, Digest

__all__ = ["decode_index", "encode_index"]

_COUNT: Final = struct.Struct("<Q")
_CHUNK: Final = struct.Struct("<32sQ")


def encode_index(chunks: Sequence[Digest]) -> bytes:
    """The stored form of a list of chunks."""
    parts = [_COUNT.pack(len(chunks))]
    parts += [_CHUNK.pack(bytes.fromhex(hash_), size) for hash_, size in chunks]
    return b"".join(parts)


def decode_index(data: bytes) -> list[Digest] | None:
    """The list of chunks, None if `data` is none."""
    if len(data) < _COUNT.size:
        return None
    (count,) = _COUNT.unpack_from(data)
    if len(data) != _COUNT.size + _CHUNK.size * count:
        return None
    chunks = [Digest(hash_.hex(), size) for hash_, size in _CHUNK.iter_unpack(data[_COUNT.size :])]
    if any(not 0 < size <= MAX_SIZE_BYTES for _, size in chunks):
        return None
    return chunks
