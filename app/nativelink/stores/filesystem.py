"""Blobs in files, one each, compatible with NativeLink's directories.

What is where: `filesystem_layout` knows names and directories, `filesystem_entries` what is there,
`filesystem_scan` finds it at the start, `filesystem_read` and `filesystem_write` move bytes,
`filesystem_reader` gives up files that are not what they should be, `group_commit` makes them
durable, `disk` says on which thread a system call runs, `free_space` keeps the disk from filling
up, and `eviction` says what leaves. This module is the store that they make.

Nothing is believed for longer than necessary. Every read compares the size of the file with the
one expected; a file that was deleted, truncated or has grown is reported absent before a byte is
written, and forgotten. A file that is truncated while it is read ends the read with DATA_LOSS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from nativelink.core.clock import Clock
from nativelink.core.digest import EMPTY_DIGESTS, Digest, StoreKey
from nativelink.core.errors import (
    missing_blob,
    out_of_range,
    unavailable,
)
from nativelink.core.streams import Chunk, Sink, Source, drain
from nativelink.stores.disk import DiskLane, InlineGuard, LaneStatistics, PieceBudget, timer
from nativelink.stores.disk_calls import disk_error
from nativelink.stores.eviction import EvictionPolicy, EvictionStatistics
from nativelink.stores.filesystem_entries import FilesystemEntries
from nativelink.stores.filesystem_layout import Layout
from nativelink.stores.filesystem_read import SMALL_READ_BYTES, BlobFile, CachedReads
from nativelink.stores.filesystem_reader import FileReader
from nativelink.stores.filesystem_write import TempFile, gather, write_stream
from nativelink.stores.free_space import DiskSpace
from nativelink.stores.group_commit import CommitStatistics, DiskSync, WrittenFile
from nativelink.stores.store import absent

__all__ = ["FilesystemStatistics", "FilesystemStore"]

#: What one hop to the disk reads, unless there are so many reads that their pieces must be smaller.
_READ_PIECE_BYTES: Final = 512 << 10
#: Blobs up to this size are written at once, into the page cache: 80 us.
_SMALL_WRITE_BYTES: Final = 256 << 10

#: What one hop of a large blob writes, likewise.
_WRITE_PIECE_BYTES: Final = 1 << 20
#: What all transfers of one direction may hold, two pieces each.
_TRANSFER_BYTES: Final = 64 << 20
_SMALLEST_PIECE_BYTES: Final = 64 << 10

_READ_THREADS: Final = 8
_WRITE_THREADS: Final = 4
_HEALTH_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class FilesystemStatistics:
    """What a filesystem store holds and does.

    Attributes:
        entries: what is held, and what was let go; bytes in whole blocks.
        commits: how files became durable.
        reads: reads that had to wait for the disk.
        writes: large writes, and removals of evicted files.
        scanning: whether the start-up scan still runs.
        removing: evicted files that are still on the disk.
        inline_pauses: how often the disk was too slow for calls on the event loop.
        disk: what the disk has; None where it does not say.
    """

    entries: EvictionStatistics
    commits: CommitStatistics
    reads: LaneStatistics
    writes: LaneStatistics
    scanning: bool
    removing: int
    inline_pauses: int
    disk: DiskSpace | None


class FilesystemStore:
    """Keeps each value in a file of its own. Use it as `async with store:`.

    Entering makes the directories, empties the temporary ones and starts the scan of what is
    there; the store serves at once, and until the scan has ended it looks on the disk for keys
    that it does not know. Leaving waits for commits under way and ends all threads.

    Args:
        content_path: directory of finished files.
        temp_path: directory of unfinished ones, on the same filesystem.
        eviction: the limits; sizes count in whole blocks.
        clock: wall time for the age of files, monotonic time for everything else.
        read_buffer_size: the largest piece in which a file is read from the disk, if it is more
            than 512 KiB. Smaller values (the default of the configuration is 32 KiB) would only
            cost speed, as pieces are not copied through a buffer; they get smaller by themselves
            when many files are read at a time.
        block_size: of the filesystem, in bytes.
        max_concurrent_writes: so many pieces of large values are on their way to the disk at a
            time; 0, or more than 4, means 4, which keeps a disk busy. A value that waits for its
            source is not among them: whoever sends slowly would keep all others from writing.
        evict_page_cache: ask the kernel to forget files after they were read or written.
    """

    def __init__(
        self,
        *,
        content_path: Path,
        temp_path: Path,
        eviction: EvictionPolicy,
        clock: Clock,
        read_buffer_size: int = 32768,
        block_size: int = 4096,
        max_concurrent_writes: int = 0,
        evict_page_cache: bool = False,
    ) -> None:
        self._now = clock.monotonic
        self._max_bytes = eviction.max_bytes
        self._write_budget = PieceBudget(
            _TRANSFER_BYTES // 2,
            smallest_bytes=_SMALLEST_PIECE_BYTES,
            largest_bytes=_WRITE_PIECE_BYTES,
        )
        self._evict_page_cache = evict_page_cache
        self._layout = Layout(content_path, temp_path)
        self._reads = DiskLane("filesystem-read", threads=_READ_THREADS)
        self._writes = DiskLane(
            "filesystem-write", threads=min(max_concurrent_writes or _WRITE_THREADS, _WRITE_THREADS)
        )
        self._commits = DiskLane("filesystem-commit", threads=1)
        self._entries = FilesystemEntries(
            self._layout,
            eviction=eviction,
            clock=clock,
            block_size=block_size,
            evict_page_cache=evict_page_cache,
            reads=self._reads,
            writes=self._writes,
        )
        #: Looked at in every call.
        self._map = self._entries.sizes
        #: `LocalFiles`: what a worker on this machine needs.
        self.files = self._entries.files
        self._guard = InlineGuard(clock.monotonic)
        self._cached = CachedReads()
        self._sync = DiskSync(clock.monotonic)
        self._files = FileReader(
            self._layout,
            self._map,
            now=self._now,
            lane=self._reads,
            budget=PieceBudget(
                _TRANSFER_BYTES // 2,
                smallest_bytes=_SMALLEST_PIECE_BYTES,
                largest_bytes=max(read_buffer_size, _READ_PIECE_BYTES),
            ),
            cached=self._cached,
            guard=self._guard,
            evict_page_cache=evict_page_cache,
        )

    # Lifetime.

    async def __aenter__(self) -> Self:
        lanes = (self._reads, self._writes, self._commits)
        for lane in lanes:
            lane.start()
        try:
            await self._commits.run(self._layout.open)
            await self._commits.run(self.files.open)
            directories = (self._layout.digests, self._layout.strings)
            # Renames that an earlier process was not told to be durable are, before we rely on
            # them.
            await self._commits.run(lambda: self._sync.sync((), directories))
        except BaseException:
            for lane in lanes:
                await lane.close()
            self.files.close()
            self._layout.close()
            raise
        self._entries.start(self._sync, self._commits)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._entries.close()
        for lane in (self._reads, self._writes, self._commits):
            await lane.close()
        self.files.close()
        self._layout.close()

    async def check(self) -> None:
        """Whether the disk answers: looks `content_path` up.

        Raises:
            NativeLinkError: UNAVAILABLE if it is gone, or takes longer than 2 seconds.
        """
        path = self._layout.content_path
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT_S):
                await self._reads.submit(path.stat)
        except TimeoutError as error:
            raise unavailable(f"{path} did not answer within {_HEALTH_TIMEOUT_S} s") from error
        except OSError as error:
            raise unavailable(f"{path}: {error.strerror or error}") from error

    def on_removed(self, callback: Callable[[StoreKey], None], /) -> None:
        """`RemovalFeed`."""
        self._entries.on_removed(callback)

    def statistics(self) -> FilesystemStatistics:
        """Figures of this moment."""
        entries = self._entries
        return FilesystemStatistics(
            entries=self._map.statistics(),
            commits=entries.commits(),
            reads=self._reads.statistics(),
            writes=self._writes.statistics(),
            scanning=entries.scanning,
            removing=entries.removing,
            inline_pauses=self._guard.pauses,
            disk=entries.disk(),
        )

    # Looking up.

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        sizes = self._map.get_many(keys, self._now())
        if self._entries.scanning and None in sizes:
            return await self._entries.complete(keys, sizes)
        return sizes

    async def find(self, hash_: str) -> Digest | None:
        """`BlobFinder`; what the start-up scan has not reached yet is found a little later."""
        return await self._entries.find(hash_)

    # Reading.

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        size = self._map.get(key, self._now())
        if size is None:
            if type(key) is Digest and not self._entries.scanning:
                # What `find_size` would find out; a miss is as frequent as a hit.
                raise missing_blob(key)
            size = await self._entries.find_size(key)
        if self.files.records and not self.files.is_sound(key):
            raise absent(key)
        if offset > size:
            raise out_of_range(f"offset {offset} is beyond the {size} bytes of {key}")
        if size == 0 and key in EMPTY_DIGESTS:
            return
        directory, name = self._layout.content(key)
        is_cached = self._guard.allowed and not self._evict_page_cache
        if is_cached and size <= SMALL_READ_BYTES:
            began = timer()
            data = self._cached.whole(directory, name, size)
            self._guard.took(timer() - began)
            if data is not None:
                if offset or limit is not None:
                    data = data[offset : None if limit is None else offset + limit]
                if data:
                    await sink.write(data)
                return
            is_cached = False
        while True:
            file = BlobFile(directory, name)
            try:
                size = await self._files.open(key, file, size, offset, limit, is_cached=is_cached)
                if size is None:
                    size = await self._entries.find_size(key)
                    continue
                if offset > size:
                    raise out_of_range(f"offset {offset} is beyond the {size} bytes of {key}")
                end = size if limit is None else min(size, offset + limit)
                await self._files.stream(key, file, sink, offset, end)
                return
            finally:
                self._files.close(key, file)

    # Writing.

    async def put(self, key: StoreKey, source: Source) -> int:
        if key in EMPTY_DIGESTS:
            return await drain(source)
        self._layout.content(key)
        if source.size is not None and self._entries.is_too_large(source.size):
            return await self._refuse(key, source)
        with self._write_budget as budget:
            chunks, size, is_whole = await gather(source, budget, look_beyond=True)
            return await self._put(key, chunks, size, None if is_whole else source)

    async def _put(self, key: StoreKey, chunks: list[Chunk], size: int, rest: Source | None) -> int:
        """Store a value of which `chunks` were read; `rest` gives more, if there may be more."""
        if self._entries.is_too_large(size):
            return await self._refuse(key, rest, size)
        known = self._map.peek(key, self._now())
        compare = (
            known is not None
            and known == (size if rest is None else rest.size or known)
            and key not in self._entries.undurable
        )
        if compare and rest is None:
            equal = self._equals_cached(key, chunks, size)
            if equal:
                self._map.get(key, self._now())
                return size
            compare = equal is None
        file = TempFile(self._layout, key, compare=compare, evict_page_cache=self._evict_page_cache)
        # What the new value is compared with must not be evicted before that is known.
        is_leased = compare and self._map.lease(key)
        try:
            if rest is None and size <= _SMALL_WRITE_BYTES and self._guard.allowed:
                began = timer()
                is_new = file.write_whole(chunks)
                self._guard.took(timer() - began)
            elif rest is None:
                is_new = await self._writes.run(partial(file.write_whole, chunks))
            else:
                size = await write_stream(
                    file,
                    chunks,
                    rest,
                    lane=self._writes,
                    budget=self._write_budget,
                    max_bytes=self._max_bytes,
                )
                if self._entries.is_too_large(size):
                    await self._writes.run(file.discard)
                    return await self._refuse(key, rest, size)
                is_new = await self._writes.run(file.finish)
        except BaseException as error:
            if size <= _SMALL_WRITE_BYTES:
                file.discard()
            else:
                await self._writes.run(file.discard)
            if isinstance(error, OSError):
                self._entries.watch_space(urgent=True)
                raise disk_error(error, f"storing {key}") from error
            raise
        finally:
            if is_leased:
                self._map.release(key, self._now())
        if is_new:
            await self._entries.commit(WrittenFile(key, file.name, file.fd, file.size))
        elif key not in self._map:
            raise unavailable(f"storing {key}: its file was removed by someone else meanwhile")
        return size

    def _equals_cached(self, key: StoreKey, chunks: list[Chunk], size: int) -> bool | None:
        """Whether a value is what the key has already; None if that takes the disk to answer."""
        if size > SMALL_READ_BYTES or not self._guard.allowed:
            return None
        cached = self._cached.whole(*self._layout.content(key), size)
        # Both as bytes, because comparing a memoryview goes item by item.
        return None if cached is None else bytes(cached) == b"".join(chunks)

    async def _refuse(self, key: StoreKey, rest: Source | None, size: int = 0) -> int:
        """Read the rest of a value that is too large, then let the key go."""
        if rest is not None:
            size += await drain(rest)
        # An older value of the key goes too: it is not what the key stands for any more.
        if self._map.remove(key) is None:
            self._entries.report(key)
        return size
