"""The simplest things that keep our contracts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from nativelink.core.clock import SystemClock
from nativelink.core.digest import StoreKey, is_empty
from nativelink.core.errors import out_of_range
from nativelink.core.streams import Chunk, Sink, Source
from nativelink.stores.store import absent

__all__ = ["DictStore", "FakeClock", "PassingTime", "PiecesSource", "Turns", "wait_until"]


T = TypeVar("T")

#: Turns after which it is not the loop's own work that is waited for, but another thread's.
_TURNS = 100
_PAUSE_S = 0.001


class DictStore:
    """A dictionary that keeps the store contract, and a removal feed.

    Attributes:
        blobs: what is stored; a test may read and change it behind the store's back.
    """

    def __init__(self, *, chunk_size: int = 0) -> None:
        """Give blobs in pieces of `chunk_size` bytes, or in one piece if it is 0."""
        self.blobs: dict[StoreKey, bytes] = {}
        self._chunk_size = chunk_size
        self._callbacks: list[Callable[[StoreKey], None]] = []

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        return [
            len(self.blobs[key]) if key in self.blobs else 0 if is_empty(key) else None
            for key in keys
        ]

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        data = b"" if is_empty(key) else self.blobs.get(key)
        if data is None:
            raise absent(key)
        if offset > len(data):
            raise out_of_range(f"offset {offset} is beyond the {len(data)} bytes of {key}")
        wanted = memoryview(data)[offset : None if limit is None else offset + limit]
        step = self._chunk_size or len(wanted) or 1
        for start in range(0, len(wanted), step):
            await sink.write(wanted[start : start + step])

    async def put(self, key: StoreKey, source: Source) -> int:
        data = bytearray()
        while chunk := await source.read():
            data += chunk
        if not is_empty(key):
            self.blobs[key] = bytes(data)
        return len(data)

    def on_removed(self, callback: Callable[[StoreKey], None], /) -> None:
        self._callbacks.append(callback)

    def remove(self, key: StoreKey) -> None:
        """Evict a key and tell those who asked to know."""
        del self.blobs[key]
        for callback in self._callbacks:
            callback(key)


class FakeClock:
    """A clock that stands still until a test advances it.

    Wall time and monotonic time move together but start apart, so that code which mixes them up
    fails.
    """

    def __init__(self, *, time: float = 1_700_000_000.0, monotonic: float = 1_000.0) -> None:
        self._time = time
        self._monotonic = monotonic

    def time(self) -> float:
        return self._time

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards, got {seconds} s")
        self._time += seconds
        self._monotonic += seconds

    def set_time(self, time: float) -> None:
        """Step the wall clock alone, backwards too, as an operator or NTP does."""
        self._time = time


class PassingTime:
    """The time of the running event loop, which goes on by itself and further when a test says so.

    So a time-out may be long enough for any machine, and over when the test wants it to be. What
    is due then runs at the next turns of the loop.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        really = loop.time
        self._passed_s = 0.0
        # The loop asks itself, so this is its time for all who set timers.
        setattr(loop, "time", lambda: really() + self._passed_s)  # noqa: B010 - a method to mypy

    def pass_by(self, seconds: float) -> None:
        """Let so much pass at once."""
        self._passed_s += seconds

    async def outlast(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of `work`, with a second passing at each turn of the loop until it ends."""
        task = asyncio.Task(work, loop=asyncio.get_running_loop())

        def is_over() -> bool:
            self.pass_by(1)
            return task.done()

        await wait_until(is_over)
        return await task


class PiecesSource:
    """A blob given as the pieces that a test chose, its size announced or not."""

    def __init__(self, *pieces: Chunk, size: int | None = None) -> None:
        self._pieces = [piece for piece in pieces if len(piece)]
        self._pieces.reverse()
        self.size = size

    async def read(self) -> Chunk:
        return self._pieces.pop() if self._pieces else b""

    @classmethod
    def split(cls, data: bytes, chunk_size: int, *, announced: bool = False) -> PiecesSource:
        """`data` in pieces of `chunk_size` bytes."""
        pieces = [data[start : start + chunk_size] for start in range(0, len(data), chunk_size)]
        return cls(*pieces, size=len(data) if announced else None)


class Turns:
    """Counts the turns of the loop that others get while something works: a context manager.

    Attributes:
        taken: how many there were.
    """

    def __init__(self) -> None:
        self.taken = 0

    async def __aenter__(self) -> Turns:
        self._task = asyncio.Task(self._take(), loop=asyncio.get_running_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _take(self) -> None:
        while True:
            self.taken += 1
            await asyncio.sleep(0)


async def wait_until(predicate: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Let the loop run until `predicate` holds.

    Raises:
        TimeoutError: it did not hold within `timeout_s` seconds of real time. That is the
            failure of a test, never how long a good one takes, however busy the machine is.
    """
    # Not the loop's time, which a test may let pass.
    clock, loop = SystemClock(), asyncio.get_running_loop()
    began, loop_began, turns = clock.monotonic(), loop.time(), 0
    while not predicate():
        passed_s = clock.monotonic() - began
        if passed_s > timeout_s:
            raise TimeoutError(f"the condition did not come true within {timeout_s} s")
        turns += 1
        # A loop whose time stands still would not wake us.
        runs = abs(loop.time() - loop_began - passed_s) < passed_s / 2
        await asyncio.sleep(_PAUSE_S if turns > _TURNS and runs else 0)
