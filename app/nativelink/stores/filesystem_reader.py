"""Reading the files that a filesystem store's map speaks of, and noticing where it is wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from nativelink.core.digest import StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Sink
from nativelink.stores.disk import DiskLane, InlineGuard, PieceBudget, timer
from nativelink.stores.disk_calls import disk_error
from nativelink.stores.eviction import EvictingMap
from nativelink.stores.filesystem_layout import Layout
from nativelink.stores.filesystem_read import (
    SMALL_READ_BYTES,
    BlobFile,
    CachedReads,
    FileShrankError,
    stream_file,
)
from nativelink.stores.store import absent

__all__ = ["FileReader"]

log: Final = logging.getLogger(__name__)


class FileReader:
    """Opens, reads and closes the files of values.

    The map says what a file should be. One that was deleted, truncated or has grown is given up.

    Args:
        layout: where files are.
        sizes: the map: sizes of values in bytes, by key.
        now: the map's time.
        lane: where the disk is waited for.
        budget: how large pieces are.
        cached: what reads from the page cache.
        guard: says whether that may be done on the event loop.
        evict_page_cache: ask the kernel to forget files after they were read.
    """

    __slots__ = (
        "_budget",
        "_cached",
        "_evict_page_cache",
        "_guard",
        "_lane",
        "_layout",
        "_map",
        "_now",
    )

    def __init__(
        self,
        layout: Layout,
        sizes: EvictingMap[StoreKey, int],
        *,
        now: Callable[[], float],
        lane: DiskLane,
        budget: PieceBudget,
        cached: CachedReads,
        guard: InlineGuard,
        evict_page_cache: bool,
    ) -> None:
        self._layout = layout
        self._map = sizes
        self._now = now
        self._lane = lane
        self._budget = budget
        self._cached = cached
        self._guard = guard
        self._evict_page_cache = evict_page_cache

    async def open(
        self,
        key: StoreKey,
        file: BlobFile,
        expected: int,
        offset: int,
        limit: int | None,
        *,
        is_cached: bool,
    ) -> int | None:
        """Open a value's file; its size, or None if the key must be looked up again.

        A file that is not in the page cache is opened and its first piece read in one hop.

        Raises:
            NativeLinkError: NOT_FOUND if it is gone or its size is wrong.
        """
        actual: int | None = None
        try:
            if is_cached:
                began = timer()
                actual = file.open()
                self._guard.took(timer() - began)
            else:
                length = max(self._budget.piece_bytes, SMALL_READ_BYTES)
                if limit is not None:
                    length = min(limit, length)
                actual = await self._lane.run(partial(file.open_and_read, offset, length))
        except FileShrankError as error:
            actual = error.size
        except FileNotFoundError:
            pass
        except OSError as error:
            raise disk_error(error, f"reading {key}") from error
        known = self._map.peek(key, self._now())
        if actual is not None and actual in {expected, known}:
            return actual
        if known is not None and (known != expected or self._layout.size_of(key) == known):
            # It was replaced, or evicted and put again, while it was opened. Names change on this
            # thread only, so what is found on it now is the truth.
            return None
        self._lose(key, expected, actual)
        raise absent(key)

    async def stream(
        self, key: StoreKey, file: BlobFile, sink: Sink, position: int, end: int
    ) -> None:
        """Write `[position, end)` of an open file into a sink.

        Raises:
            NativeLinkError: DATA_LOSS if it was truncated meanwhile; what the disk or `sink` says.
        """
        try:
            with self._budget as budget:
                await stream_file(
                    file,
                    sink,
                    position,
                    end,
                    lane=self._lane,
                    cached=self._cached,
                    guard=self._guard,
                    budget=budget,
                )
        except OSError as error:
            raise disk_error(error, f"reading {key}") from error
        except FileShrankError as error:
            if (
                self._map.peek(key, self._now()) == file.size
                and self._layout.size_of(key) != file.size
            ):
                self._lose(key, file.size, error.size)
            raise NativeLinkError(Code.DATA_LOSS, f"reading {key}: {error}") from error

    def close(self, key: StoreKey, file: BlobFile) -> None:
        """Close a value's file, in the lane if that takes its time."""
        if self._evict_page_cache or key not in self._map:
            # Forgetting pages, or freeing the blocks of a removed file, takes its time.
            def close() -> None:
                if self._evict_page_cache:
                    file.forget_cached()
                file.close()

            self._lane.submit(close)
        else:
            file.close()

    def _lose(self, key: StoreKey, expected: int, actual: int | None) -> None:
        """Forget a value whose file is not what was stored."""
        if self._map.remove(key) is not None:
            log.warning(
                "the file of %s was changed by someone else and is given up: it had %d bytes, %s",
                key,
                expected,
                "now it is gone" if actual is None else f"now {actual}",
            )
