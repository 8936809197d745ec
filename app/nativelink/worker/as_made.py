"""Whether a file or directory is what was made, or somebody changed what matters of it."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from typing import Final, NamedTuple

__all__ = ["DIRECTORY_MODE", "Marks", "is_empty_stream", "is_new_directory", "marks_of"]

#: Type and permissions of what is made for an action.
DIRECTORY_MODE: Final = stat.S_IFDIR | 0o755
_STREAM_MODE: Final = stat.S_IFREG | 0o644

#: ioctl_iflags(2): FS_IOC_GETFLAGS, and the flags that somebody can set (immutable, synchronous,
#: project, and so on), not those that tell how a file system keeps a file.
_GET_FLAGS: Final = 0x80086601
_MARKS: Final = 0x380FF | 0x4C00 | 0x100000 | 0x2800000 | 0x20000000 | 0x40000000
_FLAGS: Final = struct.Struct("@Q")
_NONE: Final[frozenset[tuple[str, bytes]]] = frozenset()


def is_new_directory(status: os.stat_result) -> bool:
    """Whether its type, permissions and owner are those of a new one, and its size.

    ext4 gives back none of what a directory needed for its largest number of names.
    """
    return _is_ours(status, DIRECTORY_MODE) and status.st_size <= status.st_blksize


def is_empty_stream(status: os.stat_result) -> bool:
    """Whether it is a file to which nothing was written, without another name."""
    return _is_ours(status, _STREAM_MODE) and not status.st_size and status.st_nlink == 1


class Marks(NamedTuple):
    """What sets a file or directory apart, besides what `os.stat` tells.

    Attributes:
        flags: those that somebody can set.
        attributes: extended attributes, with their values.
    """

    flags: int
    attributes: frozenset[tuple[str, bytes]]

    def are_inherited(self, parent: Marks) -> bool:
        """Whether the directory that it was made in has all of them."""
        return not self.flags & ~parent.flags and self.attributes <= parent.attributes


def marks_of(fd: int) -> Marks:
    """What a file or directory is marked with.

    Raises:
        OSError: it cannot be asked.
    """
    names = os.listxattr(fd)
    attributes = frozenset((name, os.getxattr(fd, name)) for name in names) if names else _NONE
    flags = bytearray(_FLAGS.size)
    try:
        fcntl.ioctl(fd, _GET_FLAGS, flags)
    except OSError:
        pass  # This filesystem has none.
    return Marks(_FLAGS.unpack(flags)[0] & _MARKS, attributes)


def _is_ours(status: os.stat_result, mode: int) -> bool:
    return (
        status.st_mode == mode and status.st_uid == os.geteuid() and status.st_gid == os.getegid()
    )
