"""Uploads into a filesystem store, in processes that are made to be killed.

Reads lines `DIRECTORY SEED STEP` and forks a process for each, which puts 200 blobs at once and
writes `ack N` when blob N is acknowledged. Instead of opening or renaming its STEPth file it kills
itself; with STEP 0 it does not. For each it writes `began PID` before and `ended` after. Forked
rather than started, because starting Python takes longer than a round.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
from pathlib import Path

from nativelink.core.clock import SystemClock
from nativelink.core.digest import DigestFunction
from nativelink.core.streams import Chunk
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore

COUNT = 200
SIZES = (0, 1, 500, 5_000, 70_000, 300_000, 1_500_000)
WEIGHTS = (1, 5, 60, 60, 50, 20, 4)
#: A whole round takes a few more.
STEPS = 2 * COUNT


def blob(seed: int, number: int) -> bytes:
    """Blob `number` of a round."""
    rng = random.Random(f"{seed} {number}")
    (size,) = rng.choices(SIZES, WEIGHTS)
    return rng.randbytes(size)


class Arriving:
    """A blob that comes in pieces, with turns of the loop in between."""

    def __init__(self, data: bytes, rng: random.Random) -> None:
        self.size = len(data)
        self._left = memoryview(data)
        self._rng = rng

    async def read(self) -> Chunk:
        for _ in range(self._rng.randrange(4)):
            await asyncio.sleep(0)
        piece, self._left = self._left[:65_536], self._left[65_536:]
        return piece


def die_at(step: int) -> None:
    """Have this process killed at a step of its own, in whichever thread that is."""
    steps = itertools.count(1)

    def on_event(event: str, _: object) -> None:
        if event in {"open", "os.rename"} and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on_event)


async def upload(directory: Path, seed: int) -> None:
    async with FilesystemStore(
        content_path=directory / "content",
        temp_path=directory / "temp",
        eviction=EvictionPolicy(),
        clock=SystemClock(),
    ) as store:

        async def put(number: int) -> None:
            data = blob(seed, number)
            key = DigestFunction.SHA256.digest_of(data)
            await store.put(key, Arriving(data, random.Random(number)))
            os.write(1, b"ack %d\n" % number)

        async with asyncio.TaskGroup() as tasks:
            for number in range(COUNT):
                tasks.create_task(put(number))


def main() -> None:
    for line in sys.stdin:
        directory, seed, step = line.split()
        pid = os.fork()
        if pid == 0:
            die_at(int(step))
            asyncio.run(upload(Path(directory), int(seed)))
            os._exit(0)
        os.write(1, b"began %d\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"ended\n")


if __name__ == "__main__":
    main()
