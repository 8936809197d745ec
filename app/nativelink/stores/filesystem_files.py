"""The files of a filesystem store, lent to programs on the same machine (`LocalFiles`).

A worker makes hard links to them. What it links must stay in the store while it does so, so files
are *leased*. All who lease a blob at a time share one record; it belongs to one inode. If the blob
leaves the store although it is leased (it was damaged, or a client replaced it), the record is
*detached*: whoever has it keeps it, and who leases the blob next gets a new one.

A link is another name of the store's own inode, and an action that runs as root, or as the owner,
can write through it whatever the mode says. So a record remembers how its inode looked when it was
leased first, and `changed` looks again. The time of the last status change would say most, but
every link changes it; the time of modification, which every write sets, is compared instead, and
size, mode and owner (docs/adr/0011-inputs-are-links.md).

An executable needs the mode 0555, which is the inode's and not the name's: its second file,
`{content_path}.exec/d/{hash}-{size}` as in NativeLink v1.6.6, is made when it is wanted first and
removed with the blob. They are not what the store keeps, so the directory is emptied at the start.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, Protocol

from nativelink.core.digest import Digest, StoreKey, is_empty
from nativelink.core.eager import run_all
from nativelink.core.errors import failed_precondition, unavailable
from nativelink.stores.disk import DiskLane, disk_error
from nativelink.stores.eviction import EvictingMap
from nativelink.stores.filesystem_layout import CONTENT_MODE, Layout
from nativelink.stores.group_commit import WrittenFile
from nativelink.stores.local_files import LeasedFile

__all__ = ["FilesystemFiles", "Keeper"]

log = logging.getLogger(__name__)

EXECUTABLE_MODE: Final = 0o555

#: Records of files that nobody leases now, kept so that they need not be looked at again: 10 MiB.
_MAX_RECORDS: Final = 1 << 15
#: Files looked at, 1.5 us each, before others get their turn.
_SLICE: Final = 256
_COPY_BYTES: Final = 1 << 30
_FICLONE: Final = 0x40049409
#: How often, and how long apart, it is looked whether a file is still open for writing.
_WRITER_LOOKS: Final = 1000
_WRITER_PAUSE_S: Final = 0.001
_pause = time.sleep
#: What the filesystem says of a directory that cannot be used at all.
_UNUSABLE: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ELOOP}
)


class Keeper(Protocol):
    """What the store does for its files."""

    async def look_up(self, keys: Sequence[StoreKey]) -> object:
        """Make sure that the map has those of `keys` that are there."""
        ...

    def is_kept(self, key: Digest) -> bool:
        """Whether the store has the blob, and that survives a power cut."""
        ...

    def is_too_large(self, size: int) -> bool:
        """Whether the store refuses values of this size."""
        ...

    def lose(self, key: StoreKey) -> None:
        """Forget a blob and remove its file."""
        ...

    async def commit(self, file: WrittenFile) -> None:
        """Make a temporary file a blob of the store."""
        ...


class _Record:
    """One inode that is or was leased.

    Attributes:
        key: whose bytes.
        name: of the file.
        leases: how many there are now.
        stamp: how the file looked at first.
        is_attached: whether the store still has this very inode.
        is_damaged: whether it was seen to differ from what it was at first.
    """

    __slots__ = ("is_attached", "is_damaged", "key", "leases", "name", "stamp")

    def __init__(self, key: Digest, name: str, stamp: int) -> None:
        self.key = key
        self.name = name
        self.leases = 0
        self.stamp = stamp
        self.is_attached = True
        self.is_damaged = False


class FilesystemFiles:
    """`LocalFiles` of a filesystem store.

    Args:
        keeper: the store.
        layout: its directories.
        entries: its map.
        now: monotonic time.
        lane: where files are copied.
    """

    def __init__(
        self,
        keeper: Keeper,
        layout: Layout,
        entries: EvictingMap[StoreKey, int],
        *,
        now: Callable[[], float],
        lane: DiskLane,
    ) -> None:
        self._keeper = keeper
        self._layout = layout
        self._map = entries
        self._now = now
        self._lane = lane
        #: The attached records by blob, leased or not.
        self.records: dict[StoreKey, _Record] = {}
        #: How the executable files looked when they were made, and what they are made by.
        self._made: dict[StoreKey, int] = {}
        self._making: dict[StoreKey, asyncio.Future[None]] = {}
        self._numbers = count()
        self.directory = layout.content_path / "d"
        root = layout.content_path
        self.executable_directory = root.with_name(f"{root.name}.exec") / "d"
        self._executables = -1
        self._device = -1

    @property
    def device(self) -> int:
        return self._device

    # The store's side.

    def open(self) -> None:
        """Remove the executables of an earlier process."""
        self._device = os.fstat(self._layout.digests).st_dev
        try:
            for entry in os.scandir(self.executable_directory):
                Path(entry.path).unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            # Most stores have no executables; those that need them will be told.
            log.warning("cannot empty %s: %s", self.executable_directory, error)

    def close(self) -> None:
        """Close the directory."""
        if self._executables >= 0:
            os.close(self._executables)
            self._executables = -1

    def removed(self, key: StoreKey) -> None:
        """The blob left the map, and all leases of it with that; its file goes next."""
        record = self.records.pop(key, None)
        if record is not None:
            if record.leases:
                self._inspect(record)
            record.is_attached = False
        self._remove_executable(key)

    def replacing(self, key: StoreKey) -> None:
        """Another inode is about to get the blob's name."""
        record = self.records.pop(key, None)
        if record is not None:
            if record.leases:
                self._inspect(record)
                self._map.release(key, self._now())
            record.is_attached = False
            self._remove_executable(key)

    def is_sound(self, key: StoreKey) -> bool:
        """Whether a blob is not one that somebody wrote to; if it is, it leaves the store."""
        record = self.records.get(key)
        if record is None or not record.leases or self._inspect(record):
            return True
        self._quarantine(record)
        return False

    # `LocalFiles`.

    async def lease(self, keys: Sequence[Digest]) -> list[LeasedFile | None]:
        unknown = [key for key in keys if key not in self.records]
        if unknown:
            await self._keeper.look_up(unknown)
        files: list[LeasedFile | None] = []
        try:
            for index, key in enumerate(keys):
                files.append(self._lease(key))
                if index % _SLICE == _SLICE - 1:
                    await asyncio.sleep(0)
        except BaseException:
            self.release([file for file in files if file is not None])
            raise
        return files

    def release(self, files: Sequence[LeasedFile]) -> None:
        for record in files:
            assert isinstance(record, _Record)
            record.leases -= 1
            if not record.leases and record.is_attached:
                self._map.release(record.key, self._now())
        if len(self.records) > _MAX_RECORDS:
            for key in [key for key, record in self.records.items() if not record.leases]:
                del self.records[key]

    async def executables(self, files: Sequence[LeasedFile]) -> None:
        wanted = dict.fromkeys(file.key for file in files if file.key not in self._made)
        if wanted:
            await run_all(map(self._make_executable, wanted))

    async def changed(self, files: Sequence[LeasedFile]) -> list[LeasedFile]:
        found: list[LeasedFile] = []
        for index, record in enumerate(files):
            assert isinstance(record, _Record)
            if not self._inspect(record):
                found.append(record)
                if record.is_attached:
                    self._quarantine(record)
            if index % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        return found

    async def adopt(self, key: Digest, path: Path) -> bool:
        if is_empty(key) or self._keeper.is_too_large(key.size_bytes):
            return False
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            taken = self._take(key, path, fd)
        except BaseException:
            os.close(fd)
            raise
        if isinstance(taken, bool):
            os.close(fd)
            return taken
        await self._keeper.commit(WrittenFile(key, taken, fd, key.size_bytes))
        return True

    # Leases.

    def _lease(self, key: Digest) -> _Record | None:
        record = self.records.get(key)
        if record is None:
            if is_empty(key) or self._map.peek(key, self._now()) is None:
                return None
            name = f"{key.hash}-{key.size_bytes}"
            stamp = _stamp(name, self._layout.digests)
            if stamp is None:
                self._keeper.lose(key)
                return None
            record = self.records[key] = _Record(key, name, stamp)
        if not record.leases and not self._map.lease(key):
            return None
        record.leases += 1
        return record

    # What somebody wrote to.

    def _inspect(self, record: _Record) -> bool:
        """Whether a leased inode is as it was; of a detached one, whether it was when it left."""
        if record.is_attached and not record.is_damaged:
            made = self._made.get(record.key)
            record.is_damaged = _stamp(record.name, self._layout.digests) != record.stamp or (
                made is not None and _stamp(record.name, self._executables) != made
            )
        return not record.is_damaged

    def _quarantine(self, record: _Record) -> None:
        log.warning(
            "the file of %s was written to or removed while it was an input of actions: the store "
            "gives it up, and no result that was made with it is used",
            record.key,
        )
        self._keeper.lose(record.key)

    # Executables.

    async def _make_executable(self, key: Digest) -> None:
        while key not in self._made:
            making = self._making.get(key)
            if making is not None:
                await asyncio.shield(making)
                continue
            making = self._making[key] = asyncio.get_running_loop().create_future()
            try:
                await self._copy_executable(key)
            finally:
                del self._making[key]
                making.set_result(None)

    async def _copy_executable(self, key: Digest) -> None:
        name = f"{key.hash}-{key.size_bytes}"
        temp = f"{name}.{next(self._numbers)}.tmp"
        try:
            if self._executables < 0:
                self._open_executables()
            stamp = await self._lane.run(partial(self._copy, name, temp))
            record = self.records.get(key)
            if record is None or not record.leases:
                _unlink(temp, self._executables)
                raise FileNotFoundError(name)
            os.rename(temp, name, src_dir_fd=self._executables, dst_dir_fd=self._executables)
        except FileNotFoundError as error:
            raise unavailable(f"{key} left the store while it was copied") from error
        except OSError as error:
            what = f"making {key} executable in {self.executable_directory}"
            if error.errno in _UNUSABLE:
                raise failed_precondition(
                    f"{what}: {error.strerror}; the worker needs this directory, beside the "
                    "content_path of its CAS, to be writable"
                ) from error
            raise disk_error(error, what) from error
        self._made[key] = stamp

    def _open_executables(self) -> None:
        self.executable_directory.mkdir(parents=True, exist_ok=True)
        self._executables = os.open(self.executable_directory, os.O_DIRECTORY | os.O_CLOEXEC)

    def _copy(self, name: str, temp: str) -> int:
        """Copy a file so that it can be executed, in the lane; returns its stamp."""
        source = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._layout.digests)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            target = os.open(temp, flags, 0o700, dir_fd=self._executables)
            try:
                _copy_bytes(source, target)
                os.fchmod(target, EXECUTABLE_MODE)
            finally:
                os.close(target)
            _wait_for_writers(temp, self._executables)
            stamp = _stamp(temp, self._executables)
        except BaseException:
            _unlink(temp, self._executables)
            raise
        finally:
            os.close(source)
        if stamp is None:
            raise FileNotFoundError(temp)
        return stamp

    def _remove_executable(self, key: StoreKey) -> None:
        """Remove a blob's executable file, if there is one; its name is free at once."""
        if self._made.pop(key, None) is None:
            return
        temp = f"{key}.{next(self._numbers)}.tmp"
        try:
            os.rename(str(key), temp, src_dir_fd=self._executables, dst_dir_fd=self._executables)
        except OSError as error:
            log.warning("cannot remove the executable %s: %s", key, error)
        else:
            self._lane.submit(partial(_unlink, temp, self._executables))

    # Adoption.

    def _take(self, key: Digest, path: Path, fd: int) -> str | bool:
        """Bring a file into the temporary directory.

        Returns:
            Its name there; True if the store has the blob, and the file was removed; False if it
            cannot be taken.
        """
        status = os.fstat(fd)
        if (
            not stat.S_ISREG(status.st_mode)
            or status.st_nlink != 1
            or status.st_dev != self._device
            or status.st_size != key.size_bytes
        ):
            return False
        user = os.geteuid()
        if status.st_uid != user and user != 0:
            return False
        try:
            if self._keeper.is_kept(key) and self.is_sound(key):
                path.unlink()
                return True
            if status.st_uid != user:
                os.fchown(fd, user, os.getegid())
            os.fchmod(fd, CONTENT_MODE)
            # The action may have given it any time, and it is as old as its times say.
            os.utime(fd)
            name = self._layout.temp_name(key)
            os.rename(path, name, dst_dir_fd=self._layout.temp)
        except OSError as error:
            log.warning("%s is not moved into the store but copied: %s", path, error)
            return False
        return name


def _stamp(name: str, directory: int) -> int | None:
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
