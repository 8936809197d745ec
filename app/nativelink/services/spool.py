"""A blob whose size and digest are known only behind its end.

It is kept in memory while it is small, and in a file without a name when it is not, so that memory
is bounded and nothing is left behind however this process ends. Hashing and writing happen in
threads, a buffer at a time.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Final

from nativelink.core.digest import Hasher
from nativelink.core.errors import resource_exhausted
from nativelink.core.streams import BytesSource, Chunk, Source
from nativelink.services.aside import Aside

__all__ = ["BUFFER_BYTES", "FileSource", "Spool", "temporary_file"]

#: Of memory, while bytes arrive. A hop to a thread costs 20 us, hashing so much 300 us.
BUFFER_BYTES: Final = 512 * 1024
_READ_BYTES: Final = 256 * 1024
#: Shorter pieces are gathered: an object for each byte would take fifty times its length.
_GATHERED_BYTES: Final = 4 * 1024


class Spool:
    """A sink that gives back what it took (`core.streams.Sink`).

    Args:
        hashers: all of them see every byte.
        folder: where the file is; None for the machine's directory for such.

    Attributes:
        size: bytes that it took.
    """

    def __init__(self, hashers: Sequence[Hasher], folder: Path | None = None) -> None:
        self._hashers = hashers
        self._folder = folder
        self._chunks: list[Chunk | bytearray] = []
        self._buffered = 0
        self._file: IO[bytes] | None = None
        self._aside = Aside()
        self.size = 0

    async def write(self, chunk: Chunk, /) -> None:
        """Take a piece.

        Raises:
            NativeLinkError: RESOURCE_EXHAUSTED if the disk is full.
        """
        last = self._chunks[-1] if self._chunks else None
        if len(chunk) >= _GATHERED_BYTES:
            self._chunks.append(chunk)
        elif isinstance(last, bytearray):
            last += chunk
        else:
            self._chunks.append(bytearray(chunk))
        self._buffered += len(chunk)
        self.size += len(chunk)
        if self._buffered >= BUFFER_BYTES:
            chunks, self._chunks, self._buffered = self._chunks, [], 0
            await self._in_thread(chunks)

    async def finish(self) -> Source:
        """The whole blob, for one reader; all hashers have seen it."""
        if self._file is None:
            for hasher in self._hashers:
                for chunk in self._chunks:
                    hasher.update(chunk)
            return BytesSource(b"".join(self._chunks))
        await self._in_thread(self._chunks)
        self._chunks = []
        return FileSource(self._file.fileno(), self.size)

    async def file(self) -> IO[bytes]:
        """The whole blob as a file, at its beginning, for as long as this is not closed."""
        if self._file is None:
            return BytesIO(b"".join(self._chunks))
        await self._in_thread(self._chunks)
        self._chunks = []
        self._file.seek(0)
        return self._file

    async def close(self) -> None:
        """Forget it. Returns when no thread works on it any more."""
        try:
            await self._aside.ended()
        finally:
            if self._file is not None:
                self._file.close()

    async def _in_thread(self, chunks: Sequence[Chunk | bytearray]) -> None:
        try:
            await self._aside.run(partial(self._take, chunks))
        except OSError as error:
            raise resource_exhausted(f"no room for {self.size} bytes: {error}") from error

    def _take(self, chunks: Sequence[Chunk | bytearray]) -> None:
        if self._file is None:
            self._file = temporary_file(self._folder)
        for chunk in chunks:
            for hasher in self._hashers:
                hasher.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[self._file.write(view) :]


def temporary_file(folder: Path | None) -> IO[bytes]:
    """A file without a name, which is gone once it is closed, however this process ends.

    Args:
        folder: where it is; None for the machine's directory for such.
    """
    return tempfile.TemporaryFile(dir=folder, buffering=0)


class FileSource:
    """Reads a file from its beginning.

    Args:
        descriptor: of the open file, whose position does not matter.
        size: of what is in it, in bytes.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._at = 0
        self.size: int | None = size

    async def read(self) -> Chunk:
        loop = asyncio.get_running_loop()
        chunk = await loop.run_in_executor(None, os.pread, self._descriptor, _READ_BYTES, self._at)
        self._at += len(chunk)
        return chunk
