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
from nativelink.core.streams import Chunk, Sink, Source

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    import backports.zstd as zstd

__all__ = [
    "GATHERED_BYTES",
    "MAX_WINDOW_LOG",
    "CompressingSink",
    "Compressor",
    "DecompressingSink",
    "DecompressingSource",
    "Decompressor",
]

#: The fastest level: a cache is written once, and a network of 10 Gbit/s is not to wait for it.
_LEVEL: Final = 1
#: A piece of output. Bounds what a small piece of input can grow to at a time.
_PIECE_BYTES: Final = 1024 * 1024
#: 50 to 100 us of work; for more the loop is left to others, as zstd releases the GIL.
_INLINE_BYTES: Final = 64 * 1024
#: What comes in small pieces is worked on when there is this much, compressed or to be compressed:
#: a hop to a thread and back costs as much as compressing 16 KiB or unpacking 64 KiB.
GATHERED_BYTES: Final = 256 * 1024
#: Input of this size is unpacked at once, in pieces of `_INLINE_BYTES`, as long as it does not
#: become many of them. gRPC clients send as much.
_SMALL_BYTES: Final = 16 * 1024
_INLINE_PIECES: Final = 4
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


class Decompressor:
    """Unpacks a zstd stream, which may be several frames, a bounded piece at a time.

    Everything that unpacks is made of this, so what is refused is the same everywhere. Memory is
    a piece of output, what was fed, and the window that the stream asks for.

    Args:
        size: how many plain bytes there must be; None where that is not known.
        code: of the errors; INVALID_ARGUMENT where it is a client who sends.
        max_window_log: base-two logarithm of the longest window; None for libzstd's limit.
        slice_bytes: of what is fed, looked at in one go.
    """

    __slots__ = (
        "_code",
        "_decompressor",
        "_fed",
        "_frames",
        "_inline_pieces",
        "_options",
        "_rest",
        "_size",
        "_slice_bytes",
        "_within",
        "unpacked",
    )

    def __init__(
        self,
        size: int | None,
        *,
        code: Code = Code.DATA_LOSS,
        max_window_log: int | None = None,
        slice_bytes: int = _SLICE_BYTES,
    ) -> None:
        self._size = size
        self._slice_bytes = slice_bytes
        self._code = code
        self._options: dict[int, int] | None = None
        if max_window_log is not None:
            self._options = {zstd.DecompressionParameter.window_log_max: max_window_log}
        self._decompressor = zstd.ZstdDecompressor(options=self._options)
        self._frames = 1
        #: So many more pieces of what was fed last are made without a thread.
        self._inline_pieces = 0
        #: Whether a frame has begun and not ended.
        self._within = False
        self._fed = memoryview(b"")
        #: The slice of it that is looked at.
        self._rest: Chunk = b""
        #: Plain bytes given so far.
        self.unpacked = 0

    def feed(self, data: Chunk) -> None:
        """Take more of the stream; only when `piece` has given everything of what came before."""
        self._fed = memoryview(data)

    async def piece(self) -> bytes:
        """The next plain bytes; none if more of the stream is needed first.

        Raises:
            NativeLinkError: what was fed is no zstd, needs a longer window, is cut into too many
                frames, or holds more than `size` bytes.
        """
        while True:
            decompressor = self._decompressor
            if not self._rest and (decompressor.eof or decompressor.needs_input):
                if not self._fed:
                    return b""
                self._rest = self._fed[: self._slice_bytes]
                self._fed = self._fed[self._slice_bytes :]
            if decompressor.eof:
                decompressor = await self._begin_frame()
            data, self._rest = self._rest, b""
            limit = _PIECE_BYTES
            if self._size is not None:
                # One byte more than may come tells whether there is too much.
                limit = min(limit, self._size - self.unpacked + 1)
            if data:
                self._inline_pieces = _INLINE_PIECES if len(data) <= _SMALL_BYTES else 0
            if self._inline_pieces:
                self._inline_pieces -= 1
                limit = min(limit, _INLINE_BYTES)
            self._within = True
            try:
                # What is not used up of the data is kept inside.
                if max(len(data), limit) <= _INLINE_BYTES:
                    plain = decompressor.decompress(data, limit)
                else:
                    plain = await asyncio.to_thread(decompressor.decompress, data, limit)
            except zstd.ZstdError as error:
                raise self._wrong(f"the peer sent what is no zstd: {error}") from error
            if decompressor.eof:
                self._within = False
                self._rest = decompressor.unused_data
            if plain:
                self.unpacked += len(plain)
                if self._size is not None and self.unpacked > self._size:
                    raise self._wrong(f"the peer sent more than the {self._size} bytes of the blob")
                return plain

    def end(self) -> None:
        """Check that everything came.

        Raises:
            NativeLinkError: there is less than `size` bytes, or a frame is cut off.
        """
        if self._size is not None and self.unpacked < self._size:
            raise self._wrong(f"the peer sent {self.unpacked} of the blob's {self._size} bytes")
        if self._within:
            raise self._wrong("the peer sent a zstd frame without its end")

    async def _begin_frame(self) -> zstd.ZstdDecompressor:
        if self._frames >= _FREE_FRAMES and self.unpacked < self._frames * _MEAN_FRAME_BYTES:
            raise self._wrong(
                f"the peer sent {self._frames} zstd frames with {self.unpacked} bytes in them; "
                f"{_FREE_FRAMES} and more must hold {_MEAN_FRAME_BYTES} bytes each on average"
            )
        self._frames += 1
        self._decompressor = zstd.ZstdDecompressor(options=self._options)
        await asyncio.sleep(0)
        return self._decompressor

    def _wrong(self, message: str) -> NativeLinkError:
        return NativeLinkError(self._code, message)


class DecompressingSink:
    """Takes a zstd stream and passes on what it holds.

    Args:
        sink: takes the plain bytes.
        size: how many there must be.

    Raises:
        NativeLinkError: DATA_LOSS from `write` and `end`, for what `Decompressor` refuses.
    """

    __slots__ = ("_decompressor", "_sink")

    def __init__(self, sink: Sink, size: int) -> None:
        self._sink = sink
        self._decompressor = Decompressor(size)

    async def write(self, chunk: Chunk, /) -> None:
        self._decompressor.feed(chunk)
        while plain := await self._decompressor.piece():
            await self._sink.write(plain)

    def end(self) -> None:
        """Check that everything came."""
        self._decompressor.end()


class DecompressingSource:
    """What a zstd stream holds that a client sends, whose size nobody knows.

    Args:
        source: gives the stream.

    Raises:
        NativeLinkError: INVALID_ARGUMENT from `read`, for what `Decompressor` refuses and for
            windows of more than 8 MiB.
    """

    __slots__ = ("_decompressor", "_source", "size")

    def __init__(self, source: Source) -> None:
        self.size: int | None = None
        self._source = source
        # Small slices are unpacked without a hop to a thread, which costs as much as they do.
        self._decompressor = Decompressor(
            None,
            code=Code.INVALID_ARGUMENT,
            max_window_log=MAX_WINDOW_LOG,
            slice_bytes=_SMALL_BYTES,
        )

    async def read(self) -> Chunk:
        while not (plain := await self._decompressor.piece()):
            data = await self._source.read()
            if not data:
                self._decompressor.end()
                return b""
            self._decompressor.feed(data)
        return plain


async def _aside(work: Callable[[], bytes], size: int) -> bytes:
    return work() if size <= _INLINE_BYTES else await asyncio.to_thread(work)
