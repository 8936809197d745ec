"""How much of the disk must stay free, and when to look."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

__all__ = ["DiskSpace", "FreeSpaceWatch"]

_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """What a filesystem has.

    Attributes:
        total_bytes: its size.
        available_bytes: what we may still write, root's reserve left out.
    """

    total_bytes: int
    available_bytes: int

    @classmethod
    def of(cls, fd: int) -> DiskSpace:
        """Ask the filesystem that holds an open file."""
        status = os.statvfs(fd)
        return cls(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)


class FreeSpaceWatch:
    """Decides how much a store must evict so that the disk does not fill up.

    `max_bytes` bounds one store, but a disk has other tenants: other stores, logs, a build. Below
    a low-water mark of free space the store evicts early, whatever its policy says, because a full
    disk fails every write of everyone. The mark is 2 % of the disk and at least 1 GiB, but never
    more than a tenth of a small disk.

    The filesystem is asked after every so many written bytes, not at every write, so often that
    what is written in between is an eighth of the mark.
    """

    __slots__ = ("_since_bytes", "_step_bytes")

    #: Look at least this often, and before the mark is known.
    _MAX_STEP_BYTES: Final = 64 << 20

    def __init__(self) -> None:
        self._step_bytes = 0
        self._since_bytes = 0

    @staticmethod
    def low_bytes(total_bytes: int) -> int:
        """The low-water mark of a disk of this size."""
        return min(max(_GIB, total_bytes // 50), total_bytes // 10)

    def wrote(self, size_bytes: int) -> bool:
        """So many bytes were written; True if it is time to look at the disk."""
        self._since_bytes += size_bytes
        if self._since_bytes < self._step_bytes:
            return False
        self._since_bytes = 0
        return True

    def shortfall(self, space: DiskSpace, *, leaving_bytes: int) -> int:
        """How many bytes must be evicted now.

        Args:
            space: what the filesystem says.
            leaving_bytes: what was evicted but is not removed from the disk yet.
        """
        low = self.low_bytes(space.total_bytes)
        self._step_bytes = min(self._MAX_STEP_BYTES, low // 8)
        available = space.available_bytes + leaving_bytes
        if available >= low:
            return 0
        # One step more, so that the next look does not find the same again.
        return low - available + self._step_bytes
