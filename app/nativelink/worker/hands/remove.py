"""A directory removed with all that is in it, whatever an action left there.

Nothing outside is touched: no link is followed, no file's mode is changed (it may be another name
of a blob), and no mount is entered, not even one of the same device. Directories that the action
made unwritable are made writable; directories nested deeper than there are descriptors are moved
up first.
"""

from __future__ import annotations

import ctypes
import errno
import os
from itertools import count
from pathlib import Path
from typing import Final

from nativelink.worker.confine import open_child

__all__ = ["remove_tree"]

#: Directories open above one another; a process may often have 1,024 open in all.
_MAX_OPEN: Final = 100
_ALL: Final = 0o700
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8

_libc: Final = ctypes.CDLL(None, use_errno=True)


def remove_tree(path: str) -> None:
    """Remove a directory, or whatever has that name; nothing happens if it is not there.

    Raises:
        OSError: something could not be removed; the rest was.
    """
    _Removal(path).run()


class _Removal:
    """The removal of one tree."""

    def __init__(self, path: str) -> None:
        self._parent, _, self._name = path.rstrip("/").rpartition("/")
        self._root_fd = -1
        self._moved = count(1)
        #: No name that an action could have chosen.
        self._prefix = os.urandom(12).hex()
        #: What was moved up into the root, to be removed there.
        self._waiting: list[str] = []
        self._failure: OSError | None = None

    def run(self) -> None:
        """See `remove_tree`."""
        parent_fd = os.open(self._parent or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                os.unlink(self._name, dir_fd=parent_fd)
            except FileNotFoundError:
                return
            except (IsADirectoryError, PermissionError):
                pass
            else:
                return
            self._root_fd = _open(parent_fd, self._name)
            try:
                self._empty(self._root_fd, 0)
                while self._waiting:
                    name = self._waiting.pop()
                    self._directory(self._root_fd, name, 1)
            finally:
                os.close(self._root_fd)
            if self._failure is not None:
                raise self._failure
            os.rmdir(self._name, dir_fd=parent_fd)
        finally:
            os.close(parent_fd)

    def _empty(self, fd: int, depth: int) -> None:
        """Remove everything in an open directory."""
        directories: list[str] = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
                    continue
                try:
                    os.unlink(entry.name, dir_fd=fd)
                except OSError as error:
                    self._forced(error, fd, entry.name)
        for name in directories:
            if depth < _MAX_OPEN:
                self._directory(fd, name, depth + 1)
            else:
                self._move_up(fd, name)

    def _directory(self, fd: int, name: str, depth: int) -> None:
        """Remove a directory and everything in it."""
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError:
            pass
        else:
            return
        try:
            child = _open(fd, name)
            try:
                self._empty(child, depth)
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            self._forced(error, fd, name)

    def _move_up(self, fd: int, name: str) -> None:
        higher = f"{self._prefix}-{next(self._moved)}"
        try:
            os.rename(name, higher, src_dir_fd=fd, dst_dir_fd=self._root_fd)
        except OSError as error:
            self._fail(error)
        else:
            self._waiting.append(higher)

    def _forced(self, error: OSError, fd: int, name: str) -> None:
        """Remove what could not be: the directory that it is in is not writable, or it is a mount.

        The error is remembered if that does not help.
        """
        if error.errno == errno.ENOENT:
            return
        try:
            if error.errno in {errno.EACCES, errno.EPERM}:
                Path(f"/proc/self/fd/{fd}").chmod(_ALL)
            elif error.errno in {errno.EBUSY, errno.EXDEV}:
                _unmount(f"/proc/self/fd/{fd}/{name}")
            else:
                self._fail(error)
                return
            try:
                os.unlink(name, dir_fd=fd)
            except (IsADirectoryError, PermissionError):
                child = _open(fd, name)
                try:
                    self._empty(child, _MAX_OPEN)
                finally:
                    os.close(child)
                os.rmdir(name, dir_fd=fd)
        except OSError as second:
            self._fail(second)

    def _fail(self, error: OSError) -> None:
        if self._failure is None:
            self._failure = error


def _open(fd: int, name: str) -> int:
    """Open a directory to be emptied, making it accessible; a mount is not opened."""
    try:
        child = open_child(fd, name, os.O_RDONLY)
        if os.access(f"/proc/self/fd/{child}", os.W_OK | os.X_OK):
            return child
    except PermissionError:
        child = open_child(fd, name, os.O_PATH)
    try:
        Path(f"/proc/self/fd/{child}").chmod(_ALL)
    except OSError:
        os.close(child)
        raise
    os.close(child)
    return open_child(fd, name, os.O_RDONLY)


def _unmount(path: str) -> None:
    if _libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
