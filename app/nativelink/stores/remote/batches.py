"""Small requests of many callers, made into few calls.

What is asked for in one turn of the event loop goes out together at its end: no timer, so a lone
request waits for nobody. While all slots are taken, more gathers and the next batch is larger.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from types import TracebackType
from typing import Generic, TypeVar

from nativelink.core.eager import begin
from nativelink.core.errors import NativeLinkError, unavailable

__all__ = ["Batches"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Waiting(Generic[Item, Answer]):
    """An item on its way, and who waits for its answer."""

    __slots__ = ("answer", "group", "item", "size")

    def __init__(
        self, item: Item, size: int, group: Hashable, answer: asyncio.Future[Answer]
    ) -> None:
        self.item = item
        self.size = size
        self.group = group
        self.answer = answer


class Batches(Generic[Item, Answer]):
    """Joins items of one group into calls. An async context manager; its end fails who waits.

    Args:
        send: makes one call: items and their group to answers, one for each in order; an answer
            that is a `NativeLinkError` is raised for the one who asked.
        max_bytes: the sizes of a batch's items are no more than this together; a larger item
            goes alone.
        slots: calls in flight at the same time.
        max_queued_bytes: items that wait for a slot are no more than this together.
    """

    def __init__(
        self,
        send: Callable[[list[Item], Hashable], Awaitable[list[Answer | NativeLinkError]]],
        *,
        max_bytes: int,
        slots: int,
        max_queued_bytes: int,
    ) -> None:
        self._send = send
        self.max_bytes = max_bytes
        self._slots = slots
        self._max_queued_bytes = max_queued_bytes
        self._queue: deque[_Waiting[Item, Answer]] = deque()
        self._queued_bytes = 0
        self._running: set[asyncio.Task[None]] = set()
        self._flushing: asyncio.Handle | None = None
        self._closed = False

    async def __aenter__(self) -> Batches[Item, Answer]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        if self._flushing is not None:
            self._flushing.cancel()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        while self._queue:
            _fail(self._queue.popleft().answer, unavailable("the store was closed"))

    def has_room(self, size: int) -> bool:
        """Whether an item of this size may wait here; else its caller goes by itself."""
        return not self._queue or self._queued_bytes + size <= self._max_queued_bytes

    async def ask(self, item: Item, size: int, group: Hashable) -> Answer:
        """The answer to an item.

        A caller that is cancelled takes its item out if it was not sent yet; a call all of whose
        callers are gone is cancelled too.
        """
        if self._closed:
            raise unavailable("the store is closed")
        loop = asyncio.get_running_loop()
        waiting = _Waiting[Item, Answer](item, size, group, loop.create_future())
        self._queue.append(waiting)
        self._queued_bytes += size
        if self._flushing is None and len(self._running) < self._slots:
            self._flushing = loop.call_soon(self._flush)
        return await waiting.answer

    def _flush(self) -> None:
        """Send as many batches as there are slots."""
        self._flushing = None
        while len(self._running) < self._slots:
            batch = self._next_batch()
            if not batch:
                return
            self._start(batch)

    def _start(self, batch: list[_Waiting[Item, Answer]]) -> None:
        # In a context of its own: a batch belongs to no single call.
        call = begin(self._call(batch), asyncio.get_running_loop(), Context())
        if isinstance(call, tuple):
            return
        self._running.add(call)
        call.add_done_callback(self._ended)

        def gone(_: object) -> None:
            if all(each.answer.cancelled() for each in batch):
                call.cancel()

        for each in batch:
            each.answer.add_done_callback(gone)

    def _next_batch(self) -> list[_Waiting[Item, Answer]]:
        """The longest-waiting item with what may travel with it, in order."""
        batch: list[_Waiting[Item, Answer]] = []
        others: list[_Waiting[Item, Answer]] = []
        size = 0
        while self._queue:
            first = self._queue[0]
            if not first.answer.done():
                if batch and size + first.size > self.max_bytes:
                    break
                if batch and first.group != batch[0].group:
                    others.append(self._queue.popleft())
                    continue
                batch.append(first)
                size += first.size
            self._queued_bytes -= first.size
            self._queue.popleft()
        self._queue.extendleft(reversed(others))
        return batch

    async def _call(self, batch: list[_Waiting[Item, Answer]]) -> None:
        try:
            answers = await self._send([each.item for each in batch], batch[0].group)
        except NativeLinkError as error:
            for each in batch:
                _fail(each.answer, error.copy())
        except asyncio.CancelledError:
            for each in batch:
                _fail(each.answer, unavailable("the store was closed"))
            raise
        except Exception as error:  # noqa: BLE001 - who waits must hear of it, whatever it is
            for each in batch:
                _fail(each.answer, error)
        else:
            raised: set[int] = set()
            for each, answer in zip(batch, answers, strict=True):
                if isinstance(answer, NativeLinkError):
                    # Several may have asked for one item, and no two may share an error.
                    _fail(each.answer, answer.copy() if id(answer) in raised else answer)
                    raised.add(id(answer))
                elif not each.answer.done():
                    each.answer.set_result(answer)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._running.discard(call)
        if not self._closed:
            self._flush()


def _fail(answer: asyncio.Future[Answer], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
