"""Reading a blob's file: from the page cache at once, from the disk in a lane."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import suppress
from functools import partial
from typing import Final

from nativelink.core.streams import Chunk, Sink
from nativelink.stores.disk import DiskLane, InlineGuard, PieceBudget, timer

__all__ = ["SMALL_READ_BYTES", "BlobFile", "CachedReads", "FileShrankError", "stream_file"]

#: Files up to this size are read whole, and at once if they are in the page cache: 10 us.
SMALL_READ_BYTES: Final = 128 << 10
#: Pieces from the page cache are no larger: 30 us each, and they stay in the processor's cache.
_CACHED_PIECE_BYTES: Final = 256 << 10
#: A read from the page cache gives way to others after so much.
_GIVE_WAY_BYTES: Final = 4 << 20

_READ: Final = os.O_RDONLY | os.O_CLOEXEC
_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)
#: What `preadv2` says of a filesystem that cannot promise not to wait (tmpfs, NFS, FUSE).
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class CachedReads:
    """Reads that never wait for the disk, as far as the filesystem can promise that.

    Where it cannot, reads are made all the same: on tmpfs they are as quick, and where they are
    not, the caller's `InlineGuard` notices.
    """

    __slots__ = ("_flags",)

    def __init__(self) -> None:
        self._flags = _NOWAIT

    def whole(self, directory: int, name: str, size: int) -> Chunk | None:
        """A small file that has exactly `size` bytes, all of them in the page cache; else None.

        None says nothing about the file but that this is not the way to read it.
        """
        # This is the hottest path to the disk, so `piece` is written out here.
        try:
            fd = os.open(name, _READ, dir_fd=directory)
        except OSError:
            return None
        # One byte more than there should be shows a file that has grown.
        buffer = bytearray(size + 1)
        try:
            if os.preadv(fd, (buffer,), 0, self._flags) != size:
                return None
        except OSError as error:
            return self._retry(error, fd, 0, size + 1, exactly=size)
        finally:
            os.close(fd)
        return memoryview(buffer)[:size]

    def piece(self, fd: int, offset: int, length: int) -> Chunk | None:
        """Up to `length` bytes, as many as are in the page cache; None if there are none."""
        buffer = bytearray(length)
        try:
            size = os.preadv(fd, (buffer,), offset, self._flags)
        except OSError as error:
            return self._retry(error, fd, offset, length)
        return memoryview(buffer)[:size]

    def _retry(
        self, error: OSError, fd: int, offset: int, length: int, *, exactly: int | None = None
    ) -> Chunk | None:
        """Read without the promise not to wait, if it was the promise that failed."""
        if not self._flags or error.errno not in _UNSUPPORTED:
            return None
        self._flags = 0
        data = self.piece(fd, offset, length)
        return data if data is None or exactly in {None, len(data)} else None


class FileShrankError(Exception):
    """A file was truncated while it was read.

    Attributes:
        size: where it ends now, in bytes.
    """

    def __init__(self, expected: int, size: int) -> None:
        super().__init__(f"its file ended at {size} of {expected} bytes")
        self.size = size


class BlobFile:
    """A blob's file while it is read; calls may wait for the disk.

    Attributes:
        fd: -1 while it is not open.
        size: of the file when it was opened.
        first: what `open_and_read` read.
    """

    __slots__ = ("_directory", "_name", "fd", "first", "size")

    def __init__(self, directory: int, name: str) -> None:
        self._directory = directory
        self._name = name
        self.fd = -1
        self.size = -1
        self.first = b""

    def open(self) -> int:
        """Open the file; returns its size.

        Raises:
            OSError: FileNotFoundError, for one.
        """
        self.fd = os.open(self._name, _READ, dir_fd=self._directory)
        self.size = os.fstat(self.fd).st_size
        return self.size

    def open_and_read(self, offset: int, length: int) -> int:
        """`open` and `read` of the first piece in one go, as much of it as there is.

        Raises:
            OSError: FileNotFoundError, for one.
            FileShrankError: it was truncated just now.
        """
        size = self.open()
        length = min(length, size - offset)
        if length > 0:
            self.first = self.read(offset, length)
        return size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes.

        Raises:
            FileShrankError: the file ends before; it was truncated since `open`.
        """
        data = os.pread(self.fd, length, offset)
        while len(data) < length:
            more = os.pread(self.fd, length - len(data), offset + len(data))
            if not more:
                raise FileShrankError(self.size, offset + len(data))
            data += more
        return data

    def close(self) -> None:
        """Close the file if it is open."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def forget_cached(self) -> None:
        """Let the kernel drop the file's pages (`evict_page_cache`)."""
        if self.fd >= 0:
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)


async def stream_file(
    file: BlobFile,
    sink: Sink,
    position: int,
    end: int,
    *,
    lane: DiskLane,
    cached: CachedReads,
    guard: InlineGuard,
    budget: PieceBudget,
) -> None:
    """Write `[position, end)` of an open file into a sink.

    What is in the page cache is read at once. From the first piece on that is not, the file is
    read in a lane, always one piece ahead of the sink, so disk and network work at a time and two
    pieces are in memory. If `open_and_read` has read the first piece, the rest comes from the disk.

    Raises:
        OSError: the disk failed.
        FileShrankError: the file ended early.
        NativeLinkError: what the sink raises.
    """
    ahead = None
    first, file.first = file.first, b""
    from_disk = bool(first)
    since_rest = 0
    try:
        while position < end:
            piece: Chunk | None = first
            first = b""
            if ahead is not None:
                piece = await lane.finish(ahead)
                ahead = None
            elif not from_disk and guard.allowed:
                began = timer()
                length = min(budget.piece_bytes, _CACHED_PIECE_BYTES, end - position)
                piece = cached.piece(file.fd, position, length)
                guard.took(timer() - began)
            if not piece:
                from_disk = True
                length = min(budget.piece_bytes, end - position)
                piece = await lane.run(partial(file.read, position, length))
            position += len(piece)
            if from_disk and position < end:
                length = min(budget.piece_bytes, end - position)
                ahead = lane.begin(partial(file.read, position, length))
            await sink.write(piece)
            since_rest += len(piece)
            if since_rest >= _GIVE_WAY_BYTES:
                since_rest = 0
                await asyncio.sleep(0)
    finally:
        if ahead is not None:
            # It reads from the descriptor that the caller closes next.
            with suppress(OSError, FileShrankError):
                await lane.finish(ahead)
