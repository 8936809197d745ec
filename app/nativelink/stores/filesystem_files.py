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

An executable needs the mode 0555, which is the inode's and not the name's: it is a second file
(`filesystem_executables`).
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import stat
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from nativelink.core.digest import Digest, DigestFunction, StoreKey, is_empty
from nativelink.stores.disk import DiskLane
from nativelink.stores.disk_calls import disk_error
from nativelink.stores.eviction import EvictingMap
from nativelink.stores.filesystem_executables import Executables, stamp_of
from nativelink.stores.filesystem_layout import CONTENT_MODE, Layout, parse_digest_name
from nativelink.stores.group_commit import WrittenFile
from nativelink.stores.local_files import LeasedFile

__all__ = ["FilesystemFiles", "Keeper"]

log = logging.getLogger(__name__)

#: Records of files that nobody leases now, kept so that they need not be looked at again: 10 MiB.
_MAX_RECORDS: Final = 1 << 15
#: Files looked at, 1.5 us each, before others get their turn.
_SLICE: Final = 256
_PIECE_BYTES: Final = 1 << 20


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
        self.directory = layout.content_path / "d"
        self._executables = Executables(layout, lane=lane, is_wanted=self._is_leased)
        self.executable_directory = self._executables.directory
        self._device = -1

    @property
    def device(self) -> int:
        return self._device

    # The store's side.

    def open(self) -> None:
        """Remove the executables of an earlier process."""
        self._device = os.fstat(self._layout.digests).st_dev
        self._executables.empty()

    def close(self) -> None:
        """Close what is open."""
        self._executables.close()

    def removed(self, key: StoreKey) -> None:
        """The blob left the map, and all leases of it with that; its file goes next."""
        record = self.records.pop(key, None)
        if record is not None:
            if record.leases:
                self._inspect(record)
            record.is_attached = False
        self._executables.remove(key)

    def replacing(self, key: StoreKey) -> None:
        """Another inode is about to get the blob's name."""
        record = self.records.pop(key, None)
        if record is not None:
            if record.leases:
                self._inspect(record)
                self._map.release(key, self._now())
            record.is_attached = False
            self._executables.remove(key)

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
        await self._executables.make(file.key for file in files)

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

    async def recheck(self, inodes: Collection[int]) -> list[Digest]:
        try:
            wrong = await self._lane.run(partial(_wrong_files, self.directory, frozenset(inodes)))
        except OSError as error:
            raise disk_error(error, f"checking files in {self.directory}") from error
        # The start-up scan may not have come to them.
        await self._keeper.look_up(wrong)
        for key in wrong:
            log.warning(
                "%s was an input of an action when this machine's worker died, and is not what "
                "its digest says: it is removed from the store",
                key,
            )
            self._keeper.lose(key)
        return wrong

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
            stamp = stamp_of(name, self._layout.digests)
            if stamp is None:
                self._keeper.lose(key)
                return None
            record = self.records[key] = _Record(key, name, stamp)
        if not record.leases and not self._map.lease(key):
            return None
        record.leases += 1
        return record

    def _is_leased(self, key: StoreKey) -> bool:
        record = self.records.get(key)
        return record is not None and record.leases > 0

    # What somebody wrote to.

    def _inspect(self, record: _Record) -> bool:
        """Whether a leased inode is as it was; of a detached one, whether it was when it left."""
        if record.is_attached and not record.is_damaged:
            record.is_damaged = stamp_of(
                record.name, self._layout.digests
            ) != record.stamp or not self._executables.is_sound(record.key)
        return not record.is_damaged

    def _quarantine(self, record: _Record) -> None:
        log.warning(
            "the file of %s was written to or removed while it was an input of actions: the store "
            "gives it up, and no result that was made with it is used",
            record.key,
        )
        self._keeper.lose(record.key)

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
            if not _is_written_by_nobody(fd):
                return False
            name = self._layout.temp_name(key)
            os.rename(path, name, dst_dir_fd=self._layout.temp)
        except OSError as error:
            log.warning("%s is not moved into the store but copied: %s", path, error)
            return False
        return name


def _is_written_by_nobody(fd: int) -> bool:
    """Whether nobody has a file open, or mapped, for writing.

    Whatever ran an action has ended, but it may have passed a descriptor on to a process that has
    not, or made the file a loop device. Who opens it from now on finds the mode of a blob.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return False
    except OSError:
        return True  # No leases on this filesystem.
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


def _wrong_files(directory: Path, inodes: frozenset[int]) -> list[Digest]:
    """Those of a directory's files with these inode numbers that have not the digest they claim."""
    wrong: list[Digest] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.inode() not in inodes:
                continue
            key = parse_digest_name(entry.name)
            if key is not None and not _has_digest(entry.path, key):
                wrong.append(key)
    return wrong


def _has_digest(path: str, key: Digest) -> bool:
    """Whether a file has a digest by any function: nothing says by which one it was stored."""
    hashers = [function.new() for function in DigestFunction]
    with Path(path).open("rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            for hasher in hashers:
                hasher.update(piece)
    return any(hasher.hexdigest() == key.hash for hasher in hashers)
