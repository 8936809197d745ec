"""The container of compressed blobs as NativeLink v1.6.6 writes it, made and read in passing.

All integers are little-endian:

- header: u8 version, u32 block size, u32 kind of the upload's size (0 exact, 1 at most), u64 that
  size;
- a frame per block: u8 0, u32 length, that many bytes of the compressed block. Each block but the
  last is as long as the header says;
- footer: u8 1, u32 length of the rest: u64 count, as many u32 (each frame's length but the
  last's), u32 count once more, u64 bytes of the whole blob, u32 block size, u8 version.

A blob is stored as one such container, so a read for a part of it begins at the front all the
same; blocks before that part are passed over without being expanded.
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import Final

from nativelink.core.errors import Code, NativeLinkError, invalid_argument, out_of_range
from nativelink.core.streams import Chunk, Sink, Source
from nativelink.stores.wrap.compression_codecs import Codec, codec_of, max_compressed_bytes

__all__ = ["TAIL_BYTES", "CompressingSource", "EnoughReadError", "ExpandingSink", "size_in_tail"]

_HEADER: Final = struct.Struct("<BIIQ")
_FRAME: Final = struct.Struct("<BI")
_COUNT: Final = struct.Struct("<Q")
_TAIL: Final = struct.Struct("<QIB")
_U32: Final = struct.Struct("<I")

_BLOCK_FRAME: Final = 0
_FOOTER_FRAME: Final = 1
_EXACT: Final = 0
_AT_MOST: Final = 1

#: What a footer has beside its lengths.
_FOOTER_BYTES: Final = _COUNT.size + _U32.size + _TAIL.size

#: The end of a container, where the size of the blob stands.
TAIL_BYTES: Final = _TAIL.size

#: Bytes compressed in one go, before others have their turn: a quarter of a millisecond of LZ4.
_PIECE_BYTES: Final = 512 * 1024


class EnoughReadError(Exception):
    """All bytes that were asked for have been passed on: reading may end."""


class CompressingSource:
    """The container of another source's bytes.

    Args:
        source: the plain bytes.
        codec: compresses the blocks.
        block_size: bytes of a block.
        max_size: what the size of a source that does not say it will not exceed.

    Attributes:
        plain_size: plain bytes read so far.
        stored_size: bytes of the container given so far.

    Raises:
        NativeLinkError: what the source raises; INVALID_ARGUMENT if it gave another number of
            bytes than it said.
    """

    __slots__ = (
        "_announced",
        "_block_size",
        "_codec",
        "_ended",
        "_lengths",
        "_out",
        "_piece",
        "_source",
        "_started",
        "_started_bytes",
        "plain_size",
        "size",
        "stored_size",
    )

    def __init__(self, source: Source, codec: Codec, *, block_size: int, max_size: int) -> None:
        self.size: int | None = None
        self.plain_size = 0
        self.stored_size = 0
        self._source = source
        self._codec = codec
        self._block_size = block_size
        self._announced = source.size
        #: What was read and not compressed yet.
        self._piece = memoryview(b"")
        #: The begin of a block whose rest was not read yet, and its size.
        self._started: list[Chunk] = []
        self._started_bytes = 0
        self._lengths = array("I")
        kind, size = (_AT_MOST, max_size) if source.size is None else (_EXACT, source.size)
        self._out = bytearray(_HEADER.pack(codec.version, block_size, kind, size))
        self._ended = False

    async def read(self) -> Chunk:
        if self._ended:
            return b""
        header_bytes = _HEADER.size if not self.stored_size else 0
        while len(self._out) <= header_bytes:
            if not self._piece:
                chunk = await self._source.read()
                if not chunk:
                    self._end()
                    break
                self.plain_size += len(chunk)
                self._piece = memoryview(chunk)
            limit = max(self._block_size, _PIECE_BYTES)
            piece, self._piece = self._piece[:limit], self._piece[limit:]
            self._compress(piece)
        out, self._out = self._out, bytearray()
        self.stored_size += len(out)
        return memoryview(out).toreadonly()

    def _compress(self, piece: memoryview) -> None:
        """Take a piece and append the blocks that are complete."""
        size = self._block_size
        start = 0
        if self._started:
            start = size - self._started_bytes
            self._started.append(piece[:start])
            self._started_bytes += len(self._started[-1])
            if self._started_bytes < size:
                return
            self._finish_started()
        end = len(piece) - (len(piece) - start) % size
        for at in range(start, end, size):
            self._append(bytes(piece[at : at + size]))
        if end < len(piece):
            self._started.append(piece[end:])
            self._started_bytes = len(piece) - end

    def _finish_started(self) -> None:
        self._append(b"".join(self._started))
        self._started.clear()
        self._started_bytes = 0

    def _append(self, block: bytes) -> None:
        out = self._out
        at = len(out)
        out += _FRAME.pack(_BLOCK_FRAME, 0)
        length = self._codec.append(block, out)
        _FRAME.pack_into(out, at, _BLOCK_FRAME, length)
        self._lengths.append(length)

    def _end(self) -> None:
        self._ended = True
        if self._announced not in (None, self.plain_size):
            raise invalid_argument(
                f"{self.plain_size} bytes came of a blob that was announced with "
                f"{self._announced} bytes"
            )
        if self._started:
            self._finish_started()
        self._out += _footer(self._lengths, self.plain_size, self._block_size, self._codec.version)


def _footer(lengths: array[int], size: int, block_size: int, version: int) -> bytes:
    """The last frame of a container whose frames have these lengths."""
    index = lengths[:-1]
    count = len(index)
    if sys.byteorder == "big":
        index.byteswap()
    return b"".join(
        (
            _FRAME.pack(_FOOTER_FRAME, _FOOTER_BYTES + _U32.size * count),
            _COUNT.pack(count),
            index.tobytes(),
            _U32.pack(count),
            _TAIL.pack(size, block_size, version),
        )
    )


def size_in_tail(tail: bytes) -> int:
    """The size of a blob, from the last `TAIL_BYTES` of its container."""
    size: int = _TAIL.unpack(tail)[0]
    return size


class ExpandingSink:
    """Takes a container and passes on what it holds, or a part of that.

    Args:
        sink: takes the plain bytes.
        max_block_size: containers of larger blocks are refused.
        offset: first byte to pass on.
        limit: how many; None: all.

    Raises:
        EnoughReadError: from `write`, when what follows is not needed.
        NativeLinkError: DATA_LOSS from `write` and `end` for what is no such container;
            OUT_OF_RANGE from `end` if `offset` lies behind the end; what `sink` raises.
    """

    __slots__ = (
        "_block_size",
        "_codec",
        "_end",
        "_ended",
        "_exact",
        "_have",
        "_kind",
        "_lengths",
        "_limit_block",
        "_needed",
        "_offset",
        "_parts",
        "_position",
        "_sink",
        "_size",
        "_skipped",
    )

    def __init__(
        self, sink: Sink, *, max_block_size: int, offset: int = 0, limit: int | None = None
    ) -> None:
        self._sink = sink
        self._offset = offset
        self._end = None if limit is None else offset + limit
        self._limit_block = max_block_size
        #: What came and was not used yet, and how much must be there before anything can be.
        self._parts: list[Chunk] = []
        self._have = 0
        self._needed = _HEADER.size
        #: Of the frame whose rest comes next; None before its first bytes.
        self._kind: int | None = None
        self._codec: Codec | None = None
        self._block_size = 0
        self._exact: int | None = None
        self._lengths = array("I")
        #: Where the next block begins in the blob.
        self._position = 0
        self._skipped = False
        self._ended = False
        self._size = 0

    async def write(self, chunk: Chunk, /) -> None:
        view = memoryview(chunk)
        size, at = len(view), 0
        while True:
            needed = self._needed
            if self._parts:
                # Only what is cut by the border of two chunks is copied.
                part = view[at : at + needed - self._have]
                self._parts.append(part)
                self._have += len(part)
                at += len(part)
                if self._have < needed:
                    return
                item = memoryview(b"".join(self._parts))
                self._parts.clear()
            elif size - at < needed:
                if at < size:
                    self._parts.append(view[at:])
                    self._have = size - at
                return
            else:
                item = view[at : at + needed]
                at += needed
            block = self._take(item)
            if block:
                await self._sink.write(block)

    def end(self) -> None:
        """Say that the container is over."""
        if not self._ended or self._parts:
            raise _damaged("it ends in the middle")
        if self._offset > self._size:
            raise out_of_range(f"offset {self._offset} is beyond the {self._size} bytes")

    def _take(self, item: memoryview) -> Chunk | None:
        """Take the next thing whole: the header, or a frame's first bytes, or its rest.

        Returns:
            What is to be passed on, if anything.
        """
        if self._codec is None:
            self._header(item)
        elif self._kind is None:
            self._frame(item)
        else:
            kind, self._kind = self._kind, None
            self._needed = _FRAME.size
            if kind == _BLOCK_FRAME:
                return self._block(item)
            self._footer(bytes(item))
        return None

    def _header(self, data: memoryview) -> None:
        version, self._block_size, kind, size = _HEADER.unpack_from(data)
        self._codec = codec_of(version)
        if self._codec is None:
            raise _damaged(f"its version is {version}")
        if not 0 < self._block_size <= self._limit_block:
            raise _damaged(
                f"its blocks have {self._block_size} bytes, {self._limit_block} are allowed"
            )
        if kind == _EXACT:
            self._exact = size
        elif kind != _AT_MOST:
            raise _damaged(f"the kind of its size is {kind}")
        self._needed = _FRAME.size

    def _frame(self, data: memoryview) -> None:
        """Look at a frame's first bytes."""
        kind, length = _FRAME.unpack(data)
        if self._ended:
            raise _damaged("something follows its end")
        if kind == _BLOCK_FRAME:
            if not 0 < length <= max_compressed_bytes(self._block_size):
                raise _damaged(f"a block of {self._block_size} bytes takes {length}")
            if self._end is not None and self._position >= self._end:
                raise EnoughReadError
        elif kind != _FOOTER_FRAME:
            raise _damaged(f"there is a frame of kind {kind}")
        elif length != _FOOTER_BYTES + _U32.size * max(len(self._lengths) - 1, 0):
            raise _damaged(f"{len(self._lengths)} blocks have a footer of {length} bytes")
        self._kind = kind
        self._needed = length

    def _block(self, data: memoryview) -> Chunk | None:
        """What is wanted of a block, if anything."""
        if self._lengths and self._position != len(self._lengths) * self._block_size:
            raise _damaged("a block in the middle is short")
        self._lengths.append(len(data))
        position = self._position
        if position + self._block_size <= self._offset:
            # Whether it is the last one, and shorter, the footer will say.
            self._position += self._block_size
            self._skipped = True
            return None
        assert self._codec is not None
        block = self._codec.expand(data, self._block_size)
        self._position += len(block)
        self._skipped = False
        if self._offset > position or (self._end is not None and self._end < self._position):
            last = None if self._end is None else self._end - position
            block = memoryview(block)[max(0, self._offset - position) : last]
        return block

    def _footer(self, data: bytes) -> None:
        self._ended = True
        self._size = size_in_tail(data[-TAIL_BYTES:])
        if (
            self._codec is None
            or data
            != _footer(self._lengths, self._size, self._block_size, self._codec.version)[
                _FRAME.size :
            ]
        ):
            raise _damaged("its footer does not fit what comes before")
        first = max(len(self._lengths) - 1, 0) * self._block_size
        if self._skipped:
            if not first < self._size <= self._position:
                raise _damaged(f"its footer says {self._size} bytes")
        elif self._size != self._position:
            raise _damaged(f"it holds {self._position} bytes, its footer says {self._size}")
        if self._exact not in (None, self._size):
            raise _damaged(f"it holds {self._size} bytes, its header says {self._exact}")


def _damaged(what: str) -> NativeLinkError:
    return NativeLinkError(Code.DATA_LOSS, f"a stored compressed blob is damaged: {what}")
