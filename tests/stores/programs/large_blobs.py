"""Puts large blobs into a filesystem store and reads them again, all at once.

Takes a directory, a number of blobs and their size in MiB. Prints by how many MiB the process grew
while it did so.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from pathlib import Path

from nativelink.core.clock import SystemClock
from nativelink.core.digest import Digest
from nativelink.core.streams import Chunk, NullSink
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore

PIECE = os.urandom(65_536)


class Repeated:
    """The same piece many times, each time another object, as from a socket."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._left = size

    async def read(self) -> Chunk:
        await asyncio.sleep(0)
        if not self._left:
            return b""
        self._left -= len(PIECE)
        return bytes(bytearray(PIECE))


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def main(directory: Path, count: int, size: int) -> None:
    keys = [Digest(f"{number:064x}", size) for number in range(count)]
    async with FilesystemStore(
        content_path=directory / "content",
        temp_path=directory / "temp",
        eviction=EvictionPolicy(),
        clock=SystemClock(),
    ) as store:
        before = peak_mib()

        async def put_and_get(key: Digest) -> None:
            assert await store.put(key, Repeated(size)) == size
            sink = NullSink()
            await store.get(key, sink)
            assert sink.size == size

        async with asyncio.TaskGroup() as tasks:
            for key in keys:
                tasks.create_task(put_and_get(key))
    sys.stdout.write(f"{peak_mib() - before:.1f}\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) << 20))
