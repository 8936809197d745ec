"""What a filesystem store has: the map of its values, in step with the files.

All names change on the event loop's thread: renames into place and the map of entries go hand in
hand, without a lock. Only removing evicted files happens elsewhere, and a key whose file is being
removed is kept from being written until it is gone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

from nativelink.core.clock import Clock
from nativelink.core.digest import EMPTY_DIGESTS, Digest, StoreKey
from nativelink.stores.disk import DiskLane
from nativelink.stores.eviction import EvictingMap, EvictionPolicy
from nativelink.stores.filesystem_files import FilesystemFiles
from nativelink.stores.filesystem_layout import Layout
from nativelink.stores.filesystem_remove import Removals
from nativelink.stores.filesystem_scan import Found, StartupScan
from nativelink.stores.free_space import DiskSpace, FreeSpaceWatch
from nativelink.stores.group_commit import CommitStatistics, DiskSync, GroupCommit, WrittenFile
from nativelink.stores.hash_index import HashIndex
from nativelink.stores.store import absent

__all__ = ["FilesystemEntries"]

log = logging.getLogger(__name__)


class FilesystemEntries:
    """The values of a filesystem store.

    Until the start-up scan has ended, what the map does not know is looked for on the disk.

    Args:
        layout: where files are.
        eviction: the limits; sizes count in whole blocks.
        clock: wall time for the age of files, monotonic time for everything else.
        block_size: of the filesystem, in bytes.
        evict_page_cache: ask the kernel to forget files after they were written.
        reads: where the disk is waited for by who looks.
        writes: likewise by who removes files, or makes them executable.

    Attributes:
        sizes: of values in bytes, by key; the map.
        scanning: whether the start-up scan still runs.
        undurable: keys whose newest value is in place, and seen, but might not survive a power
            cut yet. An upload of the same value is not acknowledged for being there already.
        files: what a worker on this machine needs.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        eviction: EvictionPolicy,
        clock: Clock,
        block_size: int,
        evict_page_cache: bool,
        reads: DiskLane,
        writes: DiskLane,
    ) -> None:
        self._layout = layout
        self._clock = clock
        self._now = clock.monotonic
        self._block_size = block_size
        self._max_bytes = eviction.max_bytes
        self._evict_page_cache = evict_page_cache
        self._reads = reads
        self.sizes: EvictingMap[StoreKey, int] = EvictingMap(eviction, weigh=self._on_disk)
        for digest in EMPTY_DIGESTS:
            self.sizes.pin(digest, 0)
        self.sizes.on_removed(self._removed)
        self._by_hash = HashIndex(self.sizes.keys_oldest_first)
        self._callbacks: list[Callable[[StoreKey], None]] = []
        self._space = FreeSpaceWatch()
        self._commit: GroupCommit | None = None
        self._scan: StartupScan | None = None
        self.scanning = False
        #: While the scan runs, keys whose files changed since it may have seen them.
        self._changed: set[StoreKey] = set()
        self.undurable: dict[StoreKey, WrittenFile] = {}
        self._removals = Removals(layout, writes)
        self.files = FilesystemFiles(self, layout, self.sizes, now=self._now, lane=writes)

    def start(self, sync: DiskSync, commits: DiskLane) -> None:
        """Take commits, and begin the scan of what is there."""
        self._commit = GroupCommit(self, sync=sync, lane=commits)
        self.scanning = True
        self._scan = StartupScan(self._layout, take=self._take, done=self._scanned)
        self._scan.start()

    async def close(self) -> None:
        """Wait for commits under way, and remove what was evicted."""
        assert self._commit is not None
        assert self._scan is not None
        await self._scan.close()
        await self._commit.wait_idle()
        self._removals.flush()

    def commits(self) -> CommitStatistics:
        """How files became durable."""
        assert self._commit is not None
        return self._commit.statistics()

    @property
    def removing(self) -> int:
        """Evicted files that are still on the disk."""
        return len(self._removals)

    def disk(self) -> DiskSpace | None:
        """What the disk has; None where it does not say."""
        try:
            return DiskSpace.of(self._layout.digests)
        except OSError as error:
            log.warning("cannot ask how full the disk is: %s", error)
            return None

    def on_removed(self, callback: Callable[[StoreKey], None], /) -> None:
        """`RemovalFeed` of the store."""
        self._callbacks.append(callback)

    async def find(self, hash_: str) -> Digest | None:
        """`BlobFinder`; what the start-up scan has not reached yet is found a little later."""
        return await self._by_hash.find(hash_)

    # Looking up what the scan may not have reached.

    async def complete(
        self, keys: Sequence[StoreKey], sizes: Sequence[int | None]
    ) -> list[int | None]:
        """The sizes in the map, with those in it that only the disk knows."""
        unknown = [key for key, size in zip(keys, sizes, strict=True) if size is None]
        found = await self._look_on_disk(unknown)
        return [
            found.get(key) if size is None else size for key, size in zip(keys, sizes, strict=True)
        ]

    async def find_size(self, key: StoreKey) -> int:
        """The size of a value that the map does not know.

        Raises:
            NativeLinkError: NOT_FOUND; INVALID_ARGUMENT for a key that no file can have.
        """
        known = self.sizes.get(key, self._now())
        if known is not None:
            return known
        self._layout.content(key)
        if not self.scanning:
            raise absent(key)
        found = await self._look_on_disk((key,))
        if key not in found:
            raise absent(key)
        return found[key]

    async def _look_on_disk(self, keys: Sequence[StoreKey]) -> dict[StoreKey, int]:
        """The sizes of files that the scan has not reached yet, in one hop."""
        size_of = self._layout.size_of
        sizes = await self._reads.run(lambda: [size_of(key) for key in keys])
        found: dict[StoreKey, int] = {}
        for key, size in zip(keys, sizes, strict=True):
            known = self.sizes.peek(key, self._now())
            if known is not None:
                found[key] = known
            elif size is not None and self.scanning and key not in self._changed:
                self._by_hash.add(key)
                self.sizes.insert(key, size, self._now())
                found[key] = size
        return found

    # `Keeper`: what lending files takes.

    async def look_up(self, keys: Sequence[StoreKey]) -> None:
        """Make the map know those of `keys` that are there."""
        if self.scanning:
            sizes = self.sizes.get_many(keys, self._now())
            if None in sizes:
                await self.complete(keys, sizes)

    def is_kept(self, key: Digest) -> bool:
        """Whether a blob is there, and would survive a power cut; refreshes it."""
        return (
            self.sizes.get(key, self._now()) == key.size_bytes
            and key not in self.undurable
            and self._layout.size_of(key) == key.size_bytes
        )

    def is_too_large(self, size: int) -> bool:
        """Whether a value could only be evicted at once, and everything else before it."""
        return bool(self._max_bytes and self._on_disk(size) >= self._max_bytes)

    def lose(self, key: StoreKey) -> None:
        """Forget a value and remove its file."""
        self.sizes.remove(key)

    async def commit(self, file: WrittenFile) -> None:
        """Make a temporary file the value of its key, durable when this returns."""
        assert self._commit is not None
        await self._commit.commit(file)

    def _on_disk(self, size: int) -> int:
        """What a value of `size` bytes takes on the disk."""
        return -(-size // self._block_size) * self._block_size

    # `Publisher`: what a commit does to the map.

    def may_rename(self, key: StoreKey) -> bool:
        """Not while the file of an evicted value of the key is being removed."""
        return key not in self._removals

    def is_new(self, key: StoreKey) -> bool:
        """What the map does not know nobody looks for, unless it does not know all yet."""
        return not (self.scanning or key in self.sizes or key in self._removals)

    def rename(self, file: WrittenFile) -> int:
        """Put a file in place."""
        self.files.replacing(file.key)
        return self._layout.publish(file.name, file.key)

    def rename_new(self, file: WrittenFile) -> int:
        """Put a file in place where there is none."""
        return self._layout.publish(file.name, file.key)

    def renamed(self, file: WrittenFile) -> None:
        """The map must agree with the disk at once where there was another value."""
        if self.scanning:
            self._changed.add(file.key)
        if file.key in self.sizes:
            file.listed = True
            self.undurable[file.key] = file
            self._insert(file)

    def committed(self, file: WrittenFile) -> None:
        """A new value is seen by nobody before it is durable."""
        if file.listed:
            # A still newer value may be on its way.
            if self.undurable.get(file.key) is file:
                del self.undurable[file.key]
        else:
            self._insert(file)
        if self._evict_page_cache:
            os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if self._space.wrote(self._on_disk(file.size)):
            self.watch_space()

    def discard(self, file: WrittenFile) -> None:
        """Remove a temporary file; its descriptor is the commit's to close."""
        self._layout.discard_temp(file.name)

    def _insert(self, file: WrittenFile) -> None:
        self._by_hash.add(file.key)
        self.sizes.insert(file.key, _shared(file.key, file.size), self._now())

    # What leaves.

    def _removed(self, key: StoreKey, size: int) -> None:
        """The map let a value go."""
        self._by_hash.discard(key)
        if self.scanning:
            self._changed.add(key)
        self.files.removed(key)
        self._removals.add(key, self._on_disk(size))
        self.report(key)

    def report(self, key: StoreKey) -> None:
        """Say that a key is gone."""
        for callback in self._callbacks:
            callback(key)

    def watch_space(self, *, urgent: bool = False) -> None:
        """Evict if the disk is too full, or if it was found full."""
        space = self.disk()
        if space is None:
            return
        wanted = self._space.shortfall(space, leaving_bytes=self._removals.leaving_bytes)
        if not wanted:
            return
        freed = self.sizes.evict_bytes(wanted)
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
        insert = self.sizes.insert_oldest
        for key, size, used in found:
            if key not in self._changed:
                self._by_hash.add(key)
                insert(key, _shared(key, size), now - max(0.0, wall - used))

    def _scanned(self, error: BaseException | None) -> None:
        if error is not None:
            # The disk is asked for what is unknown for ever, which is slow but right.
            log.error("%s could not be read: %s", self._layout.content_path, error)
            return
        self.scanning = False
        self._changed.clear()
        self.sizes.evict(self._now())
        self.watch_space()


def _shared(key: StoreKey, size: int) -> int:
    """`size` as the object that the digest holds already: 32 bytes less for each entry."""
    return key.size_bytes if isinstance(key, Digest) and key.size_bytes == size else size
