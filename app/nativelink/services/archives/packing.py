"""What a tar is packed in: gzip, bzip2, xz, Zstandard or nothing.

The first bytes say which, as names lie. Everything is read a bounded piece at a time, and what
comes out is held against what went in.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import IO, Final, Protocol

from nativelink.services.archives.limits import PIECE_BYTES, exhausted, require_fair, unfit

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    import backports.zstd as zstd

__all__ = ["Deflated", "Packed"]

#: Packed bytes looked at in one go. What follows the end of a stream is copied, so this bounds the
#: price of many tiny streams.
_INPUT_BYTES: Final = 16 * 1024
#: Streams that follow each other are one. Who makes several puts at least a header of an entry
#: (512 bytes) into each, as eStargz does; after the first ones that much is asked for.
_FREE_STREAMS: Final = 100
_MEAN_STREAM_BYTES: Final = 512
#: Memory that xz may take: `xz -9` asks for 65 MiB.
_XZ_MEMORY_BYTES: Final = 128 * 1024 * 1024
#: Base-two logarithm of Zstandard's longest window, 128 MiB: what its own program unpacks without
#: being told to (`zstd --ultra -22`, `--long`).
_ZSTD_WINDOW_LOG: Final = 27
_WITH_GZIP_HEADER: Final = 31
_DAMAGED: Final = (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, EOFError)


class _Inflater(Protocol):
    """One stream; what the classes of bz2, lzma and zstd have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Deflated:
    """zlib's, in the form of the others.

    Args:
        wbits: which header the stream has, as zlib counts; -15: none.
    """

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._inner.decompress(data or self._inner.unconsumed_tail, max_length)
        # A full piece may have left some inside although all input was taken.
        self.needs_input = len(out) < max_length and not self._inner.unconsumed_tail
        return out


def _zstd() -> _Inflater:
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    return zstd.ZstdDecompressor(options=options)


def _xz() -> _Inflater:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)


#: Beginnings of packed data. Zstandard's may begin with a frame that is passed over (RFC 8878).
_KINDS: Final[tuple[tuple[str, bytes, Callable[[], _Inflater]], ...]] = (
    ("gzip", b"\x1f\x8b", lambda: Deflated(_WITH_GZIP_HEADER)),
    ("xz", b"\xfd7zXZ\0", _xz),
    ("bzip2", b"BZh", bz2.BZ2Decompressor),
    ("zstd", b"\x28\xb5\x2f\xfd", _zstd),
    *(("zstd", bytes((at, 0x2A, 0x4D, 0x18)), _zstd) for at in range(0x50, 0x60)),
)


class Packed:
    """Reads what is packed in a file, from its beginning.

    Args:
        file: at its beginning.
        max_bytes: unpacked.

    Attributes:
        packing: what it is packed in; empty for nothing.
    """

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._head = file.read(_INPUT_BYTES)
        self._read = len(self._head)
        self._unpacked = 0
        self._streams = 1
        self.packing = ""
        self._new: Callable[[], _Inflater] | None = None
        for name, magic, new in _KINDS:
            if self._head.startswith(magic):
                self.packing, self._new = name, new
        self._inflater = None if self._new is None else self._new()
        #: The piece that is being given away, and how much of it was.
        self._piece = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """Exactly so many bytes; fewer only where the data ends.

        Raises:
            NativeLinkError: ABORTED if the packing is damaged; RESOURCE_EXHAUSTED if there is too
                much in it.
        """
        end = self._at + size
        if end <= len(self._piece):
            taken = self._piece[self._at : end]
            self._at = end
            return taken
        parts = []
        while size and (part := self.some(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def some(self, size: int) -> memoryview:
        """At most so many bytes; none where the data ends.

        Raises:
            NativeLinkError: as `take`.
        """
        if self._at == len(self._piece):
            self._piece, self._at = self._next(), 0
        taken = memoryview(self._piece)[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def _next(self) -> bytes:
        if self._inflater is None or self._new is None:
            out = self._input()
        else:
            out = self._inflated(self._new)
        self._unpacked += len(out)
        if self._unpacked > self._max_bytes:
            raise exhausted(f"there are more than {self._max_bytes} bytes in it")
        require_fair(self._read, self._unpacked)
        return out

    def _inflated(self, new: Callable[[], _Inflater]) -> bytes:
        """The next that is not empty, or nothing at the end."""
        inflater = self._inflater
        assert inflater is not None
        while True:
            data = b""
            if inflater.eof:
                # Zeros behind a stream are padding.
                data = inflater.unused_data.lstrip(b"\0")
                while not data:
                    data = self._input()
                    if not data:
                        return b""
                    data = data.lstrip(b"\0")
                self._count_stream()
                inflater = self._inflater = new()
            elif inflater.needs_input:
                data = self._input()
                if not data:
                    raise unfit(f"its {self.packing} is cut off")
            try:
                out = inflater.decompress(data, PIECE_BYTES)
            except _DAMAGED as error:
                raise unfit(f"its {self.packing} is damaged: {error}") from error
            if out:
                return out

    def _input(self) -> bytes:
        if self._head:
            data, self._head = self._head, b""
            return data
        data = self._file.read(_INPUT_BYTES)
        self._read += len(data)
        return data

    def _count_stream(self) -> None:
        self._streams += 1
        if self._streams > _FREE_STREAMS and self._unpacked < self._streams * _MEAN_STREAM_BYTES:
            raise unfit(
                f"its {self.packing} has {self._streams} streams with {self._unpacked} bytes in "
                "them"
            )
