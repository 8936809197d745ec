"""A stream of bytes cut into chunks."""

from __future__ import annotations

import asyncio
from typing import Protocol

from nativelink.core.streams import Source

__all__ = ["CutsChunks", "Cutting"]


class CutsChunks(Protocol):
    """Decides where a chunk ends, by its bytes alone."""

    @property
    def max_size(self) -> int:
        """No chunk has more bytes."""
        ...

    def cut(self, data: bytearray, /) -> int:
        """The length of the chunk that `data` begins with.

        `data` are all bytes that are left of a blob, or `max_size` of them or more.
        """
        ...


class Cutting:
    """Cuts what a source gives, batch by batch.

    Attributes:
        batch: the chunks of the last cut; none at the end of the source.
        size: bytes read so far.
    """

    __slots__ = ("_buffer", "_chunker", "_count", "_ended", "_piece", "_source", "batch", "size")

    def __init__(self, source: Source, chunker: CutsChunks, count: int) -> None:
        self._source = source
        self._chunker = chunker
        self._count = count
        self._buffer = bytearray()
        #: What is left of the last piece: a store in memory gives a whole blob as one.
        self._piece = memoryview(b"")
        self._ended = False
        self.batch: list[bytes] = []
        self.size = 0

    async def cut(self) -> None:
        """Make the next batch."""
        buffer, max_size = self._buffer, self._chunker.max_size
        self.batch = []
        while len(self.batch) < self._count:
            while len(buffer) < max_size and not self._ended:
                if not self._piece:
                    self._piece = memoryview(await self._source.read())
                    self.size += len(self._piece)
                    self._ended = not self._piece
                buffer += self._piece[:max_size]
                self._piece = self._piece[max_size:]
            if not buffer:
                return
            length = self._chunker.cut(buffer)
            with memoryview(buffer) as view:
                self.batch.append(bytes(view[:length]))
            del buffer[:length]
            # About a millisecond of work for 512 KiB: others have their turn.
            await asyncio.sleep(0)
