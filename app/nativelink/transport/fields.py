"""HPACK (RFC 7541): the decoder of header blocks, and constant blocks for what we answer.

Our own loop around the `hpack` package's Huffman machine. That package decodes a field at a time
through several calls and log lines; a block of a Bazel request costs it ten times what it costs
here, and it does not say whether a block changed the dynamic table, which is what the cache of
decoded blocks (`headers.py`) lives on.

We encode nothing but literals that no table keeps: the few blocks that a gRPC server answers are
constants, built once.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE
from hpack.table import HeaderTable

__all__ = [
    "DEFAULT_TABLE_SIZE",
    "Field",
    "FieldBombError",
    "FieldDecoder",
    "FieldDecodingError",
    "encode_fields",
]

#: A name and a value as they stand in the block.
Field: TypeAlias = tuple[bytes, bytes]

#: RFC 9113 section 6.5.2: what a peer may use before it hears otherwise. We never say otherwise.
DEFAULT_TABLE_SIZE: Final = 4096

# RFC 7541 section 4.1: an entry counts its octets and 32 more.
_ENTRY_OVERHEAD: Final = 32

_STATIC: Final[list[Field]] = [
    (bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE
]
_STATIC_LENGTH: Final = len(_STATIC)

# RFC 9113 section 8.2.1: what a name may consist of. Upper case is malformed.
_is_name: Final = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch


# A list so many times too long is no mistake but an attack, and not decoded to its end.
_BOMB_FACTOR: Final = 4


class FieldDecodingError(Exception):
    """The block is no HPACK; the connection's table is lost with it (COMPRESSION_ERROR)."""


class FieldBombError(Exception):
    """A list beyond reason; decoding stopped, so the table is lost (ENHANCE_YOUR_CALM)."""


def _decode_integer(block: bytes, index: int, prefix: int) -> tuple[int, int]:
    """RFC 7541 section 5.1; more than four continuation octets mean nothing that we could hold."""
    limit = (1 << prefix) - 1
    value = block[index] & limit
    index += 1
    if value < limit:
        return value, index
    for shift in (0, 7, 14, 21):
        octet = block[index]
        index += 1
        value += (octet & 127) << shift
        if octet < 128:
            return value, index
    raise FieldDecodingError("an integer of more than five octets")


def _is_value(value: bytes) -> bool:
    """RFC 9113 section 8.2.1: no NUL, CR or LF anywhere, no space or tab at either end."""
    return (
        b"\0" not in value
        and b"\n" not in value
        and b"\r" not in value
        and value[:1] not in _BLANKS
        and value[-1:] not in _BLANKS
    )


_BLANKS: Final = frozenset((b" ", b"\t"))


