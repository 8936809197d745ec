"""Zstandard (RFC 8878) of streams, one bounded piece at a time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Chunk, Sink

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    import backports.zstd as zstd

__all__ = ["Compressor", "DecompressingSink"]

#: The fastest level: a cache is written once, and a network of 10 Gbit/s is not to wait for it.
_LEVEL: Final = 1
#: A piece of output. Bounds what a small piece of input can grow to at a time.
_PIECE_BYTES: Final = 1024 * 1024
#: 50 to 100 us of work; for more the loop is left to others, as zstd releases the GIL.
_INLINE_BYTES: Final = 64 * 1024


class Compressor:
    """Makes one frame of what it is given."""

    def __init__(self) -> None:
        self._compressor = zstd.ZstdCompressor(_LEVEL)

    async def compress(self, parts: list[Chunk], *, last: bool) -> bytes:
        """What can be sent once `parts` followed what came before; `last` ends the frame."""

        def work() -> bytes:
            out = [self._compressor.compress(part) for part in parts]
            if last:
                out.append(self._compressor.flush())
            return b"".join(out)

        return await _aside(work, sum(map(len, parts)))


class DecompressingSink:
    """Takes a zstd stream, which may be several frames, and passes on what it holds.

    Args:
        sink: takes the plain bytes.
        size: how many there must be.

    Raises:
        NativeLinkError: DATA_LOSS from `write` for what is no zstd or holds more than `size`
            bytes, and from `end` if it holds less.
    """

    def __init__(self, sink: Sink, size: int) -> None:
        self._sink = sink
        self._left = size
        self._size = size
        self._decompressor = zstd.ZstdDecompressor()

    async def write(self, chunk: Chunk, /) -> None:
        data = chunk
        while data or not (self._decompressor.eof or self._decompressor.needs_input):
            if self._decompressor.eof:
                self._decompressor = zstd.ZstdDecompressor()
            plain = await self._decompress(data)
            data = self._decompressor.unused_data if self._decompressor.eof else b""
            self._left -= len(plain)
            if self._left < 0:
                raise _data_loss(f"the peer sent more than the {self._size} bytes of the blob")
            if plain:
                await self._sink.write(plain)

    async def _decompress(self, data: Chunk) -> bytes:
        """The next piece of output; what of `data` is not used up is kept inside."""
        # One byte more than may come tells whether there is too much.
        limit = min(_PIECE_BYTES, self._left + 1)
        decompressor = self._decompressor
        try:
            return await _aside(lambda: decompressor.decompress(data, limit), max(len(data), limit))
        except zstd.ZstdError as error:
            raise _data_loss(f"the peer sent what is no zstd: {error}") from error

    def end(self) -> None:
        """Check that everything came."""
        if self._left:
            raise _data_loss(
                f"the peer sent {self._size - self._left} of the blob's {self._size} bytes"
            )


def _data_loss(message: str) -> NativeLinkError:
    return NativeLinkError(Code.DATA_LOSS, message)


async def _aside(work: Callable[[], bytes], size: int) -> bytes:
    return work() if size <= _INLINE_BYTES else await asyncio.to_thread(work)
