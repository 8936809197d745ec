"""Coroutines started at once, made tasks only if they suspend.

A task costs about 6 us; most calls of a cache are answered from memory and never wait. So a
coroutine is run by hand up to its first suspension, and only then handed to a task, which goes on
where it stopped. Python 3.12 has `asyncio.eager_task_factory` for this; these lines do the same on
every version that we support. `asyncio.current_task()` is right in the eager part too: it is a
stand-in that passes `cancel`, `uncancel` and `cancelling` on to the task that may follow, so
`asyncio.timeout` and `asyncio.TaskGroup` work there.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Coroutine, Generator, Iterable, Iterator, Sequence
from contextvars import Context, copy_context
from sys import getrefcount
from typing import Any, Final, TypeVar

__all__ = ["Starter", "begin", "ended", "run_all"]

T = TypeVar("T")

# Of a stand-in that only its `Starter` knows: its slot, a local variable, getrefcount's argument.
_OWN_REFERENCES: Final = 3


class _StandIn:
    """`current_task()` of a coroutine's eager part; afterwards an alias of its task.

    asyncio takes anything for a task; its type stubs do not, hence each `type: ignore` below.
    """

    __slots__ = ("__weakref__", "_early", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self._early = 0

    def cancel(self, msg: object = None) -> bool:
        if self.task is not None:
            return self.task.cancel(msg)
        self._early += 1
        return True

    def uncancel(self) -> int:
        if self.task is not None:
            return self.task.uncancel()
        self._early = max(0, self._early - 1)
        return self._early

    def cancelling(self) -> int:
        return self._early if self.task is None else self.task.cancelling()

    def done(self) -> bool:
        return self.task is not None and self.task.done()

    def get_name(self) -> str:
        return "eager" if self.task is None else self.task.get_name()

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        for _ in range(self._early):
            task.cancel()


class _Started(Coroutine[Any, Any, T]):
    """A coroutine that already ran up to its first suspension, where it yielded `waiting`."""

    __slots__ = ("_coro", "_waiting")

    def __init__(self, coro: Coroutine[Any, Any, T], waiting: Any) -> None:
        self._coro = coro
        #: What the task is to wait for first; a tuple so that a bare `yield` (None) counts too.
        self._waiting: tuple[Any] | None = (waiting,)

    def send(self, value: Any, /) -> Any:
        if self._waiting is not None:
            (waiting,) = self._waiting
            self._waiting = None
            return waiting
        return self._coro.send(value)

    def throw(self, *error: Any) -> Any:
        if self._waiting is not None:
            # Cancelled before the task's first step: the task does not know yet what it waits
            # for. What it would do if it did is done here: that is cancelled, and waited for.
            (waiting,) = self._waiting
            self._waiting = None
            if waiting is not None and waiting.cancel(*error[0].args):
                return waiting
        return self._coro.throw(*error)

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, T]:
        raise TypeError("only a task goes on with a started coroutine")


def begin(
    coro: Coroutine[Any, Any, T],
    loop: asyncio.AbstractEventLoop,
    context: Context | None = None,
) -> tuple[T] | asyncio.Task[T]:
    """Run `coro` up to its first suspension.

    Args:
        coro: a coroutine that was not started yet.
        loop: the running loop.
        context: where it runs; a copy of the current one by default, as for a task.

    Returns:
        Its result as a tuple of one if it never suspended, else the task that goes on with it,
        which the caller must keep and await or watch.

    Raises:
        BaseException: what the coroutine raised before it suspended.
    """
    if context is None:
        context = copy_context()
    outer = asyncio.current_task(loop)
    stand_in = _StandIn()
    if outer is not None:
        _leave_task(loop, outer)
    _enter_task(loop, stand_in)  # type: ignore[arg-type]
    try:
        waiting = context.run(coro.send, None)
    except StopIteration as stop:
        return (stop.value,)
    finally:
        _leave_task(loop, stand_in)  # type: ignore[arg-type]
        if outer is not None:
            _enter_task(loop, outer)
    task = asyncio.Task(_Started(coro, waiting), loop=loop, context=context)
    stand_in.adopt(task)
    return task


class Starter:
    """`begin` for who begins many coroutines, one after the other, outside of any task.

    It keeps its stand-in from one coroutine to the next, as long as nobody else does: a protocol
    that answers call after call saves a quarter of what `begin` costs.
    """

    __slots__ = ("_loop", "_stand_in")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._stand_in = _StandIn()

    def begin(self, coro: Coroutine[Any, Any, T]) -> tuple[T] | asyncio.Task[T]:
        """See the function of this name; within a task it does the same, at its price."""
        loop = self._loop
        stand_in = self._stand_in
        # Whoever else knows it may still cancel it.
        if getrefcount(stand_in) > _OWN_REFERENCES or stand_in.cancelling():
            stand_in = self._stand_in = _StandIn()
        context = copy_context()
        within_task = False
        try:
            _enter_task(loop, stand_in)  # type: ignore[arg-type]
        except RuntimeError:
            within_task = True
        if within_task:
            return begin(coro, loop, context)
        try:
            waiting = context.run(coro.send, None)
        except StopIteration as stop:
            return (stop.value,)
        finally:
            _leave_task(loop, stand_in)  # type: ignore[arg-type]
        task = asyncio.Task(_Started(coro, waiting), loop=loop, context=context)
        stand_in.adopt(task)
        self._stand_in = _StandIn()
        return task


async def _run_pending(pending: Iterator[Coroutine[Any, Any, T]], results: list[Any]) -> None:
    """Await coroutines one after the other, each result into the place of its turn."""
    for coro in pending:
        place = len(results)
        results.append(None)
        results[place] = await coro


async def ended(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Wait until all `tasks` have ended, and only then heed a cancellation."""
    cancelled: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in tasks:
        if not task.cancelled():
            # Retrieved, so that a second failure is not reported as lost.
            task.exception()
    if cancelled is not None:
        raise cancelled


async def run_all(coros: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all `coros`, in order, run concurrently from their first suspension on.

    Each is started before this function waits for any. Those that never suspend run one after the
    other in the context of the next one that does, so that they cost neither a task nor a context.

    The first failure, or the caller's cancellation, cancels the others; it is raised when all of
    them have ended, so nothing is left behind.
    """
    loop = asyncio.get_running_loop()
    results: list[Any] = []
    tasks: list[asyncio.Task[None]] = []
    pending = iter(coros)
    try:
        # Whoever suspends leaves the rest to the next one; the last one finds nothing left.
        while not isinstance(begun := begin(_run_pending(pending, results), loop), tuple):
            tasks.append(begun)
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
    finally:
        for coro in pending:
            coro.close()
        for task in tasks:
            task.cancel()
        await ended(tasks)
    return results
