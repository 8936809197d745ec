"""Outputs into the content-addressable storage, each blob at most once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nativelink.core.digest import Digest, DigestFunction, is_empty
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSource, Chunk
from nativelink.stores.disk import DiskLane
from nativelink.stores.disk_calls import disk_error
from nativelink.stores.local_files import LocalFiles
from nativelink.stores.store import Store

__all__ = ["Uploads"]

_PIECE_BYTES: Final = 1 << 20
#: Neither a link nor a pipe that somebody put there meanwhile.
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Small blobs that travel together go upstream in one message; large ones take a piece each.
_AT_THE_SAME_TIME: Final = 256


class Uploads:
    """Stores what actions produced.

    Args:
        cas: the worker's CAS.
        upstream: its slow side, if that takes uploads: blobs go there first, because what is
            acknowledged must be where everyone finds it.
        files: its fast side, which takes whole files without a copy.
        lane: threads that read files.
    """

    def __init__(
        self, cas: Store, upstream: Store | None, files: LocalFiles, *, lane: DiskLane
    ) -> None:
        self._cas = cas
        self._upstream = upstream
        self._files = files
        self._lane = lane
        self._room = asyncio.Semaphore(_AT_THE_SAME_TIME)

    async def upload(
        self,
        files: Mapping[Digest, Path],
        messages: Mapping[Digest, bytes],
        function: DigestFunction,
        *,
        settled: bool = True,
    ) -> None:
        """Store the blobs that are not there yet. Files may be gone afterwards.

        Args:
            files: where they are.
            messages: their bytes.
            function: what they were hashed by.
            settled: False if somebody could still write to the files: then they are copied, and
                hashed as they are.

        Raises:
            NativeLinkError: what the store raised; ABORTED for a file that changed meanwhile.
        """
        keys = [key for key in (*files, *messages) if not is_empty(key)]
        if not keys:
            return
        sizes = await self._cas.has(keys)
        absent = [key for key, size in zip(keys, sizes, strict=True) if size is None]
        await run_all(
            self._put_message(key, messages[key])
            if key in messages
            else self._put_file(key, files[key], function, settled=settled)
            for key in absent
        )

    async def _put_message(self, key: Digest, data: bytes) -> None:
        async with self._room:
            await self._cas.put(key, BytesSource(data))

    async def _put_file(
        self, key: Digest, path: Path, function: DigestFunction, *, settled: bool
    ) -> None:
        async with self._room:
            if self._upstream is None:
                if not settled or not await self._files.adopt(key, path):
                    # Somebody may have it open, for all we know.
                    await self._copy(self._cas, key, path, function)
            elif settled:
                await self._copy(self._upstream, key, path)
                # Likely to be an input soon. If it cannot be moved it will be fetched then.
                await self._files.adopt(key, path)
            else:
                await self._copy(self._upstream, key, path, function)

    async def _copy(
        self, store: Store, key: Digest, path: Path, function: DigestFunction | None = None
    ) -> None:
        source = _FileSource(path, key, self._lane, function)
        try:
            await store.put(key, source)
        finally:
            source.close()


class _FileSource:
    """A file as a source; one piece of at most 1 MiB is in memory.

    Args:
        path: of the file.
        key: its digest.
        lane: reads it.
        function: hashes what is read, to compare it with `key`; None if nobody writes to it.
    """

    __slots__ = ("_fd", "_hasher", "_key", "_lane", "_offset", "_path", "size")

    def __init__(
        self, path: Path, key: Digest, lane: DiskLane, function: DigestFunction | None
    ) -> None:
        self._path = path
        self._key = key
        self._lane = lane
        self._hasher = None if function is None else function.new()
        self._fd = -1
        self._offset = 0
        self.size: int | None = key.size_bytes

    async def read(self) -> Chunk:
        try:
            return await self._lane.run(self._read)
        except OSError as error:
            raise disk_error(error, f"cannot read the output {self._key}") from error

    def _read(self) -> bytes:
        if self._fd < 0:
            self._fd = os.open(self._path, _OPEN)
        piece = os.pread(self._fd, _PIECE_BYTES, self._offset)
        self._offset += len(piece)
        if self._hasher is not None:
            self._hasher.update(piece)
            is_end = not piece or self._offset >= self._key.size_bytes
            if is_end and self._hasher.hexdigest() != self._key.hash:
                raise NativeLinkError(
                    Code.ABORTED, f"the output {self._key} was written to while it was stored"
                )
        return piece

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
