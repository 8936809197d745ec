"""Waits that end at once: who waits goes on within the call that has the news for it.

A future's waiter goes on in the next turn of the event loop, and everything else that is due comes
first. Where one thing leads to the next through several tasks (a process ends, so its scheduler has
another action for its worker, which starts it), that is a turn for each of them, and with a busy
loop the processor waits for work meanwhile. A `Resumption` is for the few places where it matters.

`core.eager` begins a coroutine at once; this resumes one. What holds there holds here: it runs
within its caller, as far as its next wait. A task that is running already, further up, is not
resumed; it finds the news when it looks. So a chain of tasks that resume each other is as deep as
it has tasks, and no deeper.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

__all__ = ["Resumption"]

T = TypeVar("T")


class Resumption(Generic[T]):
    """What one task awaits, once; a future for the task, and nothing else.

    Args:
        loop: the running loop, whose thread makes every call.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_context",
        "_error",
        "_is_cancelled",
        "_is_done",
        "_loop",
        "_result",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        #: How a task knows what it can wait for (asyncio.Future has it, too).
        self._asyncio_future_blocking = False
        self._callback: Callable[[Resumption[T]], object] | None = None
        self._context: Context | None = None
        self._is_done = False
        self._is_cancelled = False
        self._result: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Whether it has a result, an error, or was cancelled with the task that waits."""
        return self._is_done

    def cancelled(self) -> bool:
        """Whether the task was cancelled while it waited."""
        return self._is_cancelled

    def set_result(self, result: T) -> None:
        """Let the task go on with a result; it does before this returns. Once, if not `done`."""
        self._is_done = True
        self._result = result
        self._resume()

    def set_exception(self, error: BaseException) -> None:
        """Let the task go on with an error; it does before this returns. Once, if not `done`."""
        self._is_done = True
        self._error = error
        self._resume()

    def _resume(self) -> None:
        callback, context = self._callback, self._context
        if callback is None or context is None:
            # Not waited for yet.
            return
        self._callback = self._context = None
        loop = self._loop
        outer = asyncio.current_task(loop)
        if outer is None:
            context.run(callback, self)
            return
        _leave_task(loop, outer)
        try:
            context.run(callback, self)
        finally:
            _enter_task(loop, outer)

    # -- what a task wants of a future ---------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the task."""
        return self._loop

    def add_done_callback(
        self, callback: Callable[[Resumption[T]], object], *, context: Context | None = None
    ) -> None:
        """Have the task's `callback` called; by the loop, if it is done already."""
        if self._is_done:
            self._loop.call_soon(callback, self, context=context)
        else:
            self._callback = callback
            self._context = copy_context() if context is None else context

    def cancel(self, msg: object = None) -> bool:
        """The task was cancelled: it hears of it from the loop, as with a future."""
        if self._is_done:
            return False
        self._is_done = self._is_cancelled = True
        self._error = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        if self._callback is not None:
            self._loop.call_soon(self._callback, self, context=self._context)
        return True

    def result(self) -> T:
        """What it was done with.

        Raises:
            BaseException: likewise.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        result: T = self._result
        return result

    def __await__(self) -> Generator[Any, None, T]:
        if not self._is_done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()
