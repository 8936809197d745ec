"""One read of a slow store for all who want the same blob at the same time.

A blob that fits in one piece is read by the first who asks (`WholeFlight`): the others wait for
the bytes. Should the first be cancelled, one of the others starts over.

A larger one is read by a task that belongs to nobody in particular (`StreamFlight`): it hands each
piece to all readers and to whoever fills the fast store. It keeps the last `WINDOW_BYTES` so that
readers need not run in step. It waits for the fastest reader, never for a slower one: who falls
out of the window, or comes when the blob's beginning has left it, reads for himself. So memory is
bounded by the window, and a slow reader costs nobody else anything. The task ends with its last
reader.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from nativelink.core.digest import StoreKey
from nativelink.core.eager import begin
from nativelink.core.errors import NativeLinkError, unavailable
from nativelink.core.latch import Latch
from nativelink.core.streams import Chunk, Pipe, Sink

__all__ = ["PIPE_BYTES", "WINDOW_BYTES", "GivenUpError", "StreamFlight", "WholeFlight"]

#: How far the fastest reader of a blob may be ahead of the slowest. Small enough for many flights
#: at once, large enough for the jitter of connections of one speed.
WINDOW_BYTES: Final = 2 * 1024 * 1024


#: What may wait between the two sides. A chunk that is handed over alone costs 5 us of switching
#: to and fro, more than all else that is done with it; gRPC clients send 16 KiB at a time.
PIPE_BYTES: Final = 256 * 1024


class GivenUpError(Exception):
    """What the fast store's source raises when a blob is not to be filled in after all."""


class WholeFlight(Latch):
    """A read of a small blob, and what came of it; set when one of these is known.

    Attributes:
        data: the blob.
        error: why there is none; if there is neither, the leader went away.
        too_large: whether it does not fit in one piece, so that everyone reads it for himself.
    """

    __slots__ = ("_filling", "_may_fill", "data", "error", "too_large")

    def __init__(self) -> None:
        # `Latch.__init__` without its call: every cold read and every miss passes here.
        self.is_set = False
        self._event = None
        self.data: bytes | None = None
        self.error: Exception | None = None
        self.too_large = False
        self._may_fill = True
        self._filling: Latch | None = None

    def fail(self, error: Exception) -> None:
        """Tell those who wait why there is no blob.

        If nobody does, the error is not kept: its traceback holds the leader's frame and that one
        holds the flight, and every miss would leave such a circle to the garbage collector.
        """
        if self._event is not None:
            self.error = error

    async def fill(self, work: Coroutine[Any, Any, bool]) -> None:
        """Give the blob to the fast store by `work`, unless that was stopped."""
        if not self._may_fill:
            work.close()
            return
        self._filling = Latch()
        try:
            await work
        finally:
            self._filling.set()

    async def stop_filling(self) -> None:
        """Return when the fast store is given nothing by this flight, now and later."""
        self._may_fill = False
        if self._filling is not None:
            await self._filling.wait()


class _Reader:
    """One who reads along.

    Attributes:
        position: number of the next piece.
        taken_bytes: what he got so far.
        waiter: set while he waits for a piece.
    """

    __slots__ = ("position", "taken_bytes", "waiter")

    def __init__(self) -> None:
        self.position = 0
        self.taken_bytes = 0
        self.waiter: asyncio.Future[None] | None = None


