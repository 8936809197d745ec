"""gRPC over HTTP/2: length-prefixed messages, their compression, and the call's timeout.

Source: the gRPC project's "gRPC over HTTP2" protocol description.
"""

from __future__ import annotations

import re
import zlib
from struct import Struct
from typing import Final

from nativelink.core.errors import (
    Code,
    NativeLinkError,
    internal,
    invalid_argument,
    resource_exhausted,
)
from nativelink.core.streams import Chunk

__all__ = [
    "MIN_GZIP_BYTES",
    "PREFIX_BYTES",
    "MessageReader",
    "gunzip",
    "gzip_message",
    "message_prefix",
    "parse_timeout",
    "split_prefix",
]

PREFIX_BYTES: Final = 5

#: Shorter answers are sent as they are: gzip's own frame is 18 bytes.
MIN_GZIP_BYTES: Final = 512

#: `(compressed flag, length)` of a message.
message_prefix: Final = Struct(">BI").pack
split_prefix: Final = Struct(">BI").unpack_from

_TIMEOUT: Final = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

_GZIP_WINDOW: Final = 31  # 15 bits, and gzip's header


def parse_timeout(value: bytes) -> float:
    """Seconds of a `grpc-timeout` header.

    Raises:
        NativeLinkError: INVALID_ARGUMENT.
    """
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise invalid_argument(
            f"malformed grpc-timeout {value[:40]!r}: up to 8 digits and one of H M S m u n"
        )
    return int(match[1]) * _UNITS[match[2]]


def gunzip(data: Chunk, limit: int) -> bytes:
    """Decompress one message of at most `limit` bytes; a bomb costs `limit` bytes of memory.

    Raises:
        NativeLinkError: RESOURCE_EXHAUSTED beyond the limit, INVALID_ARGUMENT for damaged data.
    """
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        message = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise invalid_argument(f"a gzip message that cannot be decompressed: {error}") from None
    if len(message) > limit:
        raise resource_exhausted(f"a message of more than the {limit} bytes allowed, decompressed")
    if not inflater.eof or inflater.unused_data:
        raise invalid_argument("a gzip message that does not end where it should")
    return message


def gzip_message(data: Chunk) -> bytes:
    """Compress one message, at the level that costs least."""
    deflater = zlib.compressobj(1, zlib.DEFLATED, _GZIP_WINDOW)
    return deflater.compress(data) + deflater.flush()


class MessageReader:
    """Cuts the body of one request into messages, one at a time, as they are asked for.

    A chunk may hold thousands of messages, and a compressed one may be a thousand times longer
    when it is inflated: none is made into an object, and none inflated, before its turn. A message
    that lies within one chunk is handed out as a slice of it; one that spans several is joined
    once.

    Args:
        limit: longest message taken, in bytes, before and after decompression.
        gzip: whether the request's `grpc-encoding` is gzip.

    Attributes:
        held: bytes of the message that is ready or not complete yet.
        ready: whether a complete one may be taken.
        unread: bytes of the last chunk behind that message.
    """

    __slots__ = (
        "_chunk",
        "_compressed",
        "_gzip",
        "_limit",
        "_missing",
        "_parts",
        "_prefix",
        "held",
        "ready",
        "unread",
    )

    def __init__(self, limit: int, *, gzip: bool = False) -> None:
        self.held = 0
        self.ready = False
        self.unread = 0
        self._limit = limit
        self._gzip = gzip
        self._chunk: Chunk = b""
        self._prefix = b""
        self._parts: list[Chunk] = []
        self._missing = 0
        self._compressed = False

    def feed(self, chunk: bytes | memoryview | bytearray) -> None:
        """Give more of the body, after `advance` said that it needs more."""
        self._chunk = bytes(chunk) if isinstance(chunk, bytearray) else chunk
        self.unread = len(chunk)

    def advance(self) -> bool:
        """Read on until a message is ready; False if more of the body is needed for that.

        Raises:
            NativeLinkError: RESOURCE_EXHAUSTED for one that is too long, INTERNAL for a
                compressed one without an encoding.
        """
        if self.ready:
            return True
        data = self._chunk
        end = len(data)
        index = end - self.unread
        if not self._missing:
            if index == end:
                return False
            if end - index < PREFIX_BYTES or self._prefix:
                piece = data[index : index + PREFIX_BYTES - len(self._prefix)]
                index += len(piece)
                self._prefix += piece
                if len(self._prefix) < PREFIX_BYTES:
                    self._forget_chunk()
                    return False
                self._open(*split_prefix(self._prefix))
                self._prefix = b""
            else:
                self._open(*split_prefix(data, index))
                index += PREFIX_BYTES
        stop = index + self._missing
        if stop > end:
            if index < end:
                self._keep(data[index:])
            self._forget_chunk()
            return False
        self._keep(data[index:stop])
        self.ready = True
        if stop == end:
            self._forget_chunk()
        else:
            self.unread = end - stop
        return True

    def take(self) -> Chunk:
        """The message that is ready, decompressed.

        Raises:
            NativeLinkError: RESOURCE_EXHAUSTED for one that is too long, INVALID_ARGUMENT for a
                damaged one.
        """
        parts, self._parts = self._parts, []
        self.ready = False
        self.held = 0
        message = parts[0] if len(parts) == 1 else b"".join(parts)
        return gunzip(message, self._limit) if self._compressed else message

    def finish(self) -> None:
        """The body ended.

        Raises:
            NativeLinkError: INVALID_ARGUMENT within a message.
        """
        if self._missing or self._prefix:
            raise invalid_argument("the request ended within a message")

    def drop(self) -> None:
        """Nobody reads on: hold nothing."""
        self._forget_chunk()
        self._parts = []
        self.ready = False
        self.held = 0

    def _forget_chunk(self) -> None:
        self._chunk = b""
        self.unread = 0

    def _keep(self, data: Chunk) -> None:
        self._parts.append(data)
        self._missing -= len(data)
        self.held += len(data)

    def _open(self, flag: int, size: int) -> None:
        """A message begins."""
        if size > self._limit:
            raise resource_exhausted(
                f"a message of {size} bytes; max_decoding_message_size allows {self._limit}"
            )
        if flag > 1:
            raise NativeLinkError(Code.INTERNAL, f"a message with the unknown flags {flag}")
        if flag and not self._gzip:
            raise internal("a compressed message without a grpc-encoding that says how")
        self._compressed = flag == 1
        self._missing = size
