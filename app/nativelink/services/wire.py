"""Protobuf's wire format, for the messages that carry blobs.

A protobuf library copies a blob into its message and once more out of it. The few messages that
carry blobs are simple, so they are written and read here around the blob itself
(https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from nativelink.core.errors import NativeLinkError, invalid_argument
from nativelink.core.streams import Chunk
from nativelink.core.varint import varint

__all__ = ["WriteRequest", "parse_write_request", "varint"]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_INT64_SIGN: Final = 1 << 63
_UINT64: Final = (1 << 64) - 1
_MAX_VARINT_BYTES: Final = 10

_FIRST_TAG: Final = 1 << 3
_NAME_TAG: Final = 1 << 3 | _LENGTH
_OFFSET_TAG: Final = 2 << 3 | _VARINT
_FINISH_TAG: Final = 3 << 3 | _VARINT
_DATA_TAG: Final = 10 << 3 | _LENGTH


class WriteRequest(NamedTuple):
    """`google.bytestream.WriteRequest`, its data a view into the message it came in."""

    resource_name: str
    write_offset: int
    finish_write: bool
    data: memoryview


def parse_write_request(message: Chunk) -> WriteRequest:
    """Read one message of a `ByteStream.Write`; its data is not copied.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for bytes that are no such message.
    """
    view = memoryview(message)
    end = len(view)
    name, offset, finish, data = "", 0, False, view[end:]
    position = 0
    try:
        while position < end:
            tag, position = _read_varint(view, position)
            kind = tag & 7
            if kind == _LENGTH:
                size, start = _read_varint(view, position)
                position = start + size
                if tag == _DATA_TAG:
                    data = view[start:position]
                elif tag == _NAME_TAG:
                    name = str(view[start:position], "utf-8")
            elif kind == _VARINT:
                value, position = _read_varint(view, position)
                if tag == _OFFSET_TAG:
                    offset = value - (1 << 64) if value & _INT64_SIGN else value
                elif tag == _FINISH_TAG:
                    finish = value != 0
            else:
                position += _FIXED_SIZES[kind]
            if tag < _FIRST_TAG:
                raise _malformed("it has a field 0")
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise _malformed("it is cut off or garbled") from error
    if position > end:
        raise _malformed("its last field is longer than it")
    return WriteRequest(name, offset, finish, data)


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """A varint and the position after it; `IndexError` where it is cut off."""
    value = view[position]
    if value < 0x80:
        return value, position + 1
    value &= 0x7F
    for group in range(1, _MAX_VARINT_BYTES):
        byte = view[position + group]
        value |= (byte & 0x7F) << 7 * group
        if byte < 0x80:
            return value & _UINT64, position + group + 1
    raise _malformed("a number has more than ten bytes")


def _malformed(why: str) -> NativeLinkError:
    return invalid_argument(f"malformed google.bytestream.WriteRequest: {why}")
