"""Blobs that travel zstd-compressed (REAPI v2, Compressor): `remote_cache_compression`.

What is stored is always the plain blob. Unpacking is bounded by the size that a digest declares,
and what a client sends may need a window of 8 MiB, no more (`core/zstandard.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nativelink.core.digest import DigestFunction
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError, invalid_argument
from nativelink.core.streams import Chunk
from nativelink.core.zstandard import GATHERED_BYTES, MAX_WINDOW_LOG, Compressor, Decompressor
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.upload import Upload
from nativelink.stores.store import Store
from nativelink.stores.wrap.verify import VerifyStore

__all__ = ["ZSTD", "CompressedUpload", "checking", "compressed", "expanded", "unsupported"]

#: As resource names have it.
ZSTD: Final = "zstd"
#: A frame has 12 bytes around its contents; shorter blobs hardly ever become less.
_MIN_BYTES: Final = 64


def unsupported(compressor: int, *, zstd: bool) -> NativeLinkError:
    """INVALID_ARGUMENT for the number of a compressor.

    Args:
        compressor: what a request names.
        zstd: whether zstd is enabled.
    """
    names = {number: name for name, number in pb.Compressor.Value.items()}
    allowed = "IDENTITY and ZSTD are" if zstd else "IDENTITY is"
    return invalid_argument(
        f"compressor {names.get(compressor, compressor)} is not enabled here; {allowed}"
    )


def checking(store: Store, *, verified: bool, default_function: DigestFunction) -> Store:
    """Where compressed uploads go: the store, refusing bytes that do not have their digest.

    A digest names the plain blob, which the client never sent. Its own checks, and those of the
    network, are of other bytes than those that are stored, so somebody must look at these.

    Args:
        store: keeps the blobs.
        verified: whether it looks itself.
        default_function: the digest function of requests that name none.
    """
    if verified:
        return store
    return VerifyStore(store, verify_size=True, verify_hash=True, default_function=default_function)


async def compressed(
    blobs: Sequence[bytes | NativeLinkError],
) -> list[bytes | None]:
    """Each blob as one frame, None where that is not shorter."""

    async def one(blob: bytes | NativeLinkError) -> bytes | None:
        if isinstance(blob, NativeLinkError) or len(blob) < _MIN_BYTES:
            return None
        frame = await Compressor(len(blob)).compress((blob,), last=True)
        return frame if len(frame) < len(blob) else None

    return await run_all(map(one, blobs))


async def expanded(data: Chunk, size: int) -> bytes:
    """The blob of `size` bytes, all of it in memory, that a stream holds.

    Raises:
        NativeLinkError: INVALID_ARGUMENT if it holds something else.
    """
    stream = _unpacking(size)
    stream.feed(data)
    pieces: list[bytes] = []
    while piece := await stream.piece():
        pieces.append(piece)
    stream.end()
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class CompressedUpload:
    """Feeds an upload with the zstd stream that one call sends; to the call, it is an `Upload`.

    REAPI counts strangely, and so does this: the `write_offset` of a call's first request is one
    in the plain blob, and the later ones are that plus the compressed bytes sent since. So another
    call goes on with a stream of its own, from the plain offset that QueryWriteStatus answers.

    Args:
        upload: what is fed.
        offset: where in the plain blob the call starts.
    """

    __slots__ = ("_end", "_gathered", "_parts", "_start", "_stream", "_upload")

    def __init__(self, upload: Upload, offset: int) -> None:
        if offset < 0:
            raise invalid_argument(f"write_offset {offset} is negative")
        self._upload = upload
        self._start = offset
        #: Offset of the request that comes next.
        self._end = offset
        self._parts: list[Chunk] = []
        self._gathered = 0
        self._stream = _unpacking(upload.size - offset)

    async def feed(self, owner: object, offset: int, data: Chunk) -> None:
        """Take what one request brings; what came before is skipped.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for a gap (the upload stays as it was) or what is no
                zstd (it ends); what `Upload.feed` raises.
        """
        skipped = self._end - offset
        if not 0 <= skipped <= self._end - self._start:
            raise invalid_argument(
                f"write_offset {offset} of a compressed upload that has taken {self._start} plain "
                f"bytes and then {self._end - self._start} compressed ones: {self._end} is next"
            )
        data = data[skipped:]
        self._end += len(data)
        self._parts.append(data)
        self._gathered += len(data)
        if self._gathered >= GATHERED_BYTES:
            await self._unpack(owner)

    async def finish(self, owner: object) -> int:
        """Store the blob; returns the `committed_size` of a compressed upload.

        Raises:
            NativeLinkError: as `feed` and `Upload.finish`.
        """
        await self._unpack(owner)
        try:
            self._stream.end()
        except NativeLinkError:
            self._upload.abandon()
            raise
        await self._upload.finish(owner)
        return self._end

    async def _unpack(self, owner: object) -> None:
        """Pass on what the gathered bytes hold."""
        stream = self._stream
        stream.feed(b"".join(self._parts))
        self._parts.clear()
        self._gathered = 0
        try:
            at = self._start + stream.unpacked
            while plain := await stream.piece():
                await self._upload.feed(owner, at, plain)
                at += len(plain)
        except NativeLinkError as error:
            if error.code is Code.INVALID_ARGUMENT:
                # Nobody can say how much of what came out of a broken stream was right.
                self._upload.abandon()
            raise


def _unpacking(size: int) -> Decompressor:
    return Decompressor(size, code=Code.INVALID_ARGUMENT, max_window_log=MAX_WINDOW_LOG)
