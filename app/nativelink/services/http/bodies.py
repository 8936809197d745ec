"""What a PUT brings: plain or compressed, of a length that is said or not."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from nativelink.core.errors import context
from nativelink.core.rpc import HttpRequest
from nativelink.core.streams import Chunk, Source
from nativelink.core.zstandard import DecompressingSource
from nativelink.services.http.answers import header
from nativelink.services.http.refusal import RefusedError
from nativelink.services.spool import Spool

__all__ = ["MAX_MEASURED_BYTES", "MAX_UNPACKED_BYTES", "LimitedBody", "measured", "plain_body"]

#: What a compressed body may hold: a megabyte of zstd can stand for tens of gigabytes of nothing,
#: and how many there will be is not known beforehand. Larger ones are sent as they are.
MAX_UNPACKED_BYTES: Final = 4 * 1024**3
#: What a body may hold that must be taken whole to know its length: it waits in the folder of
#: temporary files, which no eviction policy watches. Others say their length.
MAX_MEASURED_BYTES: Final = 4 * 1024**3


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

    What is longer than half a mebibyte waits in a file without a name.

    Raises:
        RefusedError: 413 for more than `MAX_MEASURED_BYTES`.
        NativeLinkError: RESOURCE_EXHAUSTED if there is no room for it.
    """
    if body.size is not None:
        yield body
        return
    body = LimitedBody(body, MAX_MEASURED_BYTES)
    spool = Spool(())
    try:
        while chunk := await body.read():
            with context("a body without a Content-Length"):
                await spool.write(chunk)
        yield await spool.finish()
    finally:
        await spool.close()