class _Huffman:
    """A byte-at-a-time machine made, as it is needed, of `hpack`'s nibble-at-a-time one."""

    def __init__(self) -> None:
        # A state is its row: 256 steps by octet, each made when it is first taken, of the next
        # row, what the step emits, and whether the text may end after it. Behind them, the
        # state's number.
        self._rows: list[list[Any]] = [
            [*[None] * 256, state] for state in range(len(HUFFMAN_TABLE) // 16)
        ]

    def decode(self, data: bytes) -> bytes:
        row = self._rows[0]
        complete = True
        out: list[bytes] = []
        for octet in data:
            step = row[octet]
            if step is None:
                step = row[octet] = self._step(row[256], octet)
            row, emitted, complete = step
            out.append(emitted)
        if not complete:
            raise FieldDecodingError("Huffman text that ends within a symbol")
        return b"".join(out)

    def _step(self, state: int, octet: int) -> tuple[list[Any], bytes, bool]:
        emitted = b""
        complete = False
        for nibble in (octet >> 4, octet & 15):
            state, flags, symbol = HUFFMAN_TABLE[state * 16 + nibble]
            if flags & HUFFMAN_FAIL:
                raise FieldDecodingError("no Huffman code")
            if flags & HUFFMAN_EMIT_SYMBOL:
                emitted += symbol.to_bytes(1, "big")
            complete = bool(flags & HUFFMAN_COMPLETE)
        return self._rows[state], emitted, complete


# Pure memoization of a constant table, so one for all connections.
_huffman_decode: Final = _Huffman().decode


def _text(block: bytes, index: int) -> tuple[bytes, int]:
    """RFC 7541 section 5.2."""
    huffman = block[index] & 0x80
    length = block[index] & 0x7F
    if length == 0x7F:
        length, index = _decode_integer(block, index, 7)
    else:
        index += 1
    end = index + length
    if end > len(block):
        raise FieldDecodingError("a text longer than its block")
    text = block[index:end]
    return (_huffman_decode(text) if huffman else text), end


class FieldDecoder:
    """One connection's decoder: its dynamic table, and what the last block did to it.

    Args:
        max_list_bytes: the most that a decoded list may count by RFC 9113 section 10.5.1 (octets
            and 32 for each field).

    Attributes:
        table_changed: whether the last block changed the dynamic table.
        oversized: whether the last list passed `max_list_bytes`; its rest was decoded for the
            table's sake and dropped.
        malformed: whether the last list held a field that RFC 9113 section 8.2.1 forbids.
    """

    def __init__(self, max_list_bytes: int) -> None:
        self.table_changed = False
        self.oversized = False
        self.malformed = False
        self._max_list_bytes = max_list_bytes
        self._entries: deque[Field] = deque()
        self._size = 0
        self._capacity = DEFAULT_TABLE_SIZE
        # Fields are checked when they are spelled out, not when a later block points at them,
        # unless a forbidden one got into the table.
        self._tainted = False

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a whole block, in order.

        Raises:
            FieldDecodingError: the table is then unusable.
            FieldBombError: as well (CVE-2016-6581: small blocks that name large entries).
        """
        try:
            return self._decode(block)
        except IndexError:
            raise FieldDecodingError("a block that ends within a field") from None

    def _decode(self, block: bytes) -> list[Field]:
        self.table_changed = self.oversized = self.malformed = False
        fields: list[Field] = []
        entries = self._entries
        left = self._max_list_bytes
        bomb = -(_BOMB_FACTOR - 1) * left
        index = 0
        end = len(block)
        while index < end:
            octet = block[index]
            if octet & 0x80:
                number = octet & 0x7F
                index += 1
                if number == 0x7F:
                    number, index = _decode_integer(block, index - 1, 7)
                field = (
                    _STATIC[number - 1] if 0 < number <= _STATIC_LENGTH else self._dynamic(number)
                )
            elif octet & 0xE0 == 0x20:
                if fields or self.oversized:
                    raise FieldDecodingError("a table size update after a field")
                size, index = _decode_integer(block, index, 5)
                if size > DEFAULT_TABLE_SIZE:
                    raise FieldDecodingError(
                        f"a table of {size} octets; {DEFAULT_TABLE_SIZE} are allowed"
                    )
                self._capacity = size
                self._evict(0)
                self.table_changed = True
                continue
            else:
                kept = octet & 0x40
                limit = 0x3F if kept else 0x0F
                number = octet & limit
                index += 1
                if number == limit:
                    number, index = _decode_integer(block, index - 1, 6 if kept else 4)
                if number:
                    name = (
                        _STATIC[number - 1] if number <= _STATIC_LENGTH else self._dynamic(number)
                    )[0]
                    malformed = False
                else:
                    name, index = _text(block, index)
                    malformed = _is_name(name) is None
                value, index = _text(block, index)
                field = (name, value)
                if malformed or not _is_value(value):
                    malformed = self.malformed = True
                if kept:
                    self.table_changed = True
                    size = len(name) + len(value) + _ENTRY_OVERHEAD
                    self._evict(size)
                    if size <= self._capacity:
                        entries.appendleft(field)
                        self._size += size
                        self._tainted = self._tainted or malformed
            left -= len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
            if left >= 0:
                fields.append(field)
            else:
                self.oversized = True
                if left < bomb:
                    raise FieldBombError(
                        f"a header list of more than {_BOMB_FACTOR} times the "
                        f"{self._max_list_bytes} octets allowed"
                    )
        if self._tainted and not self.malformed:
            self.malformed = any(
                _is_name(name) is None or not _is_value(value) for name, value in fields
            )
        return fields

    def _dynamic(self, number: int) -> Field:
        position = number - _STATIC_LENGTH - 1
        if not 0 <= position < len(self._entries):
            raise FieldDecodingError(f"no entry {number} in the table")
        return self._entries[position]

    def _evict(self, size: int) -> None:
        """Make room for an entry of `size` (RFC 7541 section 4.4)."""
        entries = self._entries
        while entries and self._size + size > self._capacity:
            name, value = entries.pop()
            self._size -= len(name) + len(value) + _ENTRY_OVERHEAD


_STATUS_INDEX: Final = {
    value: index + 1 for index, (name, value) in enumerate(_STATIC) if name == b":status"
}


def _encode_integer(value: int, prefix: int, first: int) -> bytes:
    limit = (1 << prefix) - 1
    if value < limit:
        return bytes((first | value,))
    out = bytearray((first | limit,))
    value -= limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_fields(fields: Iterable[Field]) -> bytes:
    """A block of literals that enter no table: right on every connection, whatever its state."""
    out: list[bytes] = []
    for name, value in fields:
        if name == b":status" and value in _STATUS_INDEX:
            out.append(bytes((0x80 | _STATUS_INDEX[value],)))
        else:
            out += (
                b"\x00",
                _encode_integer(len(name), 7, 0),
                name,
                _encode_integer(len(value), 7, 0),
                value,
            )
    return b"".join(out)
