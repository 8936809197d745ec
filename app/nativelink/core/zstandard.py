"""Zstandard (RFC 8878) of streams, one bounded piece at a time.

Of all that is known of a blob, its size comes first: what a compressed stream unpacks to is
written to nobody once it is more than that, whatever the stream's own headers say.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Final

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Chunk, Sink

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    import backports.zstd as zstd

__all__ = ["GATHERED_BYTES", "MAX_WINDOW_LOG", "CompressingSink", "Compressor", "DecompressingSink"]

#: The fastest level: a cache is written once, and a network of 10 Gbit/s is not to wait for it.
_LEVEL: Final = 1
#: A piece of output. Bounds what a small piece of input can grow to at a time.
_PIECE_BYTES: Final = 1024 * 1024
#: 50 to 100 us of work; for more the loop is left to others, as zstd releases the GIL.
_INLINE_BYTES: Final = 64 * 1024
#: What comes in small pieces is worked on when there is this much, compressed or to be compressed:
#: a hop to a thread and back costs as much as compressing 16 KiB or unpacking 64 KiB.
GATHERED_BYTES: Final = 256 * 1024
#: Input of this size is unpacked at once, up to `_INLINE_BYTES` of it: gRPC clients send as much.
_SMALL_BYTES: Final = 16 * 1024
#: Input that is looked at in one go. What stands behind the end of a frame is copied, so this
#: bounds the price of a stream of many tiny frames.
_SLICE_BYTES: Final = 256 * 1024
#: A frame costs 40 us, whatever it holds. Who makes several makes them large (pzstd and seekable
#: formats: 64 KiB and more); so after the first ones they must hold this much on average.
_FREE_FRAMES: Final = 100
_MEAN_FRAME_BYTES: Final = 4096
#: 8 MiB, in which a decoder keeps the last bytes of a stream: what RFC 8878 (3.1.1.1.2) wants
#: decoders to support and encoders not to exceed. libzstd by itself goes up to 128 MiB.
MAX_WINDOW_LOG: Final = 23


class Compressor:
    """Makes one frame of what it is given.

    Args:
        size: of all that will be given, which the frame's header says then.
    """

    def __init__(self, size: int | None = None) -> None:
        self._compressor = zstd.ZstdCompressor(_LEVEL)
        if size is not None:
            self._compressor.set_pledged_input_size(size)

    async def compress(self, parts: Sequence[Chunk], *, last: bool) -> bytes:
        """What can be sent once `parts` followed what came before; `last` ends the frame."""

        def work() -> bytes:
            out = [self._compressor.compress(part) for part in parts]
            if last:
                out.append(self._compressor.flush())
            return b"".join(out)

        return await _aside(work, sum(map(len, parts)))


class CompressingSink:
    """Passes on a zstd stream, one frame, of what it is given.

    Args:
        sink: takes the compressed bytes.
        size: how many plain bytes there will be: `end` may be called after exactly as many.

    Attributes:
        size: plain bytes taken so far.
    """

    __slots__ = ("_compressor", "_gathered", "_parts", "_sink", "size")

    def __init__(self, sink: Sink, size: int) -> None:
        self._sink = sink
        self._compressor = Compressor(size)
        self._parts: list[Chunk] = []
        self._gathered = 0
        self.size = 0

    async def write(self, chunk: Chunk, /) -> None:
        self.size += len(chunk)
        if self._gathered + len(chunk) > _PIECE_BYTES:
            await self._pass_on()
            view = memoryview(chunk)
            while len(view) > _PIECE_BYTES:
                await self._compress([view[:_PIECE_BYTES]])
                view = view[_PIECE_BYTES:]
            chunk = view
        self._parts.append(chunk)
        self._gathered += len(chunk)
        if self._gathered >= GATHERED_BYTES:
            await self._pass_on()

    async def end(self) -> None:
        """End the frame."""
        await self._compress(self._parts, last=True)

    async def _pass_on(self) -> None:
        parts, self._parts, self._gathered = self._parts, [], 0
        await self._compress(parts)

    async def _compress(self, parts: list[Chunk], *, last: bool = False) -> None:
        data = await self._compressor.compress(parts, last=last)
        if data:
            await self._sink.write(data)


class DecompressingSink:
    """Takes a zstd stream, which may be several frames, and passes on what it holds.

    Memory is a piece of output and the window that the stream asks for, never more than what was
    unpacked so far.

    Args:
        sink: takes the plain bytes.
        size: how many there must be.
        code: of the errors; INVALID_ARGUMENT where it is a client who sends.
        max_window_log: base-two logarithm of the longest window; None for libzstd's limit.

    Raises:
        NativeLinkError: `code` from `write` for what is no zstd, needs a longer window or holds
            more than `size` bytes, and from `end` if it holds less or is cut off.
    """

    __slots__ = (
        "_code",
        "_decompressor",
        "_frames",
        "_left",
        "_options",
        "_sink",
        "_size",
        "_within",
    )

    def __init__(
        self,
        sink: Sink,
        size: int,
        *,
        code: Code = Code.DATA_LOSS,
        max_window_log: int | None = None,
    ) -> None:
        self._sink = sink
        self._left = size
        self._size = size
        self._code = code
        self._options: dict[int, int] | None = None
        if max_window_log is not None:
            self._options = {zstd.DecompressionParameter.window_log_max: max_window_log}
        self._decompressor = zstd.ZstdDecompressor(options=self._options)
        self._frames = 1
        #: Whether a frame has begun and not ended.
        self._within = False

    async def write(self, chunk: Chunk, /) -> None:
        view = memoryview(chunk)
        for start in range(0, len(view), _SLICE_BYTES):
            await self._take(view[start : start + _SLICE_BYTES])

    async def _take(self, data: Chunk) -> None:
        while data or not (self._decompressor.eof or self._decompressor.needs_input):
            if self._decompressor.eof:
                await self._begin_frame()
            self._within = True
            plain = await self._decompress(data)
            data = b""
            if self._decompressor.eof:
                self._within = False
                data = self._decompressor.unused_data
            self._left -= len(plain)
            if self._left < 0:
                raise self._wrong(f"the peer sent more than the {self._size} bytes of the blob")
            if plain:
                await self._sink.write(plain)

    async def _begin_frame(self) -> None:
        unpacked = self._size - self._left
        if self._frames >= _FREE_FRAMES and unpacked < self._frames * _MEAN_FRAME_BYTES:
            raise self._wrong(
                f"the peer sent {self._frames} zstd frames with {unpacked} bytes in them; "
                f"{_FREE_FRAMES} and more must hold {_MEAN_FRAME_BYTES} bytes each on average"
            )
        self._frames += 1
        self._decompressor = zstd.ZstdDecompressor(options=self._options)
        await asyncio.sleep(0)

    async def _decompress(self, data: Chunk) -> bytes:
        """The next piece of output; what of `data` is not used up is kept inside."""
        # One byte more than may come tells whether there is too much.
        limit = min(_PIECE_BYTES, self._left + 1)
        if 0 < len(data) <= _SMALL_BYTES:
            limit = min(limit, _INLINE_BYTES)
        decompressor = self._decompressor
        try:
            return await _aside(lambda: decompressor.decompress(data, limit), max(len(data), limit))
        except zstd.ZstdError as error:
            raise self._wrong(f"the peer sent what is no zstd: {error}") from error

    def end(self) -> None:
        """Check that everything came."""
        if self._left:
            raise self._wrong(
                f"the peer sent {self._size - self._left} of the blob's {self._size} bytes"
            )
        if self._within:
            raise self._wrong("the peer sent a zstd frame without its end")

    def _wrong(self, message: str) -> NativeLinkError:
        return NativeLinkError(self._code, message)


async def _aside(work: Callable[[], bytes], size: int) -> bytes:
    return work() if size <= _INLINE_BYTES else await asyncio.to_thread(work)
