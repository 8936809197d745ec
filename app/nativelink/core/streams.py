"""Byte streams: reads push into a `Sink`, writes pull from a `Source`.

A whole transfer is one coroutine, so a time-out, a metric, a tee or a cancellation needs no hook
of its own. Chunks are immutable once handed over: whoever receives one may keep it without a copy.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, TypeAlias

from nativelink.core.errors import Code, NativeLinkError, invalid_argument

__all__ = [
    "BytesSink",
    "BytesSource",
    "Chunk",
    "CountingSink",
    "LimitedSource",
    "NullSink",
    "Pipe",
    "Sink",
    "Source",
    "drain",
]

#: A piece of a blob. Never mutated after it was handed over.
Chunk: TypeAlias = bytes | memoryview


class Sink(Protocol):
    """Takes a blob piece by piece; awaiting `write` is the backpressure."""

    async def write(self, chunk: Chunk, /) -> None:
        """Take one non-empty piece.

        Raises:
            NativeLinkError: what made the receiver give up; the sender stops.
        """
        ...


class Source(Protocol):
    """Gives a blob piece by piece."""

    @property
    def size(self) -> int | None:
        """How many bytes `read` will give in all, if that is known for certain."""
        ...

    async def read(self) -> Chunk:
        """The next piece; `b""` is the end, and stays the end."""
        ...


class BytesSink:
    """Collects a blob in memory; `limit` bounds it.

    Raises:
        NativeLinkError: RESOURCE_EXHAUSTED from `write` when more than `limit` bytes arrive.
    """

    __slots__ = ("_chunks", "_limit", "_size")

    def __init__(self, limit: int | None = None) -> None:
        self._chunks: list[Chunk] = []
        self._size = 0
        self._limit = limit

    async def write(self, chunk: Chunk, /) -> None:
        self._size += len(chunk)
        if self._limit is not None and self._size > self._limit:
            raise NativeLinkError(
                Code.RESOURCE_EXHAUSTED, f"blob exceeds the {self._limit} bytes allowed here"
            )
        self._chunks.append(chunk)

    @property
    def size(self) -> int:
        """Bytes taken so far."""
        return self._size

    def getvalue(self) -> bytes:
        """What was written; a single `bytes` chunk is given back as it is."""
        if len(self._chunks) == 1:
            only = self._chunks[0]
            return only if isinstance(only, bytes) else bytes(only)
        return b"".join(self._chunks)


class NullSink:
    """Counts and forgets."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0

    async def write(self, chunk: Chunk, /) -> None:
        self.size += len(chunk)


class CountingSink:
    """Passes everything on and counts it.

    Attributes:
        size: bytes that the receiver took.
        failed: whether the receiver raised: an error that comes out of a transfer is its error
            then, and no fault of the sender.
    """

    __slots__ = ("_sink", "failed", "size")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.size = 0
        self.failed = False

    async def write(self, chunk: Chunk, /) -> None:
        try:
            await self._sink.write(chunk)
        except BaseException:
            self.failed = True
            raise
        self.size += len(chunk)


class BytesSource:
    """A blob in memory, given as one piece."""

    __slots__ = ("_data", "size")

    def __init__(self, data: Chunk) -> None:
        self._data = data
        self.size: int | None = len(data)

    async def read(self) -> Chunk:
        data, self._data = self._data, b""
        return data


class LimitedSource:
    """A source that must give exactly `size` bytes.

    Raises:
        NativeLinkError: INVALID_ARGUMENT from `read` as soon as there are more, or at an end
            that comes too early.
    """

    __slots__ = ("_left", "_source", "size")

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._left = size
        self.size: int | None = size

    async def read(self) -> Chunk:
        chunk = await self._source.read()
        if chunk:
            self._left -= len(chunk)
            if self._left < 0:
                raise invalid_argument(f"more than the {self.size} bytes announced were sent")
        elif self._left:
            raise invalid_argument(
                f"only {(self.size or 0) - self._left} of the {self.size} bytes announced were sent"
            )
        return chunk


class Pipe:
    """A sink joined to a source: `write` returns when no more than `capacity_bytes` wait.

    By default that is when the chunk was taken. One chunk is the least that lets both sides run
    at once, so memory is one chunk whatever the blob's size; with a capacity, small chunks travel
    several at a time, which saves most of the switching to and fro. Either side may give up:
    `close` ends the stream for the reader, `fail` makes the reader raise, `abandon` makes the
    writer raise. Single writer, single reader.
    """

    __slots__ = (
        "_capacity_bytes",
        "_chunks",
        "_closed",
        "_error",
        "_reader",
        "_waiting_bytes",
        "_writer",
        "size",
    )

    def __init__(self, size: int | None = None, *, capacity_bytes: int = 0) -> None:
        self.size = size
        self._capacity_bytes = capacity_bytes
        self._chunks: deque[Chunk] = deque()
        self._waiting_bytes = 0
        self._closed = False
        self._error: BaseException | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    async def write(self, chunk: Chunk, /) -> None:
        """Hand one chunk over, and wait while too much was not taken yet."""
        if self._error is not None:
            raise self._error
        if not chunk:
            return
        self._chunks.append(chunk)
        self._waiting_bytes += len(chunk)
        self._wake_reader()
        if self._waiting_bytes > self._capacity_bytes:
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    def close(self) -> None:
        """No more chunks will come."""
        self._closed = True
        self._wake_reader()

    def fail(self, error: BaseException) -> None:
        """The writer failed: the reader raises `error` at its next read."""
        self._error = error
        self._chunks.clear()
        self._wake_reader()

    def abandon(self, error: BaseException) -> None:
        """The reader gave up: the writer raises `error` at this or its next write."""
        self._error = error
        self._chunks.clear()
        if self._writer is not None and not self._writer.done():
            self._writer.set_exception(error)

    async def read(self) -> Chunk:
        while True:
            if self._chunks:
                chunk = self._chunks.popleft()
                self._waiting_bytes -= len(chunk)
                if (
                    self._writer is not None
                    and self._waiting_bytes <= self._capacity_bytes
                    and not self._writer.done()
                ):
                    self._writer.set_result(None)
                return chunk
            if self._error is not None:
                raise self._error
            if self._closed:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


async def drain(source: Source) -> int:
    """Read a source to its end and forget it; returns the number of bytes."""
    size = 0
    while chunk := await source.read():
        size += len(chunk)
    return size
