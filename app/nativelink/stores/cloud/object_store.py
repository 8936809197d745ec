"""`experimental_cloud_object_store`: a bucket of a provider as a store."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from nativelink.core.clock import Clock
from nativelink.core.digest import Digest, StoreKey, is_empty
from nativelink.core.eager import begin, ended, run_all
from nativelink.core.errors import Code, NativeLinkError, internal, out_of_range, unavailable
from nativelink.core.streams import Chunk, Sink, Source, drain
from nativelink.stores.cloud.bucket import Bucket, Found
from nativelink.stores.cloud.keys import Keys
from nativelink.stores.cloud.refresh import Refresher
from nativelink.stores.cloud.uploads import (
    MIN_PART_BYTES,
    part_size,
    parts_at_once,
    upload_in_parts,
)
from nativelink.stores.store import absent

__all__ = ["CloudObjectStore", "CloudStatistics"]

#: Bytes of one read request. A range takes a provider some 20 ms to begin and 20 to 40 ms to send,
#: so several of them in flight fill a line, and little is read again when one of them breaks.
_PIECE_BYTES: Final = 2 * 1024 * 1024

#: Pieces that one read has in flight or in memory besides the one that its sink takes.
_AHEAD: Final = 8

#: Such pieces of all reads of a store together: 128 MiB. A read that finds none left goes on
#: piece by piece, so many slow clients cost 2 MiB each and not more.
_SHARED_AHEAD: Final = 64

#: Parts of all uploads of a store that travel together, 640 MiB of them: one that begins beside
#: many others has fewer, and one at least. With ten each, a hundred uploads took 7 GiB.
_SHARED_PARTS: Final = 128

#: Existence requests of one batch in flight.
_HEADS: Final = 128

#: Providers know no offsets beyond it.
_MAX_OFFSET: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class CloudStatistics:
    """What a store did since it was made.

    Attributes:
        requests: how many requests of which kind ended how.
        refreshed: objects that were made young again.
        refreshes_failed: those where that did not succeed, or had no room to wait.
        read_bytes: bytes that came from the provider.
        written_bytes: bytes of objects that were written.
    """

    requests: dict[tuple[str, str], int]
    refreshed: int
    refreshes_failed: int
    read_bytes: int
    written_bytes: int


class CloudObjectStore:
    """Values as objects of a bucket, under NativeLink v1.6.6's keys. An async context manager.

    It deletes nothing: a lifecycle rule of the bucket does. String keys that no object can have
    (with empty, `.` or `..` segments or control characters) are absent and cannot be put.

    Args:
        bucket: the bucket.
        keys: names of the objects.
        clock: what objects' ages are measured by.
        consider_expired_after_s: older objects count as absent in `has`; 0: there is no such age.
            A read still gets them: who knows of them may have been told while they were younger.
        refresh_after_s: older objects that are read or found are made young again, in the
            background; 0: never.
        max_concurrent_parts: parts of one upload that travel at once; fewer of large ones, and
            fewer beside many other uploads.
        min_part_bytes: size of a part, or 5 MiB if that is more, or what so many parts need.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        keys: Keys,
        clock: Clock,
        consider_expired_after_s: int = 0,
        refresh_after_s: int = 0,
        max_concurrent_parts: int = 10,
        min_part_bytes: int = 0,
    ) -> None:
        self._bucket = bucket
        self._keys = keys
        self._path = keys.path
        self._clock = clock
        self._expired_after_s = consider_expired_after_s
        self._refresher = (
            Refresher(bucket, clock=clock, after_s=refresh_after_s) if refresh_after_s else None
        )
        self._max_concurrent_parts = max_concurrent_parts
        self._min_part_bytes = min_part_bytes
        self._spare_pieces = _SHARED_AHEAD
        #: Uploads in parts under way.
        self._uploads = 0
        self._read_bytes = 0
        self._written_bytes = 0

    async def __aenter__(self) -> CloudObjectStore:
        if self._refresher is not None:
            await self._refresher.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._refresher is not None:
            await self._refresher.__aexit__(kind, error, trace)

    async def check(self) -> None:
        """See whether the bucket can be used.

        Raises:
            NativeLinkError: it cannot, and why: no such bucket, no permission, another region.
        """
        await self._bucket.check()

    @property
    def name(self) -> str:
        """Of the bucket, for people."""
        return self._bucket.name

    def names(self) -> AsyncIterator[str]:
        """The keys of all objects, read from the bucket page by page."""
        return self._bucket.names(self._keys.prefix)

    def statistics(self) -> CloudStatistics:
        """What this store did so far."""
        refresher = self._refresher
        return CloudStatistics(
            dict(self._bucket.requests),
            0 if refresher is None else refresher.refreshed,
            0 if refresher is None else refresher.failed,
            self._read_bytes,
            self._written_bytes,
        )

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        sizes: dict[StoreKey, int | None] = {}
        paths: dict[StoreKey, str] = {}
        for key in keys:
            if isinstance(key, Digest) and is_empty(key):
                sizes[key] = 0
            elif (path := self._path(key)) is None:
                sizes[key] = None
            else:
                paths[key] = path
        if paths:
            pending = iter(paths.items())
            await run_all(self._heads(pending, sizes) for _ in range(min(len(paths), _HEADS)))
        return [sizes[key] for key in keys]

    async def _heads(
        self, pending: Iterator[tuple[StoreKey, str]], sizes: dict[StoreKey, int | None]
    ) -> None:
        for key, path in pending:
            found = await self._bucket.head(path)
            if found is None or self._is_expired(found):
                sizes[key] = None
            else:
                self._noticed(path, found)
                sizes[key] = found.size

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        if isinstance(key, Digest) and is_empty(key):
            if offset:
                raise out_of_range(f"offset {offset} is beyond the 0 bytes of {key}")
            return
        path = self._path(key)
        if path is None:
            raise absent(key)
        if limit == 0 or offset >= _MAX_OFFSET:
            await self._check_offset(key, path, offset)
            return
        end = _MAX_OFFSET if limit is None else min(offset + limit, _MAX_OFFSET)
        try:
            piece, found = await self._bucket.read(path, offset, min(offset + _PIECE_BYTES, end))
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                raise absent(key) from error
            if error.code is Code.OUT_OF_RANGE:
                await self._check_offset(key, path, offset)
                return
            raise
        self._noticed(path, found)
        self._read_bytes += len(piece)
        await sink.write(piece)
        position = offset + len(piece)
        end = min(end, found.size)
        if position < end:
            await self._get_rest(path, sink, position, end, found.size)

    async def _check_offset(self, key: StoreKey, path: str, offset: int) -> None:
        """For a read of nothing: whether the offset is within the object.

        Raises:
            NativeLinkError: NOT_FOUND or OUT_OF_RANGE.
        """
        found = await self._bucket.head(path)
        if found is None:
            raise absent(key)
        if offset > found.size:
            raise out_of_range(f"offset {offset} is beyond the {found.size} bytes of {key}")

    async def _get_rest(self, path: str, sink: Sink, start: int, end: int, size: int) -> None:
        """Bytes `[start, end)`, several pieces in flight, in their order."""
        loop = asyncio.get_running_loop()
        starts = iter(range(start, end, _PIECE_BYTES))
        ahead: deque[asyncio.Task[Chunk]] = deque()
        borrowed = 0
        try:
            while True:
                while len(ahead) <= _AHEAD and (not ahead or self._spare_pieces > 0):
                    first = next(starts, None)
                    if first is None:
                        break
                    if ahead:
                        self._spare_pieces -= 1
                        borrowed += 1
                    piece = self._piece(path, first, min(first + _PIECE_BYTES, end), size)
                    begun = begin(piece, loop)
                    if isinstance(begun, tuple):
                        raise internal(f"GET {path} was answered before it was sent")
                    ahead.append(begun)
                if not ahead:
                    return
                data = await ahead[0]
                ahead.popleft()
                await sink.write(data)
                if borrowed:
                    self._spare_pieces += 1
                    borrowed -= 1
        finally:
            self._spare_pieces += borrowed
            for task in ahead:
                task.cancel()
            await ended(ahead)

    async def _piece(self, path: str, start: int, end: int, size: int) -> Chunk:
        data, found = await self._bucket.read(path, start, end)
        if found.size != size:
            raise unavailable(
                f"GET {path}: it was replaced while it was read: {found.size} bytes, not {size}"
            )
        self._read_bytes += len(data)
        return data

    async def put(self, key: StoreKey, source: Source) -> int:
        if isinstance(key, Digest) and is_empty(key):
            return await drain(source)
        path = self._path(key, must_be_possible=True)
        begun: list[Chunk] = []
        size = 0
        while piece := await source.read():
            begun.append(piece)
            size += len(piece)
            if size >= MIN_PART_BYTES:
                size = await self._put_in_parts(key, path, begun, source)
                break
        else:
            await self._bucket.write(path, begun[0] if len(begun) == 1 else b"".join(begun))
        self._written_bytes += size
        return size

    async def _put_in_parts(
        self, key: StoreKey, path: str, begun: list[Chunk], source: Source
    ) -> int:
        expected = source.size or (key.size_bytes if isinstance(key, Digest) else 0)
        part_bytes = max(part_size(expected), self._min_part_bytes)
        self._uploads += 1
        try:
            share = max(1, _SHARED_PARTS // self._uploads)
            return await upload_in_parts(
                self._bucket,
                path,
                begun,
                source,
                part_bytes=part_bytes,
                max_concurrent=parts_at_once(min(self._max_concurrent_parts, share), part_bytes),
            )
        finally:
            self._uploads -= 1

    def _is_expired(self, found: Found) -> bool:
        expired_after_s = self._expired_after_s
        return bool(expired_after_s) and found.modified + expired_after_s <= self._clock.time()

    def _noticed(self, path: str, found: Found) -> None:
        """An object is in use."""
        if self._refresher is not None:
            self._refresher.noticed(path, found)
