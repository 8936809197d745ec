"""The directories that actions run in, used again where an action left nothing behind.

Making and removing a directory with its files takes longer than a short action's process: on ext4
a new inode passes over all that were deleted of late. So a directory that is as it was when it
was new is given to the next action. One whose inputs came in directories is cleared of everything
else (`hands.clear`) and given to an action that needs the same directories, if such an action was
seen before. Any other one is removed.

Whether it is as it was is found out in one of two ways. To look at everything that can be changed
takes a dozen system calls and more. But whatever is changed of a file or directory, by its owner or
by root, sets the time of its last status change (ctime), and nobody can set that back. So if it is
what it was when everything was looked at last, nothing was changed since. That holds where this
time was long past when the action began, as file systems count time in ticks.
"""

from __future__ import annotations

import logging
import os
import select
import stat
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import count
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from nativelink.core.clock import Clock
from nativelink.core.digest import Digest
from nativelink.core.errors import NativeLinkError
from nativelink.stores.disk_calls import disk_error
from nativelink.worker.as_made import (
    DIRECTORY_MODE,
    Marks,
    is_empty_stream,
    is_new_directory,
    marks_of,
)
from nativelink.worker.confine import open_entry

__all__ = [
    "ROOT",
    "SIDE_CHANNEL",
    "STDERR",
    "STDOUT",
    "STREAMS",
    "ActionDirectories",
    "ActionDirectory",
    "Remover",
    "Shape",
]

_log: Final = logging.getLogger(__name__)

#: What is in an action's directory: its input root, its streams, and what it tells us there.
ROOT: Final = "work"
STDOUT: Final = "stdout"
STDERR: Final = "stderr"
SIDE_CHANNEL: Final = "side_channel"

#: An action's own streams.
STREAMS: Final = frozenset({STDOUT, STDERR})

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY
_PERMISSIONS: Final = stat.S_IMODE(DIRECTORY_MODE)
#: What happens from now on has another ctime than what happened before: ticks have at most 10 ms,
#: but ext4 with small inodes keeps whole seconds.
_SETTLED_NS: Final = 2 * 10**9

#: So many shapes are remembered of actions that ran; see `ActionDirectories.take`.
_MAX_SHAPES: Final = 1024

#: A directory with more directories in it is not kept.
_MAX_INSIDE: Final = 64

#: What decides which directories an input root has: its digest, and those that are made besides.
Shape: TypeAlias = tuple[Digest, frozenset[str]]
#: Of a directory and what is in it: device, inode and ctime of each.
_Stamp: TypeAlias = tuple[tuple[int, int, int], ...]
_ABSENT: Final = (0, 0, 0)


class Remover(Protocol):
    """Takes away what is in an action's directory."""

    async def remove(self, directory: Path) -> None:
        """Remove it, whatever the action left in it.

        Raises:
            NativeLinkError: a process for file work died.
        """
        ...

    async def clear(self, directory: Path, kept: Sequence[str], streams: Collection[str]) -> bool:
        """Remove everything but these directories, and empty streams; see `hands.clear`.

        Returns:
            False if that did not do.
        """
        ...


class ActionDirectory:
    """A directory that an action runs in.

    Attributes:
        path: of itself, as long as it is used.
        root: the action's input root; may be there, empty.
        stdout: the action's stream; may be there, to be emptied.
        stderr: likewise.
        side_channel: what the action tells us (`side_channel`).
        shape: what it is used for.
        inside: directories in the input root, parents first; None if others may be there too, or
            special ones. Whoever puts the inputs in place says so.
        is_furnished: whether those are there already.
        is_idle: whether all processes that ran in it have ended; whoever starts them says so.
        is_wanted_again: whether its shape had been seen before it was taken.
        mounts: the number of the mount watch when it was looked at last.
    """

    __slots__ = (
        "_is_settled",
        "_stamp",
        "inside",
        "is_furnished",
        "is_idle",
        "is_wanted_again",
        "mounts",
        "path",
        "root",
        "shape",
        "side_channel",
        "stderr",
        "stdout",
    )

    def __init__(self, path: Path, shape: Shape, mounts: int) -> None:
        self.path = path
        self.root = path / ROOT
        self.stdout = path / STDOUT
        self.stderr = path / STDERR
        self.side_channel = path / SIDE_CHANNEL
        self.shape = shape
        self.inside: Sequence[str] | None = None
        self.is_furnished = False
        self.is_idle = True
        self.mounts = mounts
        self.is_wanted_again = False
        #: How it looked when it was found to be in order.
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
            if _ABSENT in stamp:
                return False
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

    def was_cleared(self) -> None:
        """It is in order.

        Raises:
            OSError: it cannot be looked at.
        """
        self._stamp = self._look()

    def is_untouched(self) -> bool:
        """Whether it is as it was when it was found to be in order."""
        try:
            return self._look() == self._stamp
        except OSError:
            return False

    def _look(self) -> _Stamp:
        found: list[tuple[int, int, int]] = []
        paths: list[Path | str] = [self.path, self.root, self.stdout, self.stderr]
        paths += [f"{self.root}/{path}" for path in self.inside or ()]
        for path in paths:
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                found.append(_ABSENT)
            else:
                found.append((status.st_dev, status.st_ino, status.st_ctime_ns))
        return tuple(found)


