"""Whether a file or directory is what was made, or somebody changed what matters of it."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from typing import Final

__all__ = ["DIRECTORY_MODE", "STREAM_MODE", "is_empty_stream", "is_marked", "is_plain"]

#: Type and permissions of what is made for an action.
DIRECTORY_MODE: Final = stat.S_IFDIR | 0o755
STREAM_MODE: Final = stat.S_IFREG | 0o644

#: ioctl_iflags(2): FS_IOC_GETFLAGS, and the flags immutable, append-only, encrypted, verity and
#: case-insensitive, which change what can be done with a file or directory.
_GET_FLAGS: Final = 0x80086601
_MARKS: Final = 0x10 | 0x20 | 0x800 | 0x100000 | 0x40000000
_FLAGS: Final = struct.Struct("@Q")


def is_plain(status: os.stat_result, mode: int) -> bool:
    """Whether it is of that type, with those permissions, and this process' own."""
    return (
        status.st_mode == mode and status.st_uid == os.geteuid() and status.st_gid == os.getegid()
    )


def is_empty_stream(status: os.stat_result) -> bool:
    """Whether it is a file to which nothing was written, without another name."""
    return is_plain(status, STREAM_MODE) and not status.st_size and status.st_nlink == 1


def is_marked(fd: int) -> bool:
    """Whether a file or directory has extended attributes or flags that matter to who uses it.

    Raises:
        OSError: it cannot be asked.
    """
    if os.listxattr(fd):
        return True
    flags = bytearray(_FLAGS.size)
    try:
        fcntl.ioctl(fd, _GET_FLAGS, flags)
    except OSError:
        return False  # This filesystem has none.
    return bool(_FLAGS.unpack(flags)[0] & _MARKS)
