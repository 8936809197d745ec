"""Blobs in files, one each, compatible with NativeLink's directories.

What is where: `filesystem_layout` knows names and directories, `filesystem_scan` finds what is
there at the start, `filesystem_read` and `filesystem_write` move bytes, `filesystem_reader` gives
up files that are not what they should be, `group_commit` makes them durable, `disk` says on which
thread a system call runs, `free_space` keeps the disk from filling up, and `eviction` says what
leaves. This module is the store that they make.

All names change on the event loop's thread: renames into place and the map of entries go hand in
hand, without a lock. Only removing evicted files happens elsewhere, and a key whose file is being
removed is kept from being written until it is gone.

Nothing is believed for longer than necessary. Every read compares the size of the file with the
one expected; a file that was deleted, truncated or has grown is reported absent before a byte is
written, and forgotten. A file that is truncated while it is read ends the read with DATA_LOSS.
"""

from __future__ import annotations

import asyncio
import logging
import os
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
from nativelink.stores.disk import (
    DiskLane,
    InlineGuard,
    LaneStatistics,
    PieceBudget,
    disk_error,
    timer,
)
from nativelink.stores.eviction import EvictingMap, EvictionPolicy, EvictionStatistics
from nativelink.stores.filesystem_files import FilesystemFiles
from nativelink.stores.filesystem_layout import Layout
from nativelink.stores.filesystem_read import SMALL_READ_BYTES, BlobFile, CachedReads
from nativelink.stores.filesystem_reader import FileReader
from nativelink.stores.filesystem_remove import Removals
from nativelink.stores.filesystem_scan import Found, StartupScan
from nativelink.stores.filesystem_write import TempFile, gather, write_stream
from nativelink.stores.free_space import DiskSpace, FreeSpaceWatch
from nativelink.stores.group_commit import CommitStatistics, DiskSync, GroupCommit, WrittenFile
from nativelink.stores.hash_index import HashIndex
from nativelink.stores.store import absent

__all__ = ["FilesystemStatistics", "FilesystemStore"]

