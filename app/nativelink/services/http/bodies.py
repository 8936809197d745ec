"""What a PUT brings: plain or compressed, of a length that is said or not."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import IO, Final

from nativelink.core.errors import resource_exhausted
from nativelink.core.rpc import HttpRequest
from nativelink.core.streams import BytesSource, Chunk, Source
from nativelink.core.zstandard import DecompressingSource
from nativelink.services.http.answers import header
from nativelink.services.http.refusal import RefusedError

__all__ = ["MAX_MEASURED_BYTES", "MAX_UNPACKED_BYTES", "LimitedBody", "measured", "plain_body"]

#: What a compressed body may hold: a megabyte of zstd can stand for tens of gigabytes of nothing,
#: and how many there will be is not known beforehand. Larger ones are sent as they are.
MAX_UNPACKED_BYTES: Final = 4 * 1024**3
#: What a body may hold that must be taken whole to know its length: it waits in the folder of
#: temporary files, which no eviction policy watches. Others say their length.
MAX_MEASURED_BYTES: Final = 4 * 1024**3
#: What is read at a time of a body that was kept in a file.
_PIECE_BYTES: Final = 128 * 1024
#: A body of unknown length is measured in memory up to here, beyond it in a temporary file.
_IN_MEMORY_BYTES: Final = 1024 * 1024


def plain_body(request: HttpRequest, body: Source) -> Source:
    """What a request's body holds, its Content-Encoding undone.

    Raises:
        RefusedError: 415 for an encoding other than zstd; 400 for a part of a value, which would
            take the place of the whole (RFC 9110 section 14.5).
    """
    if header(request, b"content-range"):
        raise RefusedError(400, "content-range: values are put whole here")
    encoding = header(request, b"content-encoding").strip().lower()
    if encoding in {"", "identity"}:
        return body
    if encoding == "zstd":
        return LimitedBody(DecompressingSource(body), MAX_UNPACKED_BYTES)
    raise RefusedError(
        415,
        f"content-encoding {encoding[:40]!r} is not supported; zstd and identity are",
        {"accept-encoding": "zstd, identity"},
    )


class LimitedBody:
    """A body that may have so many bytes at most.

    Raises:
        RefusedError: 413 from `read`.
    """

    def __init__(self, source: Source, limit: int) -> None:
        self.size = source.size
        self._source = source
        self._limit = limit
        self._left = limit

    async def read(self) -> Chunk:
        if self.size is not None and self.size > self._limit:
            raise self._too_large()
        chunk = await self._source.read()
        self._left -= len(chunk)
        if self._left < 0:
            raise self._too_large()
        return chunk

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"the body holds more than the {self._limit} bytes allowed here")


@asynccontextmanager
async def measured(body: Source) -> AsyncGenerator[Source]:
    """The same body with a size that is known: if need be, all of it is taken first.

    The temporary file has no name, so nothing is left of it whatever happens.

    Raises:
        RefusedError: 413 for more than `MAX_MEASURED_BYTES`.
        NativeLinkError: RESOURCE_EXHAUSTED if there is no room for it.
    """
    if body.size is not None:
        yield body
        return
    body = LimitedBody(body, MAX_MEASURED_BYTES)
    chunks: list[Chunk] = []
    size = 0
    while size <= _IN_MEMORY_BYTES:
        chunk = await body.read()
        if not chunk:
            yield BytesSource(b"".join(chunks))
            return
        chunks.append(chunk)
        size += len(chunk)
    file = await asyncio.to_thread(tempfile.TemporaryFile)
    try:
        try:
            while chunks:
                # As many at a time as were held before: chunks can be small.
                await asyncio.to_thread(file.writelines, chunks)
                held, chunks = 0, []
                while held < _IN_MEMORY_BYTES and (chunk := await body.read()):
                    chunks.append(chunk)
                    held += len(chunk)
                size += held
            await asyncio.to_thread(file.seek, 0)
        except OSError as error:
            raise resource_exhausted(
                f"a body of unknown length could not be kept in {tempfile.gettempdir()}: "
                f"{error.strerror or error}; send a Content-Length"
            ) from error
        yield _FileSource(file, size)
    finally:
        with suppress(OSError):
            # What a full disk did not take is tried again here.
            file.close()


class _FileSource:
    """A temporary file, from where it stands."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.size: int | None = size
        self._file = file

    async def read(self) -> Chunk:
        return await asyncio.to_thread(self._file.read, _PIECE_BYTES)
