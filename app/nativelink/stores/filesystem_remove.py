"""Removing the files of evicted values, off the event loop."""

from __future__ import annotations

import asyncio
import logging

from nativelink.core.digest import StoreKey
from nativelink.core.errors import NativeLinkError
from nativelink.stores.disk import DiskLane
from nativelink.stores.filesystem_layout import Layout

__all__ = ["Removals"]

log = logging.getLogger(__name__)


class Removals:
    """Files on their way out: those of one turn of the loop go together.

    A key is held until its file is gone, so that a new value cannot get the name just before the
    old one's removal takes it away again.

    Args:
        layout: where the files are.
        lane: where to remove them.
    """

    def __init__(self, layout: Layout, lane: DiskLane) -> None:
        self._layout = layout
        self._lane = lane
        self._sizes: dict[StoreKey, int] = {}
        self._gathered: list[StoreKey] = []
        #: Bytes on the disk that are about to be free.
        self.leaving_bytes = 0

    def __contains__(self, key: StoreKey) -> bool:
        return key in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, key: StoreKey, size_bytes: int) -> None:
        """Remove a key's file, which has `size_bytes` on the disk."""
        if key in self._sizes:
            return
        self._sizes[key] = size_bytes
        self.leaving_bytes += size_bytes
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self.flush)
        self._gathered.append(key)

    def flush(self) -> None:
        """Send what was gathered on its way."""
        keys, self._gathered = self._gathered, []
        if keys:
            self._lane.submit(lambda: self._remove(keys)).add_done_callback(
                lambda _: self._gone(keys)
            )

    def _remove(self, keys: list[StoreKey]) -> None:
        for key in keys:
            try:
                self._layout.remove(key)
            except (OSError, NativeLinkError) as error:
                log.warning("cannot remove the file of %s: %s", key, error)

    def _gone(self, keys: list[StoreKey]) -> None:
        for key in keys:
            self.leaving_bytes -= self._sizes.pop(key)
