"""Writing a blob's temporary file: at once if it is small, in pieces while it arrives if not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Final

from nativelink.core.digest import StoreKey
from nativelink.core.streams import Chunk, Source
from nativelink.stores.disk import DiskLane, PieceBudget
from nativelink.stores.disk_calls import start_writeback, wait_writeback, write_all
from nativelink.stores.filesystem_layout import Layout

__all__ = ["TempFile", "gather", "write_stream"]


#: Written data that may wait in the page cache. Enough to keep a disk busy; and little enough
#: that no upload makes the commits of others wait for gigabytes.
_WINDOW_BYTES: Final = 8 << 20
#: A file beyond this waits for its own data before it joins a group: so the data of several goes
#: to the disk while a cycle of commits waits for it, and the next cycle is short.
_ALONE_BYTES: Final = 256 << 10
_COPY_BYTES: Final = 1 << 20


class TempFile:
    """The file of a blob that is being put; used by one thread at a time.

    If the key has a value of what may be the same size already, the new one is first compared with
    it, and nothing is written as long as they are equal: many clients upload the same blob, and a
    value that is there already is durable. (Sizes must be compared and bytes, too: an action
    cache's keys are digests of something else than their values.)

    Args:
        layout: where.
        key: whose value.
        compare: whether there is an older value to compare with.
        evict_page_cache: drop what was written from the page cache.
    """

    __slots__ = (
        "_compare",
        "_evict_page_cache",
        "_key",
        "_layout",
        "_older",
        "fd",
        "name",
        "size",
    )

    def __init__(
        self,
        layout: Layout,
        key: StoreKey,
        *,
        compare: bool = False,
        evict_page_cache: bool = False,
    ) -> None:
        self._layout = layout
        self._key = key
        self._compare = compare
        self._evict_page_cache = evict_page_cache
        #: Descriptor of the older value while it equals what has come so far.
        self._older = -1
        self.fd = -1
        self.name = layout.temp_name(key)
        self.size = 0

    def write(self, chunks: Sequence[Chunk]) -> None:
        """Append to the file; creates it if it must.

        Raises:
            OSError: the disk is full, for one.
        """
        if self._compare:
            self._compare = False
            self._open_older()
        if self._older >= 0:
            if self._older_continues(chunks):
                self.size += sum(map(len, chunks))
                return
            self._diverge()
        if self.fd < 0:
            self.fd = self._layout.create_temp(self.name)
        begin = self.size
        self.size += write_all(self.fd, chunks)
        if self.size > _ALONE_BYTES:
            self._write_back(begin)

    def write_whole(self, chunks: Sequence[Chunk]) -> bool:
        """`write` and `finish` of a value that is there completely."""
        self.write(chunks)
        return self.finish()

    def finish(self) -> bool:
        """No more will come, after at least one `write`.

        Returns:
            False if the older value is the same, so there is no new file.

        Raises:
            OSError: the disk is full, for one.
        """
        if self._older >= 0:
            if os.fstat(self._older).st_size == self.size:
                self._close_older()
                return False
            self._diverge()
        if self.size > _ALONE_BYTES:
            wait_writeback(self.fd)
        return True

    def discard(self) -> None:
        """Close everything and remove the file."""
        self._close_older()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._layout.discard_temp(self.name)

    def _write_back(self, begin: int) -> None:
        """Start writing the newest piece to the disk, and wait for one of some time ago."""
        if begin <= _ALONE_BYTES:
            begin = 0
        length = self.size - begin
        start_writeback(self.fd, begin, length)
        old = begin - _WINDOW_BYTES
        if old >= 0:
            wait_writeback(self.fd, old, length)
            if self._evict_page_cache:
                os.posix_fadvise(self.fd, old, length, os.POSIX_FADV_DONTNEED)

    def _open_older(self) -> None:
        directory, name = self._layout.content(self._key)
        try:
            self._older = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            pass

    def _older_continues(self, chunks: Sequence[Chunk]) -> bool:
        offset = self.size
        for chunk in chunks:
            # `bytes`, because comparing a memoryview goes item by item.
            if os.pread(self._older, len(chunk), offset) != bytes(chunk):
                return False
            offset += len(chunk)
        return True

    def _diverge(self) -> None:
        """Write after all: begin with what was equal."""
        self.fd = self._layout.create_temp(self.name)
        offset = 0
        while offset < self.size:
            piece = os.pread(self._older, min(_COPY_BYTES, self.size - offset), offset)
            if not piece:
                raise OSError(f"the older value of {self._key} shrank while it was compared")
            offset += write_all(self.fd, (piece,))
        self._close_older()

    def _close_older(self) -> None:
        if self._older >= 0:
            os.close(self._older)
            self._older = -1


async def gather(
    source: Source, budget: PieceBudget, *, look_beyond: bool = False
) -> tuple[list[Chunk], int, bool]:
    """Read a piece's worth of chunks.

    Args:
        source: where from.
        budget: how large a piece is.
        look_beyond: read on from exactly a piece, to see whether that is all.

    Returns:
        The chunks, the number of their bytes, and whether the source has ended.
    """
    chunks: list[Chunk] = []
    size = 0
    while size < budget.piece_bytes + look_beyond:
        chunk = await source.read()
        if not chunk:
            return chunks, size, True
        chunks.append(chunk)
        size += len(chunk)
    return chunks, size, False


async def write_stream(
    file: TempFile,
    chunks: list[Chunk],
    source: Source,
    *,
    lane: DiskLane,
    budget: PieceBudget,
    max_bytes: int,
) -> int:
    """Write `chunks` and then the rest of a source, as it comes.

    One piece is written while the next is gathered, so network and disk work at a time and two
    pieces are in memory. However this ends, nothing works on the file any more.

    Args:
        file: where.
        chunks: what was read from the source already; it is emptied.
        source: the rest.
        lane: where to write.
        budget: how large the pieces are.
        max_bytes: stop reading when the file reaches this; 0 is no limit.

    Returns:
        The number of bytes read; from `max_bytes` on the source was not read to its end.

    Raises:
        OSError: the disk is full, for one.
        NativeLinkError: what the source raises.
    """
    size = sum(map(len, chunks))
    job = None
    has_ended = False
    try:
        while chunks:
            written = chunks
            job = lane.begin(partial(file.write, written))
            chunks = []
            if not has_ended:
                chunks, gathered, has_ended = await gather(source, budget)
                size += gathered
                if max_bytes and size >= max_bytes:
                    break
            await lane.finish(job)
            # Callers up the stack may still hold this list.
            written.clear()
        return size
    finally:
        if job is not None:
            await lane.finish(job)
