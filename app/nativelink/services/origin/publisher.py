"""Origin events on their way into a store.

Whoever has an event to tell hands over a function that makes it, and goes on: what an event costs
is paid when its batch is written. The queue is bounded by asking who brings new work to wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeAlias

from nativelink.core.errors import NativeLinkError
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution.events_pb2 import (
    OriginEvent,
    OriginEvents,
)
from nativelink.services.origin.ids import EventIds
from nativelink.stores.store import Store, write_bytes

__all__ = ["MakeEvent", "OriginEventPublisher"]

_log: Final = logging.getLogger(__name__)

MakeEvent: TypeAlias = Callable[[], OriginEvent]

#: Events of one object, tries of its write, and the base of the pauses (NativeLink v1.6.6).
_BATCH: Final = 1024
_TRIES: Final = 5
_PAUSE_S: Final = 0.1
#: An object for each event would cost more than the events are worth, where objects are paid for.
_LINGER_S: Final = 0.5


class OriginEventPublisher:
    """Writes events in batches, `OriginEvents:{uuid}`; an async context manager.

    Leaving it writes what waits, unless the store is gone: then it waits for the tries of one
    batch and not for those of all. What a crash takes is at most what came in the last half second,
    and what the store was too slow for.

    Args:
        store: keeps the batches.
        ids: names them.
        max_queue_size: events that may wait before those who bring new work wait too.
        pause_s: before the second try of a write; before the third, twice that, and so on.
        linger_s: how long an event waits for others.

    Attributes:
        published: events written so far.
        lost: events that could not be written.
    """

    def __init__(
        self,
        store: Store,
        ids: EventIds,
        *,
        max_queue_size: int,
        pause_s: float = _PAUSE_S,
        linger_s: float = _LINGER_S,
    ) -> None:
        self._store = store
        self._ids = ids
        self._max_queue_size = max_queue_size
        self._batch = min(_BATCH, max_queue_size)
        self._pause_s = pause_s
        self._linger_s = linger_s
        self._queue: deque[MakeEvent] = deque()
        self._waiting = asyncio.Event()
        self._full = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing = False
        self._tasks = asyncio.TaskGroup()
        self.published = 0
        self.lost = 0

    async def __aenter__(self) -> OriginEventPublisher:
        await self._tasks.__aenter__()
        self._tasks.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing = True
        self._waiting.set()
        self._full.set()
        # What waits is written whatever ended the program.
        await self._tasks.__aexit__(None, None, None)

    def __len__(self) -> int:
        """Events that wait."""
        return len(self._queue)

    def put(self, make: MakeEvent) -> None:
        """Have an event written some time; never waits."""
        queue = self._queue
        queue.append(make)
        waiting = len(queue)
        if waiting == 1:
            self._waiting.set()
        if waiting == self._batch:
            self._full.set()
        if waiting == self._max_queue_size:
            self._room.clear()

    async def wait_for_room(self) -> None:
        """Return when fewer events wait than may.

        Called by who brings new work, so that the store's pace becomes that of the clients.
        """
        await self._room.wait()

    async def _run(self) -> None:
        while True:
            await self._waiting.wait()
            if not self._closing and len(self._queue) < self._batch and self._linger_s:
                try:
                    async with asyncio.timeout(self._linger_s):
                        await self._full.wait()
                except TimeoutError:
                    pass
            count = min(_BATCH, len(self._queue))
            written = await self._write([self._queue.popleft()() for _ in range(count)])
            if self._closing and not written:
                self._lose(len(self._queue), "the store was gone when the program ended")
                self._queue.clear()
            if len(self._queue) < self._batch and not self._closing:
                self._full.clear()
            if len(self._queue) < self._max_queue_size:
                self._room.set()
            if not self._queue:
                if self._closing:
                    return
                self._waiting.clear()
            # Others have their turn where the store never waits.
            await asyncio.sleep(0)

    async def _write(self, events: list[OriginEvent]) -> bool:
        """Write a batch; whether that worked."""
        if not events:
            return True
        key = f"OriginEvents:{self._ids.new()}"
        data = OriginEvents(events=events).SerializeToString()
        for attempt in range(1, _TRIES + 1):
            try:
                await write_bytes(self._store, key, data)
                self.published += len(events)
                return True
            except NativeLinkError as error:
                if attempt == _TRIES:
                    self._lose(len(events), error)
                    break
            await asyncio.sleep(self._pause_s * attempt)
        return False

    def _lose(self, count: int, why: object) -> None:
        if count:
            self.lost += count
            _log.error("%d origin events are lost: %s", count, why)
