"""Uploads in parts: how large a part is, and a source cut into them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from nativelink.core.eager import begin, ended
from nativelink.core.errors import NativeLinkError, unavailable
from nativelink.core.streams import Chunk, Pipe, Source
from nativelink.stores.cloud.bucket import Bucket

__all__ = ["MIN_PART_BYTES", "part_size", "parts_at_once", "upload_in_parts"]

#: The least that S3 takes for a part which is not the last (Amazon S3, multipart upload limits),
#: and from where on NativeLink v1.6.6 uploads in parts.
MIN_PART_BYTES: Final = 5 * 1024 * 1024
_MAX_PART_BYTES: Final = 5 * 1024**3
#: Of one upload's parts, however large each is.
_TRAVELLING_BYTES: Final = 256 * 1024 * 1024
#: S3 takes 10,000 parts.
_MAX_PARTS: Final = 10_000


def part_size(size_bytes: int) -> int:
    """Bytes of a part so that `size_bytes` need no more parts than S3 takes.

    NativeLink v1.6.6's rule: parts of 5 MiB up to 48 GiB, larger ones for what is larger.
    """
    count = min(size_bytes // MIN_PART_BYTES, _MAX_PARTS - 1) + 1
    return min(max(-(-size_bytes // count), MIN_PART_BYTES), _MAX_PART_BYTES)


def parts_at_once(wanted: int, part_bytes: int) -> int:
    """How many parts of one upload travel at once: as many as wanted, while they are small.

    Only what somebody says that a blob will have makes parts large, and 10 of the largest are
    5 GiB for 5 TiB. So large ones share what small ones would take, or 256 MiB.
    """
    room = max(wanted * MIN_PART_BYTES, _TRAVELLING_BYTES)
    return max(1, min(wanted, room // part_bytes))


class _Parts:
    """What obstore pulls the parts from."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def __aiter__(self) -> _Parts:
        return self

    async def __anext__(self) -> Chunk:
        if part := await self._pipe.read():
            return part
        raise StopAsyncIteration


class _Cutter:
    """Pieces in, parts of exactly `part_bytes` out, and at last the rest."""

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes = part_bytes
        self._held: list[Chunk] = []
        self._missing = part_bytes

    def add(self, piece: Chunk) -> Iterator[bytes]:
        """The parts that are complete with this piece."""
        while len(piece) >= self._missing:
            view = memoryview(piece)
            self._held.append(view[: self._missing])
            piece = view[self._missing :]
            yield self.rest()
        if piece:
            self._held.append(piece)
            self._missing -= len(piece)

    def rest(self) -> bytes:
        """What is held, which is held no more."""
        part = b"".join(self._held)
        self._held.clear()
        self._missing = self._part_bytes
        return part


async def upload_in_parts(
    bucket: Bucket,
    path: str,
    begun: Sequence[Chunk],
    source: Source,
    *,
    part_bytes: int,
    max_concurrent: int,
) -> int:
    """Write an object that is too large for one request.

    In memory are `max_concurrent` parts that travel and four more (one that obstore took, one
    that waits for it, one that is gathered, and the copy in which it is joined), whatever the
    object's size: with 10 parts of 5 MiB, 70 MiB. If the source fails or this is cancelled, the
    upload is aborted before this returns, and nothing is left with the provider.

    Args:
        bucket: where.
        path: of the object.
        begun: pieces that were read from the source already.
        source: the others.
        part_bytes: size of a part.
        max_concurrent: parts that travel at once.

    Returns:
        The number of bytes.
    """
    pipe = Pipe()
    sending = begin(
        bucket.write_parts(
            path, _Parts(pipe), part_bytes=part_bytes, max_concurrent=max_concurrent
        ),
        asyncio.get_running_loop(),
    )
    if isinstance(sending, tuple):
        raise unavailable(f"UPLOAD {path}: it ended before anything was sent")
    given_up = unavailable(f"UPLOAD {path}: it ended early")
    # Whoever waits for room in the pipe is told that nobody takes anything out of it any more.
    sending.add_done_callback(lambda _: pipe.abandon(given_up))
    try:
        size = await _feed(pipe, begun, source, part_bytes)
        await sending
    except BaseException as error:
        pipe.fail(unavailable(f"UPLOAD {path}: it was given up"))
        failed = sending.exception() if sending.done() and not sending.cancelled() else None
        sending.cancel()
        await ended([sending])
        if error is given_up and isinstance(failed, NativeLinkError):
            raise failed from None
        raise
    return size


async def _feed(pipe: Pipe, begun: Sequence[Chunk], source: Source, part_bytes: int) -> int:
    """Cut a source into parts and hand them over; returns the number of bytes."""
    cutter = _Cutter(part_bytes)
    size = 0
    for piece in begun:
        size += len(piece)
        for part in cutter.add(piece):
            await pipe.write(part)
    while piece := await source.read():
        size += len(piece)
        for part in cutter.add(piece):
            await pipe.write(part)
    await pipe.write(cutter.rest())
    pipe.close()
    return size
