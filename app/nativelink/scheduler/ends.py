"""The two ends of a scheduler in this process: who follows an operation, who works.

Both are called by coroutines of services, and call the scheduler at once, which never waits. What
it has for them lies here until they ask for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from nativelink.core.errors import unavailable
from nativelink.core.resumption import Resumption
from nativelink.scheduler import events
from nativelink.scheduler.operation import Failure, OperationView
from nativelink.scheduler.scheduler import KillOrder, Order

if TYPE_CHECKING:
    from nativelink.scheduler.local import LocalScheduler

__all__ = ["LocalLink", "LocalWatch"]

#: Orders that wait for a worker beyond which it is not told to stop anything: it can cause such
#: orders by naming operations that it does not have, as many as it likes.
_MAX_UNREAD: Final = 10_000


class _Signal:
    """Wakes the one coroutine that waits for news."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """There is news."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        """Return at the next `set`."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class LocalWatch:
    """One stream that follows a name: a `Watch`."""

    __slots__ = ("_changed", "_closed", "_scheduler", "_signal", "done", "name")

    def __init__(self, scheduler: LocalScheduler, name: str) -> None:
        self.name = name
        self._scheduler = scheduler
        self._signal = _Signal()
        self._changed = True
        self._closed = False
        #: Whether a view was given that is the last one.
        self.done = False

    def changed(self) -> None:
        """The operation is not as it was."""
        self._changed = True
        self._signal.set()

    async def next(self) -> OperationView | None:
        if self.done:
            return None
        while not self._changed:
            await self._signal.wait()
        view = self._scheduler.known(self.name)
        if self._scheduler.stopping and not view.done:
            raise unavailable("the scheduler stops; ask for the action again")
        self._changed = False
        self.done = view.done
        return view

    def look(self) -> OperationView | None:
        return self._scheduler.look(self.name)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._scheduler.unwatch(self)


class LocalLink:
    """One worker's connection: a `WorkerLink`."""

    __slots__ = ("_orders", "_scheduler", "_waiter", "_worker_id", "ended")

    def __init__(self, scheduler: LocalScheduler, worker_id: str) -> None:
        self._worker_id = worker_id
        self._scheduler = scheduler
        self._orders: deque[Order] = deque()
        self._waiter: Resumption[None] | None = None
        #: Nothing is sent or heard any more: the worker left, was evicted, or came back elsewhere.
        self.ended = False

    @property
    def worker_id(self) -> str:
        return self._worker_id

    def send(self, order: Order) -> None:
        """Queue an order; `wake` must follow."""
        if isinstance(order, KillOrder) and len(self._orders) >= _MAX_UNREAD:
            # A worker that reads none of its orders is to be told again later, or is lost.
            return
        self._orders.append(order)

    def end(self) -> None:
        """The worker is to disconnect; `wake` must follow."""
        self.ended = True

    def wake(self) -> None:
        """Have what waits for the worker taken, before this returns: its processor is idle."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def next_orders(self) -> Sequence[Order]:
        while not self._orders and not self.ended:
            self._waiter = Resumption(asyncio.get_running_loop())
            await self._waiter
        orders = tuple(self._orders)
        self._orders.clear()
        return () if self.ended else orders

    def keep_alive(self) -> None:
        if not self.ended:
            self._scheduler.seen(self._worker_id)

    def drain(self, *, draining: bool) -> None:
        if not self.ended:
            self._scheduler.drain(self._worker_id, draining=draining)

    def process_ended(self, operation_id: str) -> None:
        if not self.ended:
            self._scheduler.dispatch(events.ProcessEnded(self._worker_id, operation_id))

    def result(
        self,
        operation_id: str,
        response: bytes,
        *,
        exit_code: int,
        peak_memory_kb: int = 0,
        cpu_time_ms: int = 0,
    ) -> None:
        if not self.ended:
            self._scheduler.finished(
                events.ExecutionFinished(self._worker_id, operation_id, response, exit_code),
                peak_memory_kb=peak_memory_kb,
                cpu_time_ms=cpu_time_ms,
            )

    def failed(self, operation_id: str, failure: Failure) -> None:
        if not self.ended:
            self._scheduler.dispatch(events.ExecutionFailed(self._worker_id, operation_id, failure))

    def going_away(self) -> None:
        if not self.ended:
            self._scheduler.disconnected(self, events.WorkerLeft(self._worker_id))

    def lost(self) -> None:
        if not self.ended:
            self._scheduler.disconnected(self, events.WorkerLost(self._worker_id))
