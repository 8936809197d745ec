"""Actions that a scheduler ordered, from the order to the result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextvars import Context, copy_context
from types import TracebackType
from typing import Final, Protocol

from nativelink.core.clock import Clock
from nativelink.core.eager import begin, ended
from nativelink.core.errors import Code
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as pb,
)
from nativelink.worker.outbox import Outbox

__all__ = ["Executor", "Orders"]

_log: Final = logging.getLogger(__name__)

#: Actions begun in one turn of the event loop, at most; then others have theirs.
_BEGUN_AT_ONCE: Final = 16


class Executor(Protocol):
    """Runs one action."""

    async def execute(
        self,
        order: pb.StartExecute,
        *,
        process_ended: Callable[[], None],
        finished: Callable[[pb.ExecuteResult], None],
    ) -> None:
        """Run the action to its end; never raises but for a cancellation, which kills it.

        Args:
            order: what to run.
            process_ended: to be called when the process has ended and outputs remain: another
                action may run.
            finished: to be called once, with the result; what remains then is to tidy up.
        """
        ...


class Orders:
    """Begins what is ordered, stops what is to be stopped, and says what became of it.

    An async context manager: orders come within it. Leaving it kills what runs, and waits until
    nothing of that is left to be done.

    Args:
        executor: runs the actions.
        outbox: takes what the scheduler is to hear.
        clock: the time.

    Attributes:
        draining: whether new orders are refused.
        executed: actions that came to an end since the start.
    """

    def __init__(self, executor: Executor, outbox: Outbox, clock: Clock) -> None:
        self._executor = executor
        self._outbox = outbox
        self._clock = clock
        self.draining = False
        self.executed = 0
        self._idle_since = clock.monotonic()
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        #: None until an action that is begun waits for the first time.
        self._running: dict[str, asyncio.Task[None] | None] = {}
        #: Those of them that are being stopped, and whether the scheduler wants to hear when.
        self._stopping: dict[str, bool] = {}
        #: Of actions, until nothing of them is left to be done.
        self._tasks: set[asyncio.Task[None]] = set()
        #: Actions have nothing to do with the call that brought their order, or made room for it.
        self._context = Context()
        self._begun_at_once = 0

    async def __aenter__(self) -> Orders:
        self._context = copy_context()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error_type is None:
            self.kill_all()
        else:
            for task in self._tasks:
                task.cancel()
        await ended(tuple(self._tasks))

    @property
    def running(self) -> Collection[str]:
        """Operations under way."""
        return self._running.keys()

    @property
    def wanted(self) -> Collection[str]:
        """Those of them that go on, or of whose end the scheduler wants to hear."""
        return [name for name in self._running if self._stopping.get(name, True)]

    @property
    def idle_s(self) -> float:
        """For so long nothing has run; 0 while something does."""
        return 0.0 if self._running else self._clock.monotonic() - self._idle_since

    async def wait_idle(self) -> None:
        """Return once nothing runs."""
        await self._idle.wait()

    def start(self, order: pb.StartExecute) -> None:
        """Begin with an action, or say why not, unless it is under way."""
        name = order.operation_id
        # Sent again, it would be taken for the end of this try.
        self._outbox.forget_result(name)
        if name in self._running and name not in self._stopping:
            # Its end is the end that the scheduler waits for, however often it says so.
            _log.info("operation %s is ordered again while it runs", name)
        elif self.draining:
            self._refuse(order, "Worker shutting down")
        elif name in self._stopping:
            self._refuse(order, f"operation {name} is still being stopped here")
        else:
            self._begin(order)

    def kill(self, operation_id: str) -> None:
        """Stop an action and say when it has stopped, at once if nothing is known of it."""
        task = self._running.get(operation_id)
        if task is not None:
            self._stopping[operation_id] = True
            task.cancel()
        elif operation_id not in self._running and not self._outbox.has_result(operation_id):
            # A result on its way is the answer; a second one could be taken for the next try's.
            self._fail(operation_id, Code.CANCELLED, "it does not run here, or not any more")

    def kill_all(self) -> None:
        """Stop every action; nobody waits to hear of it."""
        for name, task in self._running.items():
            if task is not None and name not in self._stopping:
                self._stopping[name] = False
                task.cancel()

    def _begin(self, order: pb.StartExecute) -> None:
        """Begin with an action at once, unless so many others were begun just now."""
        name = order.operation_id
        loop = asyncio.get_running_loop()
        self._idle.clear()
        self._running[name] = None
        self._begun_at_once += 1
        if self._begun_at_once == 1:
            loop.call_soon(self._begin_anew)
        at_once = self._begun_at_once <= _BEGUN_AT_ONCE
        begun = begin(self._execute(order, at_once=at_once), loop, self._context.copy())
        if isinstance(begun, tuple):
            return
        if name in self._running:
            self._running[name] = begun
        self._tasks.add(begun)
        # One that is cancelled before its first step never comes to a step of its own.
        begun.add_done_callback(lambda task: self._ended(name, task))

    def _begin_anew(self) -> None:
        self._begun_at_once = 0

    def _refuse(self, order: pb.StartExecute, why: str) -> None:
        instance_name = order.execute_request.instance_name
        self._fail(order.operation_id, Code.RESOURCE_EXHAUSTED, why, instance_name)

    def _fail(self, operation_id: str, code: Code, message: str, instance_name: str = "") -> None:
        result = pb.ExecuteResult(instance_name=instance_name, operation_id=operation_id)
        result.internal_error.code = code
        result.internal_error.message = message
        self._outbox.tell_result(result)

    async def _execute(self, order: pb.StartExecute, *, at_once: bool) -> None:
        name = order.operation_id

        def process_ended() -> None:
            # At once: while the disk makes this one's result durable, the next one runs.
            self._outbox.tell(
                pb.UpdateForScheduler(execute_complete=pb.ExecuteComplete(operation_id=name))
            )

        def finished(result: pb.ExecuteResult) -> None:
            # Before it is told: the scheduler may want it to be tried once more, at once.
            self._end(name)
            self._outbox.tell_result(result)

        try:
            if not at_once:
                await asyncio.sleep(0)
            await self._executor.execute(order, process_ended=process_ended, finished=finished)
        except asyncio.CancelledError:
            pass

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._running.get(name) is task:
            _log.info("operation %s was stopped", name)
            is_awaited = self._stopping.get(name, False)
            self._end(name)
            if is_awaited:
                # Until it hears so, the scheduler keeps the room and sends the order again.
                self._fail(name, Code.ABORTED, "the action was killed")

    def _end(self, name: str) -> None:
        """An operation runs no more; its directory may be there still."""
        if name in self._running:
            del self._running[name]
            self._stopping.pop(name, None)
            self.executed += 1
            if not self._running:
                self._idle_since = self._clock.monotonic()
                self._idle.set()
