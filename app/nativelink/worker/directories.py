"""The directories that actions run in, used again where an action left nothing behind.

Making and removing a directory with its files takes longer than a short action's process: on ext4
a new inode passes over all that were deleted of late. So a directory that is as it was when it
was new gets the next action's name instead; any other one is removed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.disk import disk_error

__all__ = ["ROOT", "SIDE_CHANNEL", "STDERR", "STDOUT", "ActionDirectories"]

#: What is in an action's directory: its input root, its streams, and what it tells us there.
ROOT: Final = "work"
STDOUT: Final = "stdout"
STDERR: Final = "stderr"
SIDE_CHANNEL: Final = "side_channel"

_STREAMS: Final = frozenset({STDOUT, STDERR})
_DIRECTORY_MODE: Final = stat.S_IFDIR | 0o755
_STREAM_MODE: Final = stat.S_IFREG | 0o644
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
        try:
            if name in self._spare:
                del self._spare[name]
            elif self._spare:
                spare = next(reversed(self._spare))
                (self._root / spare).rename(path)
                del self._spare[spare]
            else:
                path.mkdir(_DIRECTORY_MODE)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise NativeLinkError(
                    Code.ALREADY_EXISTS, f"the action's directory {name} exists still"
                ) from None
            raise disk_error(error, f"cannot make the action's directory {path}") from error
        return path

    async def give_back(self, path: Path) -> None:
        """Take a directory back when nothing runs in it any more.

        Raises:
            NativeLinkError: what `remove` raises.
        """
        if len(self._spare) < self._max_spare and _is_as_new(path):
            self._spare[path.name] = None
        else:
            await self._remove(path)


def _is_as_new(path: Path) -> bool:
    """Whether nothing can be seen of the action that ran there."""
    try:
        fd = os.open(path, _OPEN)
        try:
            if not _is_plain(os.fstat(fd), _DIRECTORY_MODE) or os.listxattr(fd):
                return False
            with os.scandir(fd) as entries:
                return all(_is_entry_as_new(fd, entry.name) for entry in entries)
        finally:
            os.close(fd)
    except OSError:
        return False


def _is_entry_as_new(parent_fd: int, name: str) -> bool:
    is_root = name == ROOT
    if not is_root and name not in _STREAMS:
        return False
    status = os.lstat(name, dir_fd=parent_fd)
    if not _is_plain(status, _DIRECTORY_MODE if is_root else _STREAM_MODE):
        return False
    if not is_root and (status.st_size or status.st_nlink > 1):
        return False
    fd = os.open(name, _OPEN if is_root else os.O_RDONLY | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        # What is mounted there is not what was made there.
        if os.fstat(fd).st_dev != os.fstat(parent_fd).st_dev or os.listxattr(fd):
            return False
        if not is_root:
            return True
        with os.scandir(fd) as entries:
            return next(entries, None) is None
    finally:
        os.close(fd)


def _is_plain(status: os.stat_result, mode: int) -> bool:
    return status.st_mode == mode and status.st_uid == os.geteuid()