class StreamFlight:
    """A read of a large blob for many readers at once.

    Args:
        key: whose value is read.
        size: of the value, as far as is known; the fast store gets nothing of another size.
        read: reads the blob into a sink.
        fill: puts what comes through a pipe into the fast store; never raises.
        on_end: called when the flight takes no more readers and waits for none.
    """

    def __init__(
        self,
        key: StoreKey,
        size: int,
        read: Callable[[Sink], Awaitable[None]],
        fill: Callable[[Pipe], Coroutine[Any, Any, bool]],
        on_end: Callable[[StreamFlight], None],
    ) -> None:
        self._key = key
        self._size = size
        self._read = read
        self._fill = fill
        self._on_end = on_end
        self.ended = Latch()
        self._window: deque[Chunk] = deque()
        self._window_bytes = 0
        self._total_bytes = 0
        #: Number of the window's first piece.
        self._first = 0
        self._readers: set[_Reader] = set()
        self._all_read = False
        self._error: Exception | None = None
        self._pump: asyncio.Task[None] | None = None
        self._pump_waiter: asyncio.Future[None] | None = None
        self._may_fill = True
        self._pipe: Pipe | None = None
        self._filling: asyncio.Task[bool] | None = None

    @property
    def can_join(self) -> bool:
        """Whether the blob can still be read along from its beginning."""
        return self._first == 0 and not self.ended.is_set

    async def follow(self, sink: Sink) -> int | None:
        """Read the blob along.

        Returns:
            None when all of it was written, else the number of bytes that were, for a reader who
            fell too far behind.

        Raises:
            Exception: what reading the blob raised, or what `sink` did.
        """
        reader = _Reader()
        self._readers.add(reader)
        stayed = False
        try:
            if self._pump is None:
                begun = begin(self._run(), asyncio.get_running_loop())
                self._pump = begun if isinstance(begun, asyncio.Task) else None
            while reader.position >= self._first:
                index = reader.position - self._first
                if index < len(self._window):
                    chunk = self._window[index]
                    reader.position += 1
                    self._wake_pump()
                    await sink.write(chunk)
                    reader.taken_bytes += len(chunk)
                elif self._error is not None:
                    raise _copy(self._error)
                elif self._all_read:
                    stayed = True
                    return None
                else:
                    reader.waiter = asyncio.get_running_loop().create_future()
                    try:
                        await reader.waiter
                    finally:
                        reader.waiter = None
            return reader.taken_bytes
        finally:
            self._readers.discard(reader)
            if not self._readers:
                await self._last_reader_leaves(wait_for_fill=stayed)

    async def stop_filling(self) -> None:
        """Return when the fast store is given nothing by this flight, now and later."""
        self._may_fill = False
        if self._pipe is not None:
            self._pipe.fail(GivenUpError())
        await _wait_for(self._filling)

    async def write(self, chunk: Chunk, /) -> None:
        """Take a piece from the slow store and hand it to everyone (`Sink`)."""
        self._window.append(chunk)
        self._window_bytes += len(chunk)
        self._total_bytes += len(chunk)
        self._wake_readers()
        if self._may_fill:
            await self._fill_in(chunk)
        while self._window_bytes > WINDOW_BYTES:
            if any(reader.position > self._first for reader in self._readers):
                self._window_bytes -= len(self._window.popleft())
                self._first += 1
            else:
                self._pump_waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._pump_waiter
                finally:
                    self._pump_waiter = None

    async def _run(self) -> None:
        """Read the blob, fill the fast store; the body of the task."""
        try:
            await self._read(self)
            self._all_read = True
        except Exception as error:  # noqa: BLE001 - every reader raises it
            self._error = error
        finally:
            if self._pipe is not None:
                if self._all_read and self._total_bytes == self._size:
                    self._pipe.close()
                else:
                    self._pipe.fail(GivenUpError())
            if not self._all_read:
                if self._error is None:
                    self._error = unavailable(f"the read of {self._key} was given up")
                self._on_end(self)
            self._wake_readers()
            try:
                await _wait_for(self._filling)
            except asyncio.CancelledError:
                if self._filling is not None:
                    self._filling.cancel()
                    await _wait_for(self._filling)
                raise
            finally:
                self._on_end(self)
                self.ended.set()

    async def _fill_in(self, chunk: Chunk) -> None:
        if self._pipe is None:
            # A store that cannot keep so much need not gather it to find out.
            self._pipe = Pipe(self._size, capacity_bytes=PIPE_BYTES)
            begun = begin(self._fill(self._pipe), asyncio.get_running_loop())
            self._filling = begun if isinstance(begun, asyncio.Task) else None
        try:
            await self._pipe.write(chunk)
        except Exception:  # noqa: BLE001 - the fast store gave up, and said why where it did
            self._may_fill = False

    async def _last_reader_leaves(self, *, wait_for_fill: bool) -> None:
        pump = self._pump
        if pump is None or pump.done():
            return
        if not wait_for_fill:
            # Nobody joins what is being given up.
            self._on_end(self)
            pump.cancel()
        await _wait_for(pump)

    def _wake_readers(self) -> None:
        for reader in self._readers:
            if reader.waiter is not None and not reader.waiter.done():
                reader.waiter.set_result(None)

    def _wake_pump(self) -> None:
        if self._pump_waiter is not None and not self._pump_waiter.done():
            self._pump_waiter.set_result(None)


async def _wait_for(task: asyncio.Task[object] | None) -> None:
    """Wait until a task has ended, however it does."""
    if task is not None and not task.done():
        await asyncio.wait((task,))


def _copy(error: Exception) -> Exception:
    return error.copy() if isinstance(error, NativeLinkError) else error
