"""Outputs into the content-addressable storage, each blob at most once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nativelink.core.digest import Digest, is_empty
from nativelink.core.eager import run_all
from nativelink.core.streams import BytesSource, Chunk
from nativelink.stores.disk import DiskLane
from nativelink.stores.local_files import LocalFiles
from nativelink.stores.store import Store

__all__ = ["Uploads"]

_PIECE_BYTES: Final = 1 << 20
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

    async def upload(self, files: Mapping[Digest, Path], messages: Mapping[Digest, bytes]) -> None:
        """Store the blobs that are not there yet. Files may be gone afterwards.

        Raises:
            NativeLinkError: what the store raised.
        """
        keys = [key for key in (*files, *messages) if not is_empty(key)]
        if not keys:
            return
        sizes = await self._cas.has(keys)
        absent = [key for key, size in zip(keys, sizes, strict=True) if size is None]
        await run_all(
            self._put_message(key, messages[key])
            if key in messages
            else self._put_file(key, files[key])
            for key in absent
        )

    async def _put_message(self, key: Digest, data: bytes) -> None:
        async with self._room:
            await self._cas.put(key, BytesSource(data))

    async def _put_file(self, key: Digest, path: Path) -> None:
        async with self._room:
            if self._upstream is None:
                if not await self._files.adopt(key, path):
                    await self._copy(self._cas, key, path)
                return
            await self._copy(self._upstream, key, path)
            # Likely to be an input soon. If it cannot be moved it will be fetched then.
            await self._files.adopt(key, path)

    async def _copy(self, store: Store, key: Digest, path: Path) -> None:
        source = _FileSource(path, key.size_bytes, self._lane)
        try:
            await store.put(key, source)
        finally:
            source.close()


class _FileSource:
    """A file as a source; one piece of at most 1 MiB is in memory."""

    __slots__ = ("_fd", "_lane", "_offset", "_path", "size")

    def __init__(self, path: Path, size: int, lane: DiskLane) -> None:
        self._path = path
        self._lane = lane
        self._fd = -1
        self._offset = 0
        self.size: int | None = size

    async def read(self) -> Chunk:
        piece = await self._lane.run(self._read)
        self._offset += len(piece)
        return piece

    def _read(self) -> bytes:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return os.pread(self._fd, _PIECE_BYTES, self._offset)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
