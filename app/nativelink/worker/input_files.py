"""The files of an input tree, brought to this machine and kept from leaving it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from nativelink.core.digest import Digest
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, MissingBlob, NativeLinkError
from nativelink.core.streams import Chunk, NullSink
from nativelink.stores.disk import DiskLane
from nativelink.stores.disk_calls import write_all
from nativelink.stores.local_files import LeasedFile, LocalFiles
from nativelink.stores.store import Store
from nativelink.worker.tree import inputs_missing

__all__ = ["InputFiles", "LeasedInputs"]

#: A file that was fetched may be evicted before it is leased; after so many times the store is
#: taken to be too small for it.
_TRIES: Final = 3


class LeasedInputs(NamedTuple):
    """Files that stay where they are until they are released.

    Attributes:
        files: by digest.
        elsewhere: files that the store on this machine could not keep.
    """

    files: dict[Digest, LeasedFile]
    elsewhere: set[Digest]


class InputFiles:
    """Fetches files into the fast side of the worker's CAS, and leases them there.

    Leases are taken whatever `experimental_active_input_leases` says: an input that could be
    evicted while its action runs would make actions fail for nothing.

    Args:
        cas: the worker's CAS; reading a blob keeps it in its fast side.
        files: that fast side.
        lane: threads for the disk.
        max_concurrent_fetches: of one action.
    """

    def __init__(
        self, cas: Store, files: LocalFiles, *, lane: DiskLane, max_concurrent_fetches: int
    ) -> None:
        self._cas = cas
        self._files = files
        self._lane = lane
        self._fetches = max_concurrent_fetches

    async def lease(self, digests: Collection[Digest]) -> LeasedInputs:
        """Have the files here, and keep them.

        Raises:
            NativeLinkError: FAILED_PRECONDITION with a `MissingBlob` for every file that is
                absent; what the CAS raised.
        """
        keys = list(digests)
        files = await self._files.lease(keys)
        leased = LeasedInputs(
            {key: file for key, file in zip(keys, files, strict=True) if file is not None}, set()
        )
        if len(leased.files) == len(keys):
            return leased
        try:
            await self._fetch([key for key in keys if key not in leased.files], leased)
        except BaseException:
            self._files.release(list(leased.files.values()))
            raise
        return leased

    async def _fetch(self, absent: list[Digest], leased: LeasedInputs) -> None:
        sizes = await self._cas.has(absent)
        missing = [key for key, size in zip(absent, sizes, strict=True) if size is None]
        if not missing:
            waiting = iter(absent)
            workers = min(self._fetches, len(absent))
            await run_all(self._fetch_each(waiting, leased, missing) for _ in range(workers))
        if missing:
            raise inputs_missing(missing)

    async def _fetch_each(
        self, waiting: Iterator[Digest], leased: LeasedInputs, missing: list[Digest]
    ) -> None:
        """Fetch one file after the other, of those that others have not begun."""
        for key in waiting:
            for _ in range(_TRIES):
                try:
                    await self._cas.get(key, NullSink())
                except NativeLinkError as error:
                    if error.code is not Code.NOT_FOUND:
                        raise
                    # It left the CAS just now. The others are looked for still, so that the
                    # client hears of all at once.
                    missing.append(key)
                    break
                (file,) = await self._files.lease([key])
                if file is not None:
                    leased.files[key] = file
                    break
            else:
                leased.elsewhere.add(key)

    async def stream(self, key: Digest, path: Path, mode: int, mtime_ns: int | None) -> None:
        """Write a blob into a new file, past the fast side.

        Raises:
            NativeLinkError: FAILED_PRECONDITION with a `MissingBlob`; DATA_LOSS if the blob has
                another size than its digest says.
            OSError: the disk is full, for one.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = await self._lane.run(lambda: os.open(path, flags, 0o600))
        try:
            sink = _FileSink(fd, self._lane)
            try:
                await self._cas.get(key, sink)
            except NativeLinkError as error:
                if error.code is Code.NOT_FOUND and MissingBlob(key) in error.details:
                    raise inputs_missing([key]) from error
                raise
            if sink.size != key.size_bytes:
                raise NativeLinkError(
                    Code.DATA_LOSS,
                    f"{key} has {sink.size} bytes in the content-addressable storage",
                )
            os.fchmod(fd, mode)
            if mtime_ns is not None:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)


class _FileSink:
    """Writes to a file, off the event loop."""

    def __init__(self, fd: int, lane: DiskLane) -> None:
        self._fd = fd
        self._lane = lane
        self.size = 0

    async def write(self, chunk: Chunk, /) -> None:
        self.size += await self._lane.run(lambda: write_all(self._fd, (chunk,)))
