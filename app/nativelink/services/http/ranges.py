"""Which part of a value a request asks for (RFC 9110 section 14)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["Part", "UnsatisfiableError", "parse_range"]

# One range; digits enough for any file.
_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


class Part(NamedTuple):
    """A part of a value.

    Attributes:
        offset: its first byte.
        length: how many there are, at least one.
    """

    offset: int
    length: int


class UnsatisfiableError(Exception):
    """No byte of the value lies in the range."""


def parse_range(text: str, size: int) -> Part | None:
    """The part of a value of `size` bytes; None if the whole is to be sent.

    What is malformed, of another unit, or several ranges at once is passed over, as a server may.

    Raises:
        UnsatisfiableError: the range begins behind the end, or is empty.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        if not length:
            raise UnsatisfiableError
        return Part(size - length, length)
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None
    if first >= size:
        raise UnsatisfiableError
    return Part(first, last + 1 - first)
