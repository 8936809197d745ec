"""The directories that actions run in, used again where an action left nothing behind.

Making and removing a directory with its files takes longer than a short action's process: on ext4
a new inode passes over all that were deleted of late. So a directory that is as it was when it
was new is given to the next action; any other one is removed.

Whether it is as it was is found out in one of two ways. To look at everything that can be changed
takes a dozen system calls and more. But whatever is changed of a file or directory, by its owner or
by root, sets the time of its last status change (ctime), and nobody can set that back. So if it is
what it was when everything was looked at last, nothing was changed since. That holds where this
time was long past when the action began, as file systems count time in ticks.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Final, TypeAlias

from nativelink.core.clock import Clock
from nativelink.stores.disk_calls import disk_error
from nativelink.worker.confine import open_entry

__all__ = ["ROOT", "SIDE_CHANNEL", "STDERR", "STDOUT", "ActionDirectories", "ActionDirectory"]

#: What is in an action's directory: its input root, its streams, and what it tells us there.
ROOT: Final = "work"
STDOUT: Final = "stdout"
STDERR: Final = "stderr"
SIDE_CHANNEL: Final = "side_channel"

_STREAMS: Final = frozenset({STDOUT, STDERR})
_DIRECTORY_MODE: Final = stat.S_IFDIR | 0o755
_STREAM_MODE: Final = stat.S_IFREG | 0o644
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY
#: ioctl_iflags(2): FS_IOC_GETFLAGS, and the flags immutable, append-only, encrypted, verity and
#: case-insensitive, which change what can be done with a file or directory.
_GET_FLAGS: Final = 0x80086601
_MARKS: Final = 0x10 | 0x20 | 0x800 | 0x100000 | 0x40000000
_FLAGS: Final = struct.Struct("@Q")
#: What happens from now on has another ctime than what happened before: ticks have at most 10 ms,
#: but ext4 with small inodes keeps whole seconds.
_SETTLED_NS: Final = 2 * 10**9

#: Of a directory and what is in it: device, inode and ctime of each.
_Stamp: TypeAlias = tuple[tuple[int, int, int], ...]


class ActionDirectory:
    """A directory that an action runs in.

    Attributes:
        path: of itself, as long as it is used.
        root: the action's input root; may be there, empty.
        stdout: the action's stream; may be there, to be emptied.
        stderr: likewise.
        side_channel: what the action tells us (`side_channel`).
    """

    __slots__ = ("_is_settled", "_stamp", "path", "root", "side_channel", "stderr", "stdout")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path / ROOT
        self.stdout = path / STDOUT
        self.stderr = path / STDERR
        self.side_channel = path / SIDE_CHANNEL
        #: How it looked when it was found to be as new.
        self._stamp: _Stamp = ()
        self._is_settled = False

    def taken(self, now_ns: int) -> None:
        """An action gets it now."""
        newest = max((ctime_ns for _, _, ctime_ns in self._stamp), default=now_ns)
        self._is_settled = now_ns - newest >= _SETTLED_NS

    def is_as_new(self, *, mounted: bool) -> bool:
        """Whether nothing can be seen of the action that ran there; its times cannot, either.

        Args:
            mounted: whether something may have been mounted on it meanwhile.
        """
        try:
            stamp = self._look()
            is_same = stamp == self._stamp
            if is_same and self._is_settled and not mounted:
                return True
            if not _is_as_new(self.path):
                return False
            if not is_same:
                for each in (self.root, self.stdout, self.stderr, self.path):
                    os.utime(each)
                self._stamp = self._look()
        except OSError:
            return False
        return True

    def _look(self) -> _Stamp:
        found: list[tuple[int, int, int]] = []
        for path in (self.path, self.root, self.stdout, self.stderr):
            status = os.lstat(path)
            found.append((status.st_dev, status.st_ino, status.st_ctime_ns))
        return tuple(found)


class ActionDirectories:
    """Gives out directories, and takes them back.

    Args:
        root: they are in it, under numbers.
        remove: removes one, whatever is in it.
        clock: the time.
        max_spare: so many are kept without an action.
    """

    def __init__(
        self,
        root: Path,
        remove: Callable[[Path], Awaitable[None]],
        *,
        clock: Clock,
        max_spare: int = 64,
    ) -> None:
        self._root = root
        self._remove = remove
        self._clock = clock
        self._max_spare = max_spare
        self._numbers = count(1)
        #: Those that were not used for longest in front.
        self._spare: deque[ActionDirectory] = deque()
        self._mounts = _MountWatch()

    def take(self) -> ActionDirectory:
        """A directory for an action.

        Raises:
            NativeLinkError: what the disk says.
        """
        if self._spare:
            directory = self._spare.popleft()
        else:
            directory = ActionDirectory(self._make())
        directory.taken(int(self._clock.time() * 1e9))
        return directory

    async def give_back(self, directory: ActionDirectory) -> None:
        """Take a directory back when nothing runs in it any more.

        Raises:
            NativeLinkError: what `remove` raises.
        """
        is_room = len(self._spare) < self._max_spare
        if is_room and directory.is_as_new(mounted=self._mounts.changed()):
            self._spare.append(directory)
        else:
            await self._remove(directory.path)

    def close(self) -> None:
        """Give up what is open."""
        self._mounts.close()

    def _make(self) -> Path:
        while True:
            path = self._root / str(next(self._numbers))
            try:
                path.mkdir(_DIRECTORY_MODE)
            except FileExistsError:
                # Left by an earlier process, which could not remove it.
                continue
            except OSError as error:
                raise disk_error(error, f"cannot make the action's directory {path}") from error
            return path


class _MountWatch:
    """Tells whether anything was mounted, or unmounted, in this mount namespace.

    A mount of a directory on itself, read-only for instance, leaves its device and its inode.
    """

    def __init__(self) -> None:
        # Where mounts cannot be watched, something may always have been mounted.
        self._poll: select.poll | None = None
        self._fd = -1
        try:
            self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        self._poll = select.poll()
        # proc_pid_mounts(5): marked as having a priority event when a mount comes or goes.
        self._poll.register(self._fd, select.POLLPRI)

    def changed(self) -> bool:
        """Whether that was so since the last call."""
        return self._poll is None or bool(self._poll.poll(0))

    def close(self) -> None:
        """Watch no longer."""
        self._poll = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _is_as_new(path: Path) -> bool:
    """Look at everything that an action could have changed.

    Raises:
        OSError: something is not there, or in the way.
    """
    parent_fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_entry(parent_fd, path.name, _OPEN)
    finally:
        os.close(parent_fd)
    try:
        if not _is_plain(os.fstat(fd), _DIRECTORY_MODE) or _is_marked(fd):
            return False
        with os.scandir(fd) as entries:
            return all(_is_entry_as_new(fd, entry.name) for entry in entries)
    finally:
        os.close(fd)


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
                return next(entries, None) is None
        return True
    finally:
        os.close(fd)


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
