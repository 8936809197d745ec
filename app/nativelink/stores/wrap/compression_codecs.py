"""What a block is compressed with. Each algorithm has a number that stands in the container."""

from __future__ import annotations

import functools
import sys
from typing import Final, Protocol

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Chunk

__all__ = ["LZ4_VERSION", "ZSTD_VERSION", "Codec", "Lz4Codec", "ZstdCodec", "codec_of"]

#: NativeLink's container of LZ4 blocks calls itself version 1.
LZ4_VERSION: Final = 1
#: Ours, of Zstandard frames: far from what NativeLink would number next.
ZSTD_VERSION: Final = 0x5A


class Codec(Protocol):
    """Compresses single blocks, each by itself.

    Attributes:
        version: the container's version of this algorithm.
    """

    @property
    def version(self) -> int: ...

    def append(self, block: bytes, out: bytearray) -> int:
        """Append a block's compressed bytes to `out`; returns how many there are."""
        ...

    def expand(self, data: memoryview, max_bytes: int) -> Chunk:
        """The block that was compressed to `data`.

        Raises:
            NativeLinkError: DATA_LOSS if it is none, or has more than `max_bytes` bytes.
        """
        ...


class Lz4Codec:
    """LZ4's block format, written by lz4_flex and read by liblz4.

    lz4_flex's choice of matches is NativeLink's, byte for byte; liblz4 reads views without a copy.
    """

    __slots__ = ("_liblz4", "_lz4", "_scratch", "_view")

    version = LZ4_VERSION

    def __init__(self) -> None:
        import lz4.block
        import safelz4.block

        self._lz4 = safelz4.block
        self._liblz4 = lz4.block
        self._scratch = bytearray()
        self._view = memoryview(self._scratch)

    def append(self, block: bytes, out: bytearray) -> int:
        # Into a buffer that is kept: a new one per block costs more than the compression.
        bound = self._lz4.get_maximum_output_size(len(block))
        if len(self._scratch) < bound:
            self._scratch = bytearray(bound)
            self._view = memoryview(self._scratch)
        size = self._lz4.compress_into(block, self._scratch)
        out += self._view[:size]
        return size

    def expand(self, data: memoryview, max_bytes: int) -> Chunk:
        head = _head_of_literals(max_bytes)
        if len(data) == len(head) + max_bytes and bytes(data[: len(head)]) == head:
            # Nothing in it was found twice: the block stands there as it is.
            return data[len(head) :]
        # A byte of LZ4 stands for 255 bytes at most (a length of a match, continued).
        size = min(max_bytes, 255 * len(data))
        try:
            block: bytes = self._liblz4.decompress(data, uncompressed_size=size)
        except self._liblz4.LZ4BlockError as error:
            raise NativeLinkError(
                Code.DATA_LOSS, f"a stored block is no LZ4 block of {max_bytes} bytes: {error}"
            ) from error
        return block


@functools.lru_cache(maxsize=64)
def _head_of_literals(size: int) -> bytes:
    """What stands before the bytes of an LZ4 block of one sequence without a match.

    Source: LZ4 block format description, "Compressed block format": a token whose high half is
    the number of literals, from 15 on continued by bytes that are added.
    """
    if size < 15:
        return bytes([size << 4])
    full, rest = divmod(size - 15, 255)
    return b"\xf0" + b"\xff" * full + bytes([rest])


class ZstdCodec:
    """Zstandard (RFC 8878): a frame per block.

    Args:
        level: -7 (fast) to 22 (small); None where it only has to read.
    """

    __slots__ = ("_level", "_zstd")

    version = ZSTD_VERSION

    def __init__(self, level: int | None = None) -> None:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            import backports.zstd as zstd
        self._zstd = zstd
        self._level = level

    def append(self, block: bytes, out: bytearray) -> int:
        data = self._zstd.compress(block, self._level)
        out += data
        return len(data)

    def expand(self, data: memoryview, max_bytes: int) -> Chunk:
        decompressor = self._zstd.ZstdDecompressor()
        try:
            block = decompressor.decompress(data, max_bytes)
        except self._zstd.ZstdError as error:
            raise NativeLinkError(
                Code.DATA_LOSS, f"a stored block is no Zstandard frame: {error}"
            ) from error
        if not decompressor.eof or decompressor.unused_data:
            raise NativeLinkError(
                Code.DATA_LOSS,
                f"a stored block is no single Zstandard frame of at most {max_bytes} bytes",
            )
        return block


def max_compressed_bytes(size: int) -> int:
    """How many bytes a block of `size` bytes may take: LZ4's bound, which holds for zstd too."""
    return size + size // 255 + 64


def codec_of(version: int) -> Codec | None:
    """A codec that reads containers of a version, None if there is none."""
    match version:
        case 1:
            return Lz4Codec()
        case 0x5A:
            return ZstdCodec()
        case _:
            return None
