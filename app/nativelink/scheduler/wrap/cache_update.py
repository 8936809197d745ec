"""Results of workers go into an action cache before anybody hears of them.

Where workers write there themselves, whoever takes one over can put any result under any action.
Here a worker's word counts for the action that it was given, and for nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, TypeAlias

from nativelink.core.eager import begin, ended
from nativelink.core.errors import NativeLinkError
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.operation import Failure
from nativelink.scheduler.scheduler import (
    KillOrder,
    Order,
    StartOrder,
    WorkerGateway,
    WorkerHello,
    WorkerLink,
    WorkerView,
)

__all__ = ["CacheUpdateGateway", "Keep"]

_log: Final = logging.getLogger(__name__)

#: Writes the result in an encoded ExecuteResponse, if it is one that is to be cached.
Keep: TypeAlias = Callable[[ActionKey, bytes], Coroutine[Any, Any, None]]

#: A client waits at most this long for the cache; a result that it does not take is not cached.
_TIMEOUT_S: Final = 10.0


class CacheUpdateGateway:
    """A `WorkerGateway` that keeps successful results and passes on everything.

    A result reaches the scheduler, and so the client, when it is in the cache: whoever asks again
    finds it. Meanwhile its worker runs the next action, as it has said that the process ended. What
    the worker says after it, that it leaves or is gone, waits for it too. An async context
    manager; leaving it ends what is being written.

    Args:
        backend: what workers join.
        keep: see `Keep`; what it raises is logged.
    """

    def __init__(self, backend: WorkerGateway, keep: Keep) -> None:
        self._backend = backend
        self._keep = keep
        #: What each worker was told to run, by operation.
        self._orders: dict[str, dict[str, ActionInfo]] = {}
        self._writes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> CacheUpdateGateway:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        writes = list(self._writes)
        for task in writes:
            task.cancel()
        await ended(writes)

    def connect(self, hello: WorkerHello) -> WorkerLink:
        link = self._backend.connect(hello)
        if link.worker_id not in self._orders:
            known = {worker.worker_id for worker in self._backend.workers()}
            for worker_id in self._orders.keys() - known:
                del self._orders[worker_id]
        # A worker that comes back may bring results of what it was told before.
        return _Link(link, self._orders.setdefault(link.worker_id, {}), self)

    def workers(self) -> Sequence[WorkerView]:
        return self._backend.workers()

    def drain(self, worker_id: str, *, draining: bool) -> None:
        self._backend.drain(worker_id, draining=draining)

    def keep(self, key: ActionKey, response: bytes, then: Callable[[], None]) -> None:
        """Write a result, and call `then` whatever becomes of it."""
        begun = begin(self._kept(key, response, then), asyncio.get_running_loop())
        if not isinstance(begun, tuple):
            self._writes.add(begun)
            begun.add_done_callback(self._writes.discard)

    async def _kept(self, key: ActionKey, response: bytes, then: Callable[[], None]) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._keep(key, response)
        except TimeoutError:
            _log.warning("the result of %s is not cached: no answer in time", key.digest)
        except NativeLinkError as error:
            _log.warning("the result of %s is not cached: %s", key.digest, error)
        except Exception:  # noqa: BLE001 - a defect of the cache must not cost the result
            _log.exception("the result of %s is not cached", key.digest)
        then()


class _Link:
    """One worker's connection."""

    def __init__(
        self, link: WorkerLink, orders: dict[str, ActionInfo], gateway: CacheUpdateGateway
    ) -> None:
        self._link = link
        self._orders = orders
        self._gateway = gateway
        self._pending = 0
        #: What the worker said after results that are being written.
        self._afterwards: list[Callable[[], None]] = []

    @property
    def worker_id(self) -> str:
        return self._link.worker_id

    async def next_orders(self) -> Sequence[Order]:
        orders = await self._link.next_orders()
        for order in orders:
            match order:
                case StartOrder():
                    self._orders[order.operation_id] = order.action
                case KillOrder():
                    self._orders.pop(order.operation_id, None)
        return orders

    def keep_alive(self) -> None:
        self._link.keep_alive()

    def drain(self, *, draining: bool) -> None:
        self._link.drain(draining=draining)

    def process_ended(self, operation_id: str) -> None:
        self._link.process_ended(operation_id)

    def result(
        self,
        operation_id: str,
        response: bytes,
        *,
        exit_code: int,
        peak_memory_kb: int = 0,
        cpu_time_ms: int = 0,
    ) -> None:
        action = self._orders.pop(operation_id, None)
        tell = partial(
            self._link.result,
            operation_id,
            response,
            exit_code=exit_code,
            peak_memory_kb=peak_memory_kb,
            cpu_time_ms=cpu_time_ms,
        )
        if action is None or action.do_not_cache or exit_code:
            tell()
            return

        def then() -> None:
            self._pending -= 1
            tell()
            if not self._pending:
                afterwards, self._afterwards = self._afterwards, []
                for each in afterwards:
                    each()

        self._pending += 1
        self._gateway.keep(action.key, response, then)

    def failed(self, operation_id: str, failure: Failure) -> None:
        self._orders.pop(operation_id, None)
        self._link.failed(operation_id, failure)

    def going_away(self) -> None:
        self._later(self._link.going_away)

    def lost(self) -> None:
        self._later(self._link.lost)

    def _later(self, said: Callable[[], None]) -> None:
        if self._pending:
            self._afterwards.append(said)
        else:
            said()
