"""Protobuf's variable-length numbers (https://protobuf.dev/programming-guides/encoding).

For the few messages that carry blobs and are written around the blob itself.
"""

from __future__ import annotations

from typing import Final

__all__ = ["varint"]

_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(0x80))


def varint(value: int) -> bytes:
    """A non-negative number in base 128, least significant group first."""
    if value < 0x80:
        return _ONE_BYTE[value]
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
