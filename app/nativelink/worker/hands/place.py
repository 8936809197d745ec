"""Directories, links and files put in place."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
from contextlib import suppress
from typing import Final, NamedTuple

from nativelink.core.errors import NativeLinkError
from nativelink.worker.confine import make_directories_beneath

__all__ = ["Place", "Plan", "add_directories", "carry_out"]

_DIRECTORY_MODE: Final = 0o755
_FICLONE: Final = 0x40049409
_COPY_BYTES: Final = 1 << 30
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Why a hard link cannot be made although both names are in order: another device, too many links,
#: no permission (fs.protected_hardlinks), no such thing on this filesystem.
_NOT_LINKABLE: Final = frozenset(
    {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS}
)


class Place(NamedTuple):
    """What one directory is to hold, besides directories.

    Attributes:
        path: relative to the root, which is the empty path; parents stand before children.
        links: `(name, blob)` of files that are links to the store's, with the mode 0444.
        executables: likewise of those with the mode 0555.
        copies: `(name, blob, mode, mtime_ns)` of files of their own; the blob "" is empty.
        symlinks: `(name, target, mtime_ns)`.
        mode: of the directory; None for 0755.
        mtime_ns: of the directory; None for any.
    """

    path: str
    links: list[tuple[str, str]]
    executables: list[tuple[str, str]]
    copies: list[tuple[str, str, int, int | None]]
    symlinks: list[tuple[str, str, int | None]]
    mode: int | None
    mtime_ns: int | None


class Plan(NamedTuple):
    """What is to be made.

    Attributes:
        places: directories and what they hold, the root first.
        additions: further directories, parents first; no link is on the way to them.
        behind_links: further directories whose paths go through symbolic links of the tree; they
            are made if that stays inside, else left to the action.
        steps: about how many system calls it takes where no directory is there.
    """

    places: list[Place]
    additions: list[str]
    behind_links: list[str]
    steps: int

    @property
    def is_empty(self) -> bool:
        """Whether it is a directory with nothing in it, and nothing special about it."""
        first = self.places[0]
        return len(self.places) == 1 and not (
            any(first[1:]) or first.mtime_ns == 0 or self.additions or self.behind_links
        )

    @property
    def furniture(self) -> int:
        """How many of the steps make directories."""
        return len(self.places) - 1 + 2 * len(self.additions)

    @property
    def directories(self) -> list[str] | None:
        """All directories below the root, parents first.

        None if that is not all that there is to say of them: one is special, or it is not known
        which are made.
        """
        if self.behind_links or any(
            place.mode is not None or place.mtime_ns is not None for place in self.places
        ):
            return None
        return [place.path for place in self.places if place.path] + self.additions


def carry_out(
    plan: Plan, root: str, files: str, executables: str, is_furnished: bool = False
) -> None:
    """Make what a plan says in a directory: a new one, an empty one, or a furnished one.

    Args:
        plan: what to make.
        root: the directory.
        files: directory of blobs with the mode 0444.
        executables: directory of blobs with the mode 0555.
        is_furnished: whether the plan's directories are there, and nothing else.

    Raises:
        OSError: the disk is full, for one; FileNotFoundError if a blob is not there. What was
            made until then stays.
    """
    is_new = True
    try:
        pathlib.Path(root).mkdir(mode=_DIRECTORY_MODE)
    except FileExistsError:
        if plan.is_empty:
            return
        is_new = False
    sources: list[int] = []
    root_fd = os.open(root, _DIRECTORY)
    try:
        # The umask of this process may take permissions away from new directories; the first one
        # that is made tells.
        must_chmod: bool | None = None
        if is_new:
            must_chmod = os.fstat(root_fd).st_mode & 0o777 != _DIRECTORY_MODE
            if must_chmod:
                os.fchmod(root_fd, _DIRECTORY_MODE)
        files_fd = executables_fd = -1
        if any(place.links or place.copies for place in plan.places):
            files_fd = os.open(files, _DIRECTORY)
            sources.append(files_fd)
        if any(place.executables for place in plan.places):
            executables_fd = os.open(executables, _DIRECTORY)
            sources.append(executables_fd)
        for place in plan.places:
            if place.path and not is_furnished:
                os.mkdir(place.path, _DIRECTORY_MODE, dir_fd=root_fd)
                if must_chmod is None:
                    mode = os.stat(place.path, dir_fd=root_fd).st_mode
                    must_chmod = mode & 0o777 != _DIRECTORY_MODE
                if must_chmod:
                    os.chmod(place.path, _DIRECTORY_MODE, dir_fd=root_fd)
            _fill(place, root_fd, files_fd, executables_fd)
        if not is_furnished:
            add_directories(root_fd, plan.additions, plan.behind_links)
        # Children first, and last of all: whatever is made in a directory changes its times.
        for place in reversed(plan.places):
            _set_directory(place, root_fd)
    finally:
        for fd in (root_fd, *sources):
            os.close(fd)


def add_directories(root_fd: int, additions: list[str], behind_links: list[str]) -> None:
    """Make further directories; see `Plan`.

    Raises:
        OSError: the disk is full, for one.
    """
    for path in additions:
        os.mkdir(path, _DIRECTORY_MODE, dir_fd=root_fd)
        # The umask of this process may take permissions away.
        os.chmod(path, _DIRECTORY_MODE, dir_fd=root_fd)
    for path in behind_links:
        with suppress(NativeLinkError, OSError):
            make_directories_beneath(root_fd, path, _DIRECTORY_MODE)


def _fill(place: Place, root_fd: int, files: int, executables: int) -> None:
    """Make all in a directory but directories."""
    path, links, programs, copies, symlinks, _, _ = place
    fd = root_fd
    if path and (links or programs or copies or symlinks):
        fd = os.open(path, _DIRECTORY, dir_fd=root_fd)
    link = os.link
    try:
        for name, blob in links:
            try:
                link(blob, name, src_dir_fd=files, dst_dir_fd=fd)
            except OSError as error:
                _copy_instead(error, blob, name, files, fd, 0o444)
        for name, blob in programs:
            try:
                link(blob, name, src_dir_fd=executables, dst_dir_fd=fd)
            except OSError as error:
                _copy_instead(error, blob, name, executables, fd, 0o555)
        for name, blob, mode, mtime_ns in copies:
            _copy(blob, name, files, fd, mode, mtime_ns)
        for name, target, mtime_ns in symlinks:
            os.symlink(target, name, dir_fd=fd)
            if mtime_ns is not None:
                os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=fd, follow_symlinks=False)
    finally:
        if fd != root_fd:
            os.close(fd)


def _copy_instead(
    error: OSError, blob: str, name: str, source: int, target: int, mode: int
) -> None:
    """Copy what cannot be linked."""
    if error.errno not in _NOT_LINKABLE:
        raise error
    _copy(blob, name, source, target, mode, None)


def _copy(blob: str, name: str, source: int, target: int, mode: int, mtime_ns: int | None) -> None:
    """Make a file of its own; the blob "" is empty."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=target)
    try:
        if blob:
            blob_fd = os.open(blob, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
            try:
                _copy_bytes(blob_fd, fd)
            finally:
                os.close(blob_fd)
        os.fchmod(fd, mode)
        if mtime_ns is not None:
            os.utime(fd, ns=(mtime_ns, mtime_ns))
    finally:
        os.close(fd)


def _copy_bytes(source: int, target: int) -> None:
    """Copy a file into an empty one; on filesystems that share blocks without writing them."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        while os.sendfile(target, source, None, _COPY_BYTES):
            pass


def _set_directory(place: Place, root_fd: int) -> None:
    if place.mode is not None:
        os.chmod(place.path or ".", place.mode, dir_fd=root_fd)
    if place.mtime_ns is not None:
        times = (place.mtime_ns, place.mtime_ns)
        os.utime(place.path or ".", ns=times, dir_fd=root_fd)