log = logging.getLogger(__name__)

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
        max_concurrent_writes: so many values are written at a time; 0 is no limit.
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
        self._clock = clock
        self._now = clock.monotonic
        self._block_size = block_size
        self._max_bytes = eviction.max_bytes
        self._write_budget = PieceBudget(
            _TRANSFER_BYTES // 2,
            smallest_bytes=_SMALLEST_PIECE_BYTES,
            largest_bytes=_WRITE_PIECE_BYTES,
        )
        self._evict_page_cache = evict_page_cache
        self._writers = asyncio.Semaphore(max_concurrent_writes) if max_concurrent_writes else None
        self._layout = Layout(content_path, temp_path)
        #: Sizes of values in bytes, by key.
        self._map: EvictingMap[StoreKey, int] = EvictingMap(eviction, weigh=self._on_disk)
        for digest in EMPTY_DIGESTS:
            self._map.pin(digest, 0)
        self._map.on_removed(self._removed)
        self._by_hash = HashIndex(self._map.keys_oldest_first)
        self._callbacks: list[Callable[[StoreKey], None]] = []
        self._guard = InlineGuard(clock.monotonic)
        self._cached = CachedReads()
        self._space = FreeSpaceWatch()
        self._sync = DiskSync(clock.monotonic)
        self._reads = DiskLane("filesystem-read", threads=_READ_THREADS)
        self._writes = DiskLane("filesystem-write", threads=_WRITE_THREADS)
        self._commits = DiskLane("filesystem-commit", threads=1)
        self._commit: GroupCommit | None = None
        self._scan: StartupScan | None = None
        #: While the scan runs, keys whose files changed since it may have seen them.
        self._changed: set[StoreKey] = set()
        self._scanning = False
        #: Keys whose newest value is in place, and seen, but might not survive a power cut yet.
        #: An upload of the same value is not acknowledged for being there already.
        self._undurable: dict[StoreKey, WrittenFile] = {}
        self._removals = Removals(self._layout, self._writes)
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
        #: `LocalFiles`: what a worker on this machine needs.
        self.files = FilesystemFiles(
            self, self._layout, self._map, now=self._now, lane=self._writes
        )

    # Lifetime.

    async def __aenter__(self) -> Self:
        lanes = (self._reads, self._writes, self._commits)
        for lane in lanes:
            lane.start()
        try:
            await self._commits.run(self._layout.open)
        except BaseException:
            for lane in lanes:
                await lane.close()
            raise
        await self._commits.run(self.files.open)
        directories = (self._layout.digests, self._layout.strings)
        # Renames that an earlier process was not told to be durable are, before we rely on them.
        await self._commits.run(lambda: self._sync.sync((), directories))
        self._commit = GroupCommit(self, sync=self._sync, lane=self._commits)
        self._scanning = True
        self._scan = StartupScan(self._layout, take=self._take, done=self._scanned)
        self._scan.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._commit is not None
        assert self._scan is not None
        await self._scan.close()
        await self._commit.wait_idle()
        self._removals.flush()
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
        self._callbacks.append(callback)

    def statistics(self) -> FilesystemStatistics:
        """Figures of this moment."""
        assert self._commit is not None
        return FilesystemStatistics(
            entries=self._map.statistics(),
            commits=self._commit.statistics(),
            reads=self._reads.statistics(),
            writes=self._writes.statistics(),
            scanning=self._scanning,
            removing=len(self._removals),
            inline_pauses=self._guard.pauses,
            disk=self._disk(),
        )

    def _disk(self) -> DiskSpace | None:
        try:
            return DiskSpace.of(self._layout.digests)
        except OSError as error:
            log.warning("cannot ask how full the disk is: %s", error)
            return None

    # Looking up.

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        sizes = self._map.get_many(keys, self._now())
        if self._scanning and None in sizes:
            unknown = [key for key, size in zip(keys, sizes, strict=True) if size is None]
            found = await self._look_on_disk(unknown)
            sizes = [
                found.get(key) if size is None else size
                for key, size in zip(keys, sizes, strict=True)
            ]
        return sizes

    async def _look_on_disk(self, keys: Sequence[StoreKey]) -> dict[StoreKey, int]:
        """The sizes of files that the scan has not reached yet, in one hop."""
        size_of = self._layout.size_of
        sizes = await self._reads.run(lambda: [size_of(key) for key in keys])
        found: dict[StoreKey, int] = {}
        for key, size in zip(keys, sizes, strict=True):
            known = self._map.peek(key, self._now())
            if known is not None:
                found[key] = known
            elif size is not None and self._scanning and key not in self._changed:
                self._by_hash.add(key)
                self._map.insert(key, size, self._now())
                found[key] = size
        return found

    async def find(self, hash_: str) -> Digest | None:
        """`BlobFinder`; what the start-up scan has not reached yet is found a little later."""
        return await self._by_hash.find(hash_)

    # Reading.

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        size = self._map.get(key, self._now())
        if size is None:
            if type(key) is Digest and not self._scanning:
                # What `_find` would find out; a miss is as frequent as a hit.
                raise missing_blob(key)
            size = await self._find(key)
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
                    size = await self._find(key)
                    continue
                if offset > size:
                    raise out_of_range(f"offset {offset} is beyond the {size} bytes of {key}")
                end = size if limit is None else min(size, offset + limit)
                await self._files.stream(key, file, sink, offset, end)
                return
            finally:
                self._files.close(key, file)

    async def _find(self, key: StoreKey) -> int:
        """The size of a value that the map does not know.

        Raises:
            NativeLinkError: NOT_FOUND; INVALID_ARGUMENT for a key that no file can have.
        """
        known = self._map.get(key, self._now())
        if known is not None:
            return known
        self._layout.content(key)
        if not self._scanning:
            raise absent(key)
        found = await self._look_on_disk((key,))
        if key not in found:
            raise absent(key)
        return found[key]

    # Writing.

    async def put(self, key: StoreKey, source: Source) -> int:
        if key in EMPTY_DIGESTS:
            return await drain(source)
        self._layout.content(key)
        if source.size is not None and self.is_too_large(source.size):
            return await self._refuse(key, source)
        with self._write_budget as budget:
            chunks, size, is_whole = await gather(source, budget, look_beyond=True)
            rest = None if is_whole else source
            if self._writers is None:
                return await self._put(key, chunks, size, rest)
            async with self._writers:
                return await self._put(key, chunks, size, rest)

    async def _put(self, key: StoreKey, chunks: list[Chunk], size: int, rest: Source | None) -> int:
        """Store a value of which `chunks` were read; `rest` gives more, if there may be more."""
        if self.is_too_large(size):
            return await self._refuse(key, rest, size)
        known = self._map.peek(key, self._now())
        compare = (
            known is not None
            and known == (size if rest is None else rest.size or known)
            and key not in self._undurable
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
                if self.is_too_large(size):
                    await self._writes.run(file.discard)
                    return await self._refuse(key, rest, size)
                is_new = await self._writes.run(file.finish)
        except BaseException as error:
            if size <= _SMALL_WRITE_BYTES:
                file.discard()
            else:
                await self._writes.run(file.discard)
            if isinstance(error, OSError):
                self._watch_space(urgent=True)
                raise disk_error(error, f"storing {key}") from error
            raise
        finally:
            if is_leased:
                self._map.release(key, self._now())
        if is_new:
            await self.commit(WrittenFile(key, file.name, file.fd, file.size))
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

    def _on_disk(self, size: int) -> int:
        """What a value of `size` bytes takes on the disk."""
        return -(-size // self._block_size) * self._block_size

    async def _refuse(self, key: StoreKey, rest: Source | None, size: int = 0) -> int:
        """Read the rest of a value that is too large, then let the key go."""
        if rest is not None:
            size += await drain(rest)
        # An older value of the key goes too: it is not what the key stands for any more.
        if self._map.remove(key) is None:
            self._report(key)
        return size

    # `Keeper`: what lending files takes.

    async def look_up(self, keys: Sequence[StoreKey]) -> None:
        """Make the map know those of `keys` that are there."""
        if self._scanning:
            await self.has(keys)

    def is_kept(self, key: Digest) -> bool:
        """Whether a blob is there, and would survive a power cut; refreshes it."""
        return (
            self._map.get(key, self._now()) == key.size_bytes
            and key not in self._undurable
            and self._layout.size_of(key) == key.size_bytes
        )

    def is_too_large(self, size: int) -> bool:
        """Whether a value could only be evicted at once, and everything else before it."""
        return bool(self._max_bytes and self._on_disk(size) >= self._max_bytes)

    def lose(self, key: StoreKey) -> None:
        """Forget a value and remove its file."""
        self._map.remove(key)

    async def commit(self, file: WrittenFile) -> None:
        """Make a temporary file the value of its key, durable when this returns."""
        assert self._commit is not None
        await self._commit.commit(file)

    # `Publisher`: what a commit does to the map.

    def may_rename(self, key: StoreKey) -> bool:
        """Not while the file of an evicted value of the key is being removed."""
        return key not in self._removals

    def is_new(self, key: StoreKey) -> bool:
        """What the map does not know nobody looks for, unless it does not know all yet."""
        return not (self._scanning or key in self._map or key in self._removals)

    def rename(self, file: WrittenFile) -> int:
        """Put a file in place."""
        self.files.replacing(file.key)
        return self._layout.publish(file.name, file.key)

    def rename_new(self, file: WrittenFile) -> int:
        """Put a file in place where there is none."""
        return self._layout.publish(file.name, file.key)

    def renamed(self, file: WrittenFile) -> None:
        """The map must agree with the disk at once where there was another value."""
        if self._scanning:
            self._changed.add(file.key)
        if file.key in self._map:
            file.listed = True
            self._undurable[file.key] = file
            self._insert(file)

    def committed(self, file: WrittenFile) -> None:
        """A new value is seen by nobody before it is durable."""
        if file.listed:
            # A still newer value may be on its way.
            if self._undurable.get(file.key) is file:
                del self._undurable[file.key]
        else:
            self._insert(file)
        if self._evict_page_cache:
            os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if self._space.wrote(self._on_disk(file.size)):
            self._watch_space()

    def discard(self, file: WrittenFile) -> None:
        """Remove a temporary file; its descriptor is the commit's to close."""
        self._layout.discard_temp(file.name)

    def _insert(self, file: WrittenFile) -> None:
        self._by_hash.add(file.key)
        self._map.insert(file.key, _shared(file.key, file.size), self._now())

    # What leaves.

    def _removed(self, key: StoreKey, size: int) -> None:
        """The map let a value go."""
        self._by_hash.discard(key)
        if self._scanning:
            self._changed.add(key)
        self.files.removed(key)
        self._removals.add(key, self._on_disk(size))
        self._report(key)

    def _report(self, key: StoreKey) -> None:
        for callback in self._callbacks:
            callback(key)

    def _watch_space(self, *, urgent: bool = False) -> None:
        """Evict if the disk is too full, or if it was found full."""
        space = self._disk()
        if space is None:
            return
        wanted = self._space.shortfall(space, leaving_bytes=self._removals.leaving_bytes)
        if not wanted:
            return
        freed = self._map.evict_bytes(wanted)
        log.warning(
            "%s: %d MiB are free on the disk, less than the %d MiB to be kept free%s; "
            "%d MiB were evicted",
            self._layout.content_path,
            space.available_bytes >> 20,
            self._space.low_bytes(space.total_bytes) >> 20,
            ", and a write failed" if urgent else "",
            freed >> 20,
        )

    # The start-up scan.

    def _take(self, found: Sequence[Found]) -> None:
        """Entries from before, less recent than everything that the map has."""
        now = self._now()
        wall = self._clock.time()
        insert = self._map.insert_oldest
        for key, size, used in found:
            if key not in self._changed:
                self._by_hash.add(key)
                insert(key, _shared(key, size), now - max(0.0, wall - used))

    def _scanned(self, error: BaseException | None) -> None:
        if error is not None:
            # The disk is asked for what is unknown for ever, which is slow but right.
            log.error("%s could not be read: %s", self._layout.content_path, error)
            return
        self._scanning = False
        self._changed.clear()
        self._map.evict(self._now())
        self._watch_space()


def _shared(key: StoreKey, size: int) -> int:
    """`size` as the object that the digest holds already: 32 bytes less for each entry."""
    return key.size_bytes if isinstance(key, Digest) and key.size_bytes == size else size
