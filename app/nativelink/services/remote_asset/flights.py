"""Work that is done once for all who ask for it at the same time.

It belongs to the service, not to the call that began it: a call may end before the work does, and
the next call of the client joins it or finds what it left (FetchBlobRequest, `timeout`). Failures
are not remembered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from nativelink.core.clock import Clock
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.core.latch import Latch

__all__ = ["Flight", "Flights"]

_log: Final = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Flight(Generic[R]):
    """Work under way.

    Attributes:
        started_at: seconds since the epoch.
        fresh_for: it will do for who asks for contents that are not older than this.
        waiting: calls that want it.
        running: it will not be given up any more because nobody wants it; the work sets it when it
            has begun in earnest.
    """

    def __init__(self, noun: str, started_at: float, not_before: float) -> None:
        self.started_at = started_at
        # A request that asks for contents of the future (Bazel does, to get no old ones whatever
        # the clocks say) is repeated with the same time, and means this flight then.
        self.fresh_for = max(started_at, not_before)
        self.waiting = 0
        self.running = False
        self.ended = Latch()
        self.result: R | None = None
        self.error: NativeLinkError | None = unavailable(f"the server ended {noun}")
        self.task: asyncio.Task[None] | None = None


class Flights(Generic[K, R]):
    """The work of one kind: an async context manager that owns its tasks.

    Args:
        noun: what it is, for logs.
        clock: the time.
    """

    def __init__(self, noun: str, *, clock: Clock) -> None:
        self._noun = noun
        self._clock = clock
        self._tasks = asyncio.TaskGroup()
        #: Those that can be joined.
        self._flights: dict[K, Flight[R]] = {}
        #: All of them: newer contents may have been asked for meanwhile.
        self._under_way: set[Flight[R]] = set()

    async def __aenter__(self) -> Flights[K, R]:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up what is under way and wait until nothing of it is left."""
        ending = tuple(self._under_way)
        for flight in ending:
            if flight.task is not None:
                flight.task.cancel()
        await self._tasks.__aexit__(kind, error, trace)
        for flight in ending:
            # One that was cancelled before its first step did not do this itself.
            flight.ended.set()

    async def join(
        self,
        key: K,
        work: Callable[[Flight[R]], Coroutine[Any, Any, R]],
        *,
        timeout_s: float | None = None,
        not_before: float = 0.0,
    ) -> R:
        """The result of work that is under way, or is begun.

        Args:
            key: equal ones are the same work.
            work: does it.
            timeout_s: how long the caller waits at most. The work goes on without him.
            not_before: what began before that, for somebody who did not ask for it, will not do:
                seconds since the epoch.

        Raises:
            TimeoutError: it takes longer.
            NativeLinkError: what the work raised.
        """
        flight = self._flights.get(key)
        if flight is None or flight.fresh_for < not_before:
            flight = self._flights[key] = Flight(self._noun, self._clock.time(), not_before)
            self._under_way.add(flight)
            flight.task = self._tasks.create_task(self._run(key, flight, work))
        flight.waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                await flight.ended.wait()
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.running and flight.task is not None:
                # Nobody wants any more what never began.
                flight.task.cancel()
                self._forget(key, flight)
        if flight.error is not None:
            raise flight.error.copy()
        return flight.result  # type: ignore[return-value]  # there is one, as there is no error

    async def _run(
        self,
        key: K,
        flight: Flight[R],
        work: Callable[[Flight[R]], Coroutine[Any, Any, R]],
    ) -> None:
        """The body of a task; raises nothing but a cancellation."""
        try:
            flight.result = await work(flight)
            flight.error = None
        except NativeLinkError as error:
            flight.error = error
        except Exception as error:  # noqa: BLE001 - every caller raises it
            _log.exception("%s failed", self._noun)
            flight.error = NativeLinkError(Code.INTERNAL, f"{self._noun} failed: {error!r}")
        finally:
            self._forget(key, flight)
            flight.ended.set()

    def _forget(self, key: K, flight: Flight[R]) -> None:
        """Let nobody join any more."""
        self._under_way.discard(flight)
        if self._flights.get(key) is flight:
            del self._flights[key]
