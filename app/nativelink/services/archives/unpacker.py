"""Makes a directory of the CAS of an archive that is in the CAS.

All work on bytes happens in threads, a bounded step at a time; between two steps the files that
became ready are stored, many at once. The archive is copied into a temporary file first: while it
is read nothing of the CAS is held, so that a backend with few connections can take the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.eager import run_all
from nativelink.core.errors import NativeLinkError, resource_exhausted
from nativelink.services.archives.contents import Contents, Entries
from nativelink.services.archives.limits import ArchiveLimits, exhausted
from nativelink.services.archives.packing import Packed
from nativelink.services.archives.tar import read_tar
from nativelink.services.archives.tree import Tree
from nativelink.services.archives.zip import ZIP_HEAD_BYTES, begins_as_zip, read_zip
from nativelink.services.aside import Aside
from nativelink.services.spool import Spool
from nativelink.stores.store import Store, read_bytes

__all__ = ["Unpacker"]

#: Entries, or pieces of long ones, in one step. A small entry keeps the interpreter busy for
#: 20 us, a directory for 100: so other work is not delayed by more than some milliseconds.
_STEP: Final = 64


class Unpacker:
    """Makes directories of archives.

    Args:
        cas: has the archives, and takes what is in them.
        limits: what one may cost.
        folder: for the archive and its larger files while they are worked on; None for the
            machine's own.

    Attributes:
        limits: as given.
    """

    def __init__(self, cas: Store, *, limits: ArchiveLimits, folder: Path | None = None) -> None:
        self._cas = cas
        self.limits = limits
        self._folder = folder

    async def is_zip(self, archive: Digest) -> bool:
        """Whether an archive is a zip, as far as its first bytes tell.

        Raises:
            NativeLinkError: of the CAS.
        """
        return begins_as_zip(await read_bytes(self._cas, archive, limit=ZIP_HEAD_BYTES))

    async def unpack(self, archive: Digest, function: DigestFunction) -> Digest | NativeLinkError:
        """The root of the directory, which is in the CAS with all that is in it.

        Cancelled, it leaves files behind in the CAS that nobody knows of.

        Args:
            archive: in the CAS.
            function: names the directory and its files.

        Returns:
            An error that is the archive's: ABORTED if no directory can be made of it,
            RESOURCE_EXHAUSTED if there is too much in it.

        Raises:
            NativeLinkError: of the CAS; RESOURCE_EXHAUSTED if there is no room in the folder.
        """
        if archive.size_bytes > self.limits.max_bytes:
            # What it unpacks to is hardly less, and it would take as much room to find that out.
            return exhausted(
                f"it has {archive.size_bytes} bytes; {self.limits.max_bytes} are allowed"
            )
        spool = Spool((), self._folder)
        try:
            await self._cas.get(archive, spool)
            job = _Job(await spool.file(), archive.size_bytes, function, self.limits, self._folder)
            try:
                more = True
                while more:
                    more = await job.step()
                    await self._store(job.entries.taken())
                return job.root
            except _UnfitError as error:
                return error.why
            finally:
                await job.close()
        finally:
            await spool.close()

    async def _store(self, ready: dict[Digest, Contents]) -> None:
        try:
            if ready:
                sizes = await self._cas.has(list(ready))
                await run_all(
                    self._cas.put(digest, contents.source())
                    for (digest, contents), size in zip(ready.items(), sizes, strict=True)
                    if size is None
                )
        finally:
            for contents in ready.values():
                contents.close()


class _UnfitError(Exception):
    """An error that is the archive's."""

    def __init__(self, why: NativeLinkError) -> None:
        super().__init__(why)
        self.why = why


class _Job:
    """One archive that is worked on.

    Attributes:
        entries: what was read of it.
        root: of the directory, when all is done.
    """

    def __init__(
        self,
        file: IO[bytes],
        size: int,
        function: DigestFunction,
        limits: ArchiveLimits,
        folder: Path | None,
    ) -> None:
        self._file = file
        self._size = size
        self._function = function
        self._limits = limits
        self._tree = Tree(limits.max_entries)
        self.entries = Entries(self._tree, function, folder)
        self.root = Digest("", 0)
        self._work = self._all()
        self._aside = Aside()

    async def step(self) -> bool:
        """Work on it for a while; whether there is more to be done.

        Raises:
            _UnfitError: the archive's error.
            NativeLinkError: RESOURCE_EXHAUSTED if the disk is full.
        """
        try:
            return await self._aside.run(self._step)
        except NativeLinkError as error:
            raise _UnfitError(error) from error
        except OSError as error:
            raise resource_exhausted(f"no room to unpack an archive: {error}") from error

    async def close(self) -> None:
        """Forget it. Returns when no thread works on it any more."""
        try:
            await self._aside.ended()
        finally:
            self.entries.close()

    def _step(self) -> bool:
        counted = enumerate(self._work, 1)
        return any(count == _STEP or self.entries.are_many for count, _ in counted)

    def _all(self) -> Iterator[None]:
        head = self._file.read(ZIP_HEAD_BYTES)
        self._file.seek(0)
        if begins_as_zip(head):
            yield from read_zip(self._file, self._size, self.entries, self._limits)
        else:
            packed = Packed(self._file, self._limits.max_bytes)
            yield from read_tar(packed, self.entries)
        yield from self._tree.require_confined()
        for digest, data in self._tree.directories(self._function):
            self.entries.blob(data)
            self.root = digest
            yield
