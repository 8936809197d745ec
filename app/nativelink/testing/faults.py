"""Things that go wrong on purpose, the same way every time.

Latency is virtual: a faulty thing lets the event loop turn a seeded number of times, or waits at
a gate that the test opens. No test of a failure ever sleeps.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import TypedDict, Unpack

from nativelink.core.digest import StoreKey
from nativelink.core.errors import NativeLinkError, unavailable
from nativelink.core.streams import Chunk, Sink, Source
from nativelink.stores.store import Store

__all__ = ["Faults", "FaultySink", "FaultySource", "FaultyStore", "Gate", "Latency", "injected"]


def injected(what: str = "injected fault") -> NativeLinkError:
    """A fresh infrastructure error, so that a test can ask for this very object."""
    return unavailable(what)


class Latency:
    """Virtual latency: `wait` lets the event loop turn 0 to `turns` times, by a seed."""

    def __init__(self, seed: int, turns: int) -> None:
        self._random = random.Random(seed)
        self._turns = turns

    async def wait(self) -> None:
        """Wait for the next seeded number of loop turns."""
        for _ in range(self._random.randint(0, self._turns)):
            await asyncio.sleep(0)


class Gate:
    """A place where calls wait until the test opens it.

    Attributes:
        waiting: how many calls stand before it now.
    """

    def __init__(self, *, is_open: bool = False) -> None:
        self.waiting = 0
        self._opened = asyncio.Event()
        if is_open:
            self._opened.set()

    async def wait(self) -> None:
        """Pass if the gate is open, else stand before it."""
        self.waiting += 1
        try:
            await self._opened.wait()
        finally:
            self.waiting -= 1

    def open(self) -> None:
        """Let everyone through from now on."""
        self._opened.set()


class Faults(TypedDict, total=False):
    """What a blob's way may suffer.

    Attributes:
        fail_at: raise `error` once this many bytes passed.
        error: what is raised.
        chunk_size: pieces are at most this long.
        latency: waited for before each piece.
        gate: waited at before the piece that would begin at `gate_at` or behind it.
        gate_at: bytes that pass before the gate.
    """

    fail_at: int | None
    error: BaseException | None
    chunk_size: int | None
    latency: Latency | None
    gate: Gate | None
    gate_at: int


class _Faulty:
    def __init__(self, faults: Faults) -> None:
        error = faults.get("error")
        self._fail_at = faults.get("fail_at")
        self._error = error if error is not None else injected()
        self._chunk_size = faults.get("chunk_size")
        self._latency = faults.get("latency")
        self._gate = faults.get("gate")
        self._gate_at = faults.get("gate_at", 0)

    async def _wait(self, passed: int) -> None:
        """Wait for what comes before the piece that begins there."""
        if self._latency is not None:
            await self._latency.wait()
        if self._gate is not None and passed >= self._gate_at:
            await self._gate.wait()


class FaultySource(_Faulty):
    """A source that fails, waits or gives short pieces.

    Args:
        source: what is passed on.
        faults: `fail_at` at the size of the blob raises instead of the end.

    Attributes:
        given: bytes so far.
    """

    def __init__(self, source: Source, **faults: Unpack[Faults]) -> None:
        super().__init__(faults)
        self._source = source
        self._rest: Chunk = b""
        self.size = source.size
        self.given = 0

    async def read(self) -> Chunk:
        await self._wait(self.given)
        if self._fail_at is not None and self.given >= self._fail_at:
            raise self._error
        chunk = self._rest or await self._source.read()
        bounds = [len(chunk)]
        if self._chunk_size is not None:
            bounds.append(self._chunk_size)
        if self._fail_at is not None:
            bounds.append(self._fail_at - self.given)
        if self._gate is not None and self.given < self._gate_at:
            bounds.append(self._gate_at - self.given)
        view = memoryview(chunk)
        end = min(bounds)
        self._rest = view[end:]
        self.given += end
        return view[:end]


class FaultySink(_Faulty):
    """A sink that fails, waits or passes on short pieces.

    Args:
        sink: what is passed on.
        faults: what it suffers.

    Attributes:
        taken: bytes so far.
    """

    def __init__(self, sink: Sink, **faults: Unpack[Faults]) -> None:
        super().__init__(faults)
        self._sink = sink
        self.taken = 0

    async def write(self, chunk: Chunk, /) -> None:
        await self._wait(self.taken)
        view = memoryview(chunk)
        if self._fail_at is not None:
            room = self._fail_at - self.taken
            if room < len(view):
                if room:
                    await self._pass(view[:room])
                raise self._error
        await self._pass(view)

    async def _pass(self, view: memoryview) -> None:
        step = self._chunk_size or len(view)
        for start in range(0, len(view), step):
            piece = view[start : start + step]
            self.taken += len(piece)
            await self._sink.write(piece)


class FaultyStore:
    """A store that can be down, slow, or fail in the middle, and that counts its calls.

    A test changes the attributes while the store is in use.

    Attributes:
        calls: how often `has`, `get` and `put` were called.
        has_error: raised by `has`.
        get_error: raised by `get`, once `get_fails_at` bytes were written.
        get_fails_at: bytes that a failing `get` writes first; 0 fails before anything is done.
        put_error: raised by `put`, once `put_fails_at` bytes were read from the source.
        put_fails_at: bytes that a failing `put` takes first.
        get_gate: where every `get` waits before it begins.
        put_gate: where every `put` waits before it begins.
        latency: waited for before each call, and before each piece of a blob.
    """

    def __init__(self, backend: Store, *, latency: Latency | None = None) -> None:
        self._backend = backend
        self.calls: Counter[str] = Counter()
        self.has_error: BaseException | None = None
        self.get_error: BaseException | None = None
        self.get_fails_at = 0
        self.put_error: BaseException | None = None
        self.put_fails_at = 0
        self.get_gate: Gate | None = None
        self.put_gate: Gate | None = None
        self.latency = latency

    def go_down(self, error: BaseException | None = None) -> None:
        """Fail every call from now on, before anything is done."""
        self.has_error = self.get_error = self.put_error = error or injected("the store is down")
        self.get_fails_at = self.put_fails_at = 0

    def come_back(self) -> None:
        """Work again."""
        self.has_error = self.get_error = self.put_error = None

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        self.calls["has"] += 1
        if self.latency is not None:
            await self.latency.wait()
        if self.has_error is not None:
            raise self.has_error
        return await self._backend.has(keys)

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        self.calls["get"] += 1
        if self.latency is not None:
            await self.latency.wait()
        if self.get_gate is not None:
            await self.get_gate.wait()
        if self.get_error is not None:
            if not self.get_fails_at:
                raise self.get_error
            sink = FaultySink(sink, fail_at=self.get_fails_at, error=self.get_error)
        if self.latency is not None:
            sink = FaultySink(sink, latency=self.latency)
        await self._backend.get(key, sink, offset=offset, limit=limit)

    async def put(self, key: StoreKey, source: Source) -> int:
        self.calls["put"] += 1
        if self.latency is not None:
            await self.latency.wait()
        if self.put_gate is not None:
            await self.put_gate.wait()
        if self.put_error is not None:
            if not self.put_fails_at:
                raise self.put_error
            source = FaultySource(source, fail_at=self.put_fails_at, error=self.put_error)
        if self.latency is not None:
            source = FaultySource(source, latency=self.latency)
        return await self._backend.put(key, source)
