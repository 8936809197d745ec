"""The directories that actions run in, used again where an action left nothing behind.

Making and removing a directory with its files takes longer than a short action's process: on ext4
a new inode passes over all that were deleted of late. So a directory that is as it was when it
was new gets the next action's name instead; any other one is removed.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.disk import disk_error
from nativelink.worker.confine import open_entry

__all__ = ["ROOT", "SIDE_CHANNEL", "STDERR", "STDOUT", "ActionDirectories"]

#: What is in an action's directory: its input root, its streams, and what it tells us there.
ROOT: Final = "work"
STDOUT: Final = "stdout"
STDERR: Final = "stderr"
SIDE_CHANNEL: Final = "side_channel"

_STREAMS: Final = frozenset({STDOUT, STDERR})
_DIRECTORY_MODE: Final = stat.S_IFDIR | 0o755
_STREAM_MODE: Final = stat.S_IFREG | 0o644
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY
#: Something of this name is there already.
_THERE: Final = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR})
#: ioctl_iflags(2): FS_IOC_GETFLAGS, and the flags immutable, append-only, encrypted, verity and
#: case-insensitive, which change what can be done with a file or directory.
_GET_FLAGS: Final = 0x80086601
_MARKS: Final = 0x10 | 0x20 | 0x800 | 0x100000 | 0x40000000
_FLAGS: Final = struct.Struct("@Q")
_log: Final = logging.getLogger(__name__)


class ActionDirectories:
    """Gives out directories, and takes them back.

    Args:
        root: they are in it; each has its action's name.
        remove: removes one, whatever is in it.
        max_spare: so many are kept; without an action, under the name of their last one.
    """

    def __init__(
        self, root: Path, remove: Callable[[Path], Awaitable[None]], *, max_spare: int = 64
    ) -> None:
        self._root = root
        self._remove = remove
        self._max_spare = max_spare
        self._spare: dict[str, None] = {}

    def take(self, name: str) -> Path:
        """A directory for an action. `ROOT` may be in it, empty; streams may, to be emptied.

        Raises:
            NativeLinkError: ALREADY_EXISTS if the action has one still; what the disk says.
        """
        path = self._root / name
        if name in self._spare:
            del self._spare[name]
            return path
        while self._spare:
            spare, _ = self._spare.popitem()
            try:
                (self._root / spare).rename(path)
            except OSError as error:
                if error.errno in _THERE:
                    self._spare[spare] = None
                    raise _exists_still(name) from None
                # Whatever is wrong with it must not be wrong with every action from now on.
                _log.warning("%s is not used again: %s", self._root / spare, error)
            else:
                return path
        try:
            path.mkdir(_DIRECTORY_MODE)
        except OSError as error:
            if error.errno in _THERE:
                raise _exists_still(name) from None
            raise disk_error(error, f"cannot make the action's directory {path}") from error
        return path

    async def give_back(self, path: Path) -> None:
        """Take a directory back when nothing runs in it any more.

        Raises:
            NativeLinkError: what `remove` raises.
        """
        if len(self._spare) < self._max_spare and _make_as_new(path):
            self._spare[path.name] = None
        else:
            await self._remove(path)


def _exists_still(name: str) -> NativeLinkError:
    return NativeLinkError(Code.ALREADY_EXISTS, f"the action's directory {name} exists still")


def _make_as_new(path: Path) -> bool:
    """Whether nothing can be seen of the action that ran there; its times cannot, either."""
    try:
        parent_fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_entry(parent_fd, path.name, _OPEN)
        finally:
            os.close(parent_fd)
        try:
            if not _is_plain(os.fstat(fd), _DIRECTORY_MODE) or _is_marked(fd):
                return False
            with os.scandir(fd) as entries:
                if not all(_is_entry_as_new(fd, entry.name) for entry in entries):
                    return False
            os.utime(fd)
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


def _is_entry_as_new(parent_fd: int, name: str) -> bool:
    is_root = name == ROOT
    if not is_root and name not in _STREAMS:
        return False
    status = os.lstat(name, dir_fd=parent_fd)
    if not _is_plain(status, _DIRECTORY_MODE if is_root else _STREAM_MODE):
        return False
    if not is_root and (status.st_size or status.st_nlink > 1):
        return False
    # What is mounted there is not what was made there.
    fd = open_entry(parent_fd, name, _OPEN if is_root else os.O_RDONLY)
    try:
        if _is_marked(fd):
            return False
        if is_root:
            with os.scandir(fd) as entries:
                if next(entries, None) is not None:
                    return False
        os.utime(fd)
    finally:
        os.close(fd)
    return True


def _is_plain(status: os.stat_result, mode: int) -> bool:
    return (
        status.st_mode == mode and status.st_uid == os.geteuid() and status.st_gid == os.getegid()
    )


def _is_marked(fd: int) -> bool:
    """Whether a file or directory has extended attributes or flags that matter to who uses it."""
    if os.listxattr(fd):
        return True
    flags = bytearray(_FLAGS.size)
    try:
        fcntl.ioctl(fd, _GET_FLAGS, flags)
    except OSError:
        return False  # This filesystem has none.
    return bool(_FLAGS.unpack(flags)[0] & _MARKS)
