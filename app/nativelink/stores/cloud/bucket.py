"""One bucket of a provider: single requests, counted, bounded and tried again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import obstore

from nativelink.core.errors import Code, NativeLinkError, failed_precondition, unavailable
from nativelink.core.retry import Retry
from nativelink.core.streams import Chunk
from nativelink.stores.cloud.errors import FAILURES, failure

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Objects

__all__ = ["DEFAULT_REQUESTS", "Bucket", "Found", "Touch"]

T = TypeVar("T")

#: Requests in flight where the configuration sets no bound: a connection each, below the 1,024
#: descriptors that a process may have on an untuned machine.
DEFAULT_REQUESTS: Final = 256

#: Never written; reading it at the start tells a bucket that works from one that does not. It
#: has the name that NativeLink v1.6.6 reads for its health checks.
_PROBE: Final = "__nativelink_health_probe__/does-not-exist"

#: How long the clean-up after an upload that failed may take, in seconds.
_ABORT_S: Final = 30.0

#: Smaller answers are copied into `bytes`, which everyone can work with fastest.
_COPIED_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """What a provider says of an object.

    Attributes:
        size: in bytes.
        modified: when it was last written, in seconds since the epoch.
        e_tag: names this very value, if the provider says so.
    """

    size: int
    modified: float
    e_tag: str | None


class Touch(Protocol):
    """Makes an object as young as if it was just written, without moving its bytes."""

    async def __call__(self, path: str, found: Found, /) -> None: ...


class Bucket:
    """Requests to one bucket.

    Args:
        objects: the bucket; it must not try anything again by itself.
        uploads: the same bucket for uploads in parts, whose requests only obstore can try again.
        name: for people, such as `s3://bucket`.
        retry: what is tried again.
        max_concurrent_requests: requests in flight; further ones wait. Uploads in parts are
            counted apart, as many and each as one: they wait for who sends the blob, who may be
            slow, or may be reading it from this very bucket, and nobody else should.
        max_retry_buffer_bytes: larger bodies are not sent a second time.
        touch: how a copy of an object onto itself is made; None: by the provider's usual copy.

    Attributes:
        name: for people.
        requests: how many requests ended how: counts by operation and code.
    """

    def __init__(
        self,
        objects: Objects,
        *,
        uploads: Objects | None = None,
        name: str,
        retry: Retry | None = None,
        max_concurrent_requests: int = 0,
        max_retry_buffer_bytes: int = 5 * 1024 * 1024,
        touch: Touch | None = None,
    ) -> None:
        self._objects = objects
        self._uploads = uploads or objects
        self.name = name
        self._retry = retry or Retry()
        self._slots = asyncio.Semaphore(max_concurrent_requests or DEFAULT_REQUESTS)
        self._upload_slots = asyncio.Semaphore(max_concurrent_requests or DEFAULT_REQUESTS)
        self._max_retry_buffer_bytes = max_retry_buffer_bytes
        self._touch = touch or self._copy
        self.requests: Counter[tuple[str, str]] = Counter()

    async def check(self) -> None:
        """Ask for an object that does not exist.

        Raises:
            NativeLinkError: the bucket cannot be used, and why.
        """
        try:
            await self.read(_PROBE, 0, 1)
        except NativeLinkError as error:
            if error.code in (Code.NOT_FOUND, Code.OUT_OF_RANGE):
                return
            hint = ""
            if error.code is Code.PERMISSION_DENIED:
                hint = (
                    " (reading, writing and listing must be allowed: without s3:ListBucket, S3 "
                    "answers 403 for every object that does not exist)"
                )
            error.message = f"{self.name} cannot be used{hint}: {error.message}"
            raise

    async def head(self, path: str) -> Found | None:
        """What is known of an object; None if there is none.

        Raises:
            NativeLinkError: it could not be found out.
        """

        async def attempt() -> Found:
            return _found(await obstore.head_async(self._objects, path))

        try:
            return await self._request("head", path, attempt)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise

    async def read(self, path: str, start: int, end: int) -> tuple[Chunk, Found]:
        """Bytes `[start, end)` of an object, cut at its end, in one request.

        Raises:
            NativeLinkError: NOT_FOUND; OUT_OF_RANGE if there is no byte at `start`.
        """

        async def attempt() -> tuple[Chunk, Found]:
            result = await obstore.get_async(self._objects, path, options={"range": (start, end)})
            found = _found(result.meta)
            data = await result.bytes_async()
            if len(data) != min(end, found.size) - start:
                raise unavailable(
                    f"GET {path}: {len(data)} bytes came instead of "
                    f"{min(end, found.size) - start} (from {start} of {found.size})"
                )
            if len(data) <= _COPIED_BYTES:
                return bytes(data), found
            return memoryview(data), found

        return await self._request("get", path, attempt)

    async def write(self, path: str, data: Chunk) -> None:
        """Write an object in one request.

        A cancellation is heeded when the request has ended, or after 30 seconds: cut off, it
        could still be carried out, later than anybody thinks.

        Raises:
            NativeLinkError: never NOT_FOUND.
        """

        async def attempt() -> None:
            await _through(obstore.put_async(self._objects, path, data, use_multipart=False))

        retry = self._retry if len(data) <= self._max_retry_buffer_bytes else Retry()
        try:
            await self._request("put", path, attempt, retry)
        except NativeLinkError as error:
            raise _no_bucket(error) from error

    async def write_parts(
        self, path: str, parts: AsyncIterator[Chunk], *, part_bytes: int, max_concurrent: int
    ) -> None:
        """Write an object in parts, which are in memory only while they travel.

        If `parts` raises, or a part cannot be sent, the upload is aborted and nothing is left.
        Cancelling this does not end the upload: make `parts` raise.

        Args:
            path: of the object.
            parts: each but the last of `part_bytes`.
            part_bytes: size of a part.
            max_concurrent: parts that travel at once.

        Raises:
            NativeLinkError: of the provider, or what `parts` raised.
        """

        async def attempt() -> None:
            # Cut off, it would leave the parts that were sent behind.
            await _through(
                obstore.put_async(
                    self._uploads,
                    path,
                    parts,
                    use_multipart=True,
                    chunk_size=part_bytes,
                    max_concurrency=max_concurrent,
                )
            )

        try:
            await self._request("upload", path, attempt, Retry(), self._upload_slots)
        except NativeLinkError as error:
            raise _no_bucket(error) from error

    async def names(self, prefix: str) -> AsyncIterator[str]:
        """The names of all objects that begin with `prefix`, without it.

        Raises:
            NativeLinkError: they cannot be listed.
        """
        # obstore's prefixes are whole folders.
        folder = prefix.rpartition("/")[0]
        pages = obstore.list(self._objects, folder or None, chunk_size=1000)
        while True:
            try:
                page = await anext(pages)
            except StopAsyncIteration:
                return
            except FAILURES as error:
                raise failure(error, f"LIST {prefix}") from error
            for each in page:
                if each["path"].startswith(prefix):
                    yield each["path"][len(prefix) :]

    async def touch(self, path: str, found: Found) -> None:
        """Make an object as young as if it was just written."""

        async def attempt() -> None:
            await self._touch(path, found)

        await self._request("copy", path, attempt)

    async def _copy(self, path: str, found: Found) -> None:
        del found
        await obstore.copy_async(self._objects, path, path)

    async def _request(
        self,
        operation: str,
        path: str,
        attempt: Callable[[], Awaitable[T]],
        retry: Retry | None = None,
        slots: asyncio.Semaphore | None = None,
    ) -> T:
        """What `attempt` returns, tried again where that helps."""
        tries = None
        while True:
            try:
                async with slots or self._slots:
                    result = await attempt()
            except FAILURES as error:
                mapped = failure(error, f"{operation.upper()} {path}")
                mapped.__cause__ = error
            except NativeLinkError as error:
                mapped = error
            else:
                self.requests[operation, "ok"] += 1
                return result
            self.requests[operation, mapped.code.name.lower()] += 1
            if tries is None:
                tries = (retry or self._retry).tries()
            await tries.after(mapped)


async def _through(writing: Awaitable[Any]) -> None:
    """Wait for a request of obstore's to its end.

    A cancellation is heeded only then, or `_ABORT_S` later.
    """
    # What obstore returns is a future already, which no task has to drive.
    request: asyncio.Future[Any] = asyncio.ensure_future(writing)  # noqa: TID251
    try:
        await asyncio.shield(request)
    except asyncio.CancelledError:
        if not request.done():
            await _ended_soon(request)
        if not request.cancelled():
            # Retrieved, so that it is not reported as lost.
            request.exception()
        raise


async def _ended_soon(request: asyncio.Future[Any]) -> None:
    """Wait for the end of a request whose caller is cancelled, `_ABORT_S` at the most."""
    while not request.done():
        try:
            done, _ = await asyncio.wait([request], timeout=_ABORT_S)
        except asyncio.CancelledError:
            continue
        if not done:
            request.cancel()
            return


def _found(meta: obstore.ObjectMeta) -> Found:
    modified: datetime = meta["last_modified"]
    return Found(meta["size"], modified.timestamp(), meta["e_tag"])


def _no_bucket(error: NativeLinkError) -> NativeLinkError:
    """A write has no object to miss: its 404 means that the bucket is not there."""
    if error.code is Code.NOT_FOUND:
        return failed_precondition(error.message)
    return error
