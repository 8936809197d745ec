"""Executable twins of a filesystem store's files.

A mode is the inode's and not the name's, so a blob that is to be executable needs a second file:
`{content_path}.exec/d/{hash}-{size}` with the mode 0555, as in NativeLink v1.6.6. It is made when
it is wanted first, by a copy that is renamed, and removed with its blob. These files are not what
the store keeps: they count against no limit, and the directory is emptied at the start.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.eager import run_all
from nativelink.core.errors import failed_precondition, unavailable
from nativelink.stores.disk import DiskLane
from nativelink.stores.disk_calls import disk_error
from nativelink.stores.filesystem_layout import Layout

__all__ = ["Executables", "stamp_of"]

log = logging.getLogger(__name__)

_MODE: Final = 0o555
_FICLONE: Final = 0x40049409
_COPY_BYTES: Final = 1 << 30
#: How often, and how long apart, it is looked whether a file is still open for writing.
_WRITER_LOOKS: Final = 1000
_WRITER_PAUSE_S: Final = 0.001
_pause = time.sleep
#: What the filesystem says of a directory that cannot be used at all.
_UNUSABLE: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ELOOP}
)


class Executables:
    """The executable files of one store.

    Args:
        layout: where the files are that they are made of.
        lane: where they are copied.
        is_wanted: whether a blob is still leased, and so may have one.

    Attributes:
        directory: where they are.
    """

    def __init__(
        self, layout: Layout, *, lane: DiskLane, is_wanted: Callable[[StoreKey], bool]
    ) -> None:
        root = layout.content_path
        self.directory = root.with_name(f"{root.name}.exec") / "d"
        self._layout = layout
        self._lane = lane
        self._is_wanted = is_wanted
        self._fd = -1
        #: How the files looked when they were made, and what those are waited for by that are made.
        self._made: dict[StoreKey, int] = {}
        self._making: dict[StoreKey, asyncio.Future[None]] = {}
        self._numbers = count()

    def empty(self) -> None:
        """Remove the files of an earlier process."""
        try:
            for entry in os.scandir(self.directory):
                Path(entry.path).unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            # Most stores have no executables; those that need them will be told.
            log.warning("cannot empty %s: %s", self.directory, error)

    def close(self) -> None:
        """Close the directory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def make(self, keys: Iterable[Digest]) -> None:
        """See `LocalFiles.executables`."""
        wanted = dict.fromkeys(key for key in keys if key not in self._made)
        if wanted:
            await run_all(map(self._make, wanted))

    def is_sound(self, key: StoreKey) -> bool:
        """Whether a blob's file, if there is one, is as it was made."""
        made = self._made.get(key)
        return made is None or stamp_of(str(key), self._fd) == made

    def remove(self, key: StoreKey) -> None:
        """Remove a blob's executable file, if there is one; its name is free at once."""
        if self._made.pop(key, None) is None:
            return
        temp = f"{key}.{next(self._numbers)}.tmp"
        try:
            os.rename(str(key), temp, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            log.warning("cannot remove the executable %s: %s", key, error)
        else:
            self._lane.submit(partial(_unlink, temp, self._fd))

    async def _make(self, key: Digest) -> None:
        while key not in self._made:
            making = self._making.get(key)
            if making is not None:
                await asyncio.shield(making)
                continue
            making = self._making[key] = asyncio.get_running_loop().create_future()
            try:
                await self._make_new(key)
            finally:
                del self._making[key]
                making.set_result(None)

    async def _make_new(self, key: Digest) -> None:
        name = f"{key.hash}-{key.size_bytes}"
        temp = f"{name}.{next(self._numbers)}.tmp"
        try:
            if self._fd < 0:
                self._open()
            try:
                stamp = await self._lane.run(partial(self._copy, name, temp))
                if not self._is_wanted(key):
                    raise FileNotFoundError(name)
                os.rename(temp, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except BaseException:
                _unlink(temp, self._fd)
                raise
        except FileNotFoundError as error:
            raise unavailable(f"{key} left the store while it was copied") from error
        except OSError as error:
            what = f"making {key} executable in {self.directory}"
            if error.errno in _UNUSABLE:
                raise failed_precondition(
                    f"{what}: {error.strerror}; the worker needs this directory, beside the "
                    "content_path of its CAS, to be writable"
                ) from error
            raise disk_error(error, what) from error
        self._made[key] = stamp

    def _open(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.directory, os.O_DIRECTORY | os.O_CLOEXEC)

    def _copy(self, name: str, temp: str) -> int:
        """Copy a file so that it can be executed, in the lane; returns its stamp."""
        source = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._layout.digests)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            target = os.open(temp, flags, 0o700, dir_fd=self._fd)
            try:
                _copy_bytes(source, target)
                os.fchmod(target, _MODE)
            finally:
                os.close(target)
            _wait_for_writers(temp, self._fd)
            stamp = stamp_of(temp, self._fd)
        finally:
            os.close(source)
        if stamp is None:
            raise FileNotFoundError(temp)
        return stamp


def stamp_of(name: str, directory: int) -> int | None:
    """What a write to a file changes, in one number; None if the file is gone."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return hash(
        (
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_mode,
            status.st_uid,
            status.st_gid,
        )
    )


def _copy_bytes(source: int, target: int) -> None:
    """Copy a file into an empty one; on filesystems that share blocks without writing them."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        pass
    else:
        return
    while os.sendfile(target, source, None, _COPY_BYTES):
        pass


def _wait_for_writers(name: str, directory: int) -> None:
    """Wait until nobody has a file open for writing; executing it would fail with ETXTBSY.

    We have closed it, but a process that another thread was about to start at that moment has a
    copy of every descriptor until it executes its program.
    """
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        for _ in range(_WRITER_LOOKS):
            try:
                fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except BlockingIOError:
                _pause(_WRITER_PAUSE_S)
            except OSError:
                return  # No leases on this filesystem.
            else:
                fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
                return
    finally:
        os.close(fd)


def _unlink(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