class ActionDirectories:
    """Gives out directories, and takes them back.

    Args:
        root: they are in it, under numbers.
        remover: takes away what is in one.
        clock: the time.
        max_spare: so many are kept without an action.
    """

    def __init__(self, root: Path, remover: Remover, *, clock: Clock, max_spare: int = 64) -> None:
        self._root = root
        self._remover = remover
        self._clock = clock
        self._max_spare = max_spare
        self._numbers = count(1)
        #: Those that were not used for longest in front.
        self._spare: deque[ActionDirectory] = deque()
        self._mounts = _MountWatch()
        #: Spare ones that somebody changed meanwhile.
        self._touched: list[ActionDirectory] = []
        #: Hashes of those that were taken, the last one last. Two that share one are kept in vain.
        self._shapes: dict[int, None] = {}

    def take(self, shape: Shape) -> ActionDirectory:
        """A directory for an action.

        Raises:
            NativeLinkError: what the disk says.
        """
        directory = (
            self._spare_one(lambda each: each.is_furnished and each.shape == shape)
            or self._spare_one(lambda each: not each.is_furnished)
            or ActionDirectory(self._make(), shape, self._mounts.count())
        )
        directory.shape = shape
        directory.is_wanted_again = self._was_seen(hash(shape))
        directory.taken(int(self._clock.time() * 1e9))
        return directory

    async def give_back(self, directory: ActionDirectory) -> None:
        """Take a directory back when nothing is done with it any more."""
        try:
            is_usable = directory.is_idle and await self._is_usable(directory)
        except Exception:  # noqa: BLE001 - logged; results do not depend on it
            _log.exception("%s is not used again", directory.path)
            is_usable = False
        except BaseException:
            await self._discard(directory)
            raise
        if is_usable:
            self._spare.append(directory)
        else:
            await self._discard(directory)
        while len(self._spare) > self._max_spare:
            await self._discard(self._spare.popleft())
        while self._touched:
            await self._discard(self._touched.pop())

    async def _discard(self, directory: ActionDirectory) -> None:
        try:
            await self._remover.remove(directory.path)
        except NativeLinkError as error:
            # Results count nevertheless; the worker's next start removes what is left.
            _log.warning("cannot remove %s: %s", directory.path, error)

    async def _is_usable(self, directory: ActionDirectory) -> bool:
        mounts, before = self._mounts.count(), directory.mounts
        directory.mounts = mounts
        if not directory.inside:
            directory.is_furnished = False
            if directory.is_as_new(mounted=mounts != before):
                return True
        inside = directory.inside
        if inside is None or len(inside) > _MAX_INSIDE or not directory.is_wanted_again:
            return False
        kept = [ROOT, *(f"{ROOT}/{path}" for path in inside)]
        if not await self._remover.clear(directory.path, kept, STREAMS):
            # So it may be with the next one.
            self._shapes.pop(hash(directory.shape), None)
            return False
        directory.is_furnished = bool(inside)
        directory.was_cleared()
        return True

    def _was_seen(self, shape: int) -> bool:
        is_known = shape in self._shapes
        self._shapes.pop(shape, None)
        self._shapes[shape] = None
        if len(self._shapes) > _MAX_SHAPES:
            del self._shapes[next(iter(self._shapes))]
        return is_known

    def _spare_one(self, fits: Callable[[ActionDirectory], bool]) -> ActionDirectory | None:
        while (found := next((each for each in self._spare if fits(each)), None)) is not None:
            self._spare.remove(found)
            if found.is_untouched():
                return found
            self._touched.append(found)
        return None

    def close(self) -> None:
        """Give up what is open."""
        self._mounts.close()

    def _make(self) -> Path:
        while True:
            path = self._root / str(next(self._numbers))
            try:
                path.mkdir(_PERMISSIONS)
                # The umask may take some away.
                path.chmod(_PERMISSIONS)
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
        self._count = 0
        try:
            self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        self._poll = select.poll()
        # proc_pid_mounts(5): marked as having a priority event when a mount comes or goes.
        self._poll.register(self._fd, select.POLLPRI)

    def count(self) -> int:
        """A number that is another one after that."""
        if self._poll is None or self._poll.poll(0):
            self._count += 1
        return self._count

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
    parent_fd = os.open(path.parent, _OPEN | os.O_CLOEXEC)
    try:
        usual = marks_of(parent_fd)
        fd = open_entry(parent_fd, path.name, _OPEN)
    finally:
        os.close(parent_fd)
    try:
        if not is_new_directory(os.fstat(fd)) or not marks_of(fd).are_inherited(usual):
            return False
        with os.scandir(fd) as entries:
            return all(_is_entry_as_new(fd, entry.name, usual) for entry in entries)
    finally:
        os.close(fd)


def _is_entry_as_new(parent_fd: int, name: str, usual: Marks) -> bool:
    is_root = name == ROOT
    if not is_root and name not in STREAMS:
        return False
    status = os.lstat(name, dir_fd=parent_fd)
    if not (is_new_directory(status) if is_root else is_empty_stream(status)):
        return False
    # What is mounted there is not what was made there.
    fd = open_entry(parent_fd, name, _OPEN if is_root else os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not marks_of(fd).are_inherited(usual):
            return False
        if is_root:
            with os.scandir(fd) as entries:
                return next(entries, None) is None
        return True
    finally:
        os.close(fd)
