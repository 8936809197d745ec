"""A worker's side of the worker API: it joins a scheduler, takes orders and brings results.

The protocol is NativeLink's (v1.6.6, worker_api.proto). Fields of ours in its first message say
which id the worker had on the connection that broke, and which operations it still has from it. A
scheduler that gives the same id again goes on with them; any other answer means that they run
elsewhere now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from nativelink.core.channel import Channel, Duplex
from nativelink.core.clock import Clock
from nativelink.core.eager import begin, ended
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.core.latch import Latch
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as pb,
)
from nativelink.worker.notices import Notice, Notices
from nativelink.worker.outbox import Outbox

__all__ = ["Agent", "AgentSettings", "AgentStatistics", "Executor"]

_log: Final = logging.getLogger(__name__)

_PATH: Final = "/com.github.trace_machina.nativelink.remote_execution.WorkerApi/ConnectWorker"
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_GOOD_BYE_S: Final = 2.0
_COMPLAIN_EVERY_S: Final = 60.0
#: Kept of the time that a notice gives, to hand back what does not finish and to say so.
_HAND_BACK_S: Final = 20.0
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


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How a worker presents itself.

    Attributes:
        name: its id begins with it.
        properties: what it offers.
        max_inflight_tasks: 0 is no limit.
        timeout_s: of a connection attempt; a sign of life is sent every half of it.
        grace_s: so long actions go on without a connection.
    """

    name: str
    properties: Sequence[tuple[str, str]]
    max_inflight_tasks: int = 0
    timeout_s: float = 5.0
    grace_s: float = 60.0


@dataclass(frozen=True, slots=True)
class AgentStatistics:
    """What a worker does now.

    Attributes:
        worker_id: its id; empty while it was never connected.
        connected: whether it is now.
        draining: whether it takes no new actions.
        running: actions under way.
        executed: actions that came to an end since the start.
        connections: how often it connected since the start.
        idle_s: for so long nothing has run; 0 while something does.
    """

    worker_id: str
    connected: bool
    draining: bool
    running: int
    executed: int
    connections: int
    idle_s: float = 0.0


class Agent:
    """Keeps a worker connected. Use it as `await agent.run()`, in a task of its own.

    Args:
        channel: to the scheduler's worker API.
        executor: runs the actions.
        settings: see AgentSettings.
        clock: the time.
        random: spreads the reconnections of many workers.
        sleep: waits for seconds; tests pass their own.
    """

    def __init__(
        self,
        channel: Channel,
        executor: Executor,
        settings: AgentSettings,
        *,
        clock: Clock,
        random: Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._channel = channel
        self._executor = executor
        self._settings = settings
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._worker_id = ""
        self._connected = False
        self._is_answered = False
        self._heard_at = 0.0
        self._lost_at = 0.0
        self._complained_at = -_COMPLAIN_EVERY_S
        self._connections = 0
        self._executed = 0
        self._draining = False
        self._left = Latch()
        self._patience: asyncio.Timeout | None = None
        self._idle_since = clock.monotonic()
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        #: None until an action that is begun waits for the first time.
        self._running: dict[str, asyncio.Task[None] | None] = {}
        #: Those of them that the scheduler wants to hear the end of.
        self._stopping: set[str] = set()
        self._outbox = Outbox(clock)
        #: Of actions, until nothing of them is left to be done.
        self._tasks: set[asyncio.Task[None]] = set()
        #: Actions have nothing to do with the call that brought their order, or made room for it.
        self._context = Context()
        self._begun_at_once = 0

    def statistics(self) -> AgentStatistics:
        """Figures of this moment."""
        return AgentStatistics(
            self._worker_id,
            self._connected,
            self._draining,
            len(self._running),
            self._executed,
            self._connections,
            0.0 if self._running else self._clock.monotonic() - self._idle_since,
        )

    async def run(self) -> None:
        """Stay connected until `leave` has finished. Cancelling kills what runs."""
        self._context = copy_context()
        try:
            await self._stay_connected()
            self._kill_all()
        except BaseException:
            for task in self._tasks:
                task.cancel()
            raise
        finally:
            await ended(tuple(self._tasks))

    def drain(self) -> None:
        """Take no new actions; what runs goes on."""
        self._draining = True
        self._tell_draining()

    def resume(self) -> None:
        """Take new actions again, unless the worker leaves already."""
        if self._draining and self._patience is None and not self._left.is_set:
            self._draining = False
            self._tell_draining()

    async def leave(self, timeout_s: float) -> bool:
        """Take no new actions, let running ones finish, and say good-bye.

        Args:
            timeout_s: then what still runs is killed, and runs elsewhere at once.

        Returns:
            Whether everything finished by itself.
        """
        self._draining = True
        if self._running:
            # So that nothing is sent which would only be refused; else the good-bye says it.
            self._tell_draining()
        try:
            async with asyncio.timeout(timeout_s) as self._patience:
                await self._idle.wait()
                await self._flushed()
            finished = True
        except TimeoutError:
            finished = False
            _log.warning(
                "%d actions did not end within %g seconds and are handed back",
                len(self._running),
                timeout_s,
            )
        self._send(pb.UpdateForScheduler(going_away_request=pb.GoingAwayRequest()))
        self._kill_all()
        self._left.set()
        self._outbox.close()
        return finished

    async def heed(self, notices: Notices, *, margin_s: float = _HAND_BACK_S) -> bool:
        """Do what notices say, until one of them has made the worker leave.

        A notice that gives no time only keeps new actions away. One that comes while the worker
        leaves already can only take time away.

        Args:
            notices: where they come from.
            margin_s: so long before the end what still runs is handed back.

        Returns:
            Whether everything finished by itself.
        """
        leaving: asyncio.Task[bool] | None = None
        async with asyncio.TaskGroup() as group:
            told = group.create_task(_next(notices))
            try:
                while leaving is None or not leaving.done():
                    tasks = (told,) if leaving is None else (told, leaving)
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    if not told.done():
                        break
                    notice = told.result()
                    told = group.create_task(_next(notices))
                    if notice.seconds is None:
                        _log.warning("%s: taking no new actions", notice.reason)
                        self.drain()
                        continue
                    _log.warning("%s: leaving within %g seconds", notice.reason, notice.seconds)
                    timeout_s = max(0.0, notice.seconds - margin_s)
                    if leaving is None:
                        leaving = group.create_task(self.leave(timeout_s))
                    else:
                        self._hasten(timeout_s)
            finally:
                told.cancel()
        return leaving is not None and leaving.result()

    def _hasten(self, timeout_s: float) -> None:
        """Give what still runs no more than this."""
        if self._patience is None or self._patience.expired():
            return
        due, until = self._patience.when(), asyncio.get_running_loop().time() + timeout_s
        if due is not None and until < due:
            self._patience.reschedule(until)

    # -- connecting ----------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            connections = self._connections
            try:
                await self._connection()
            except* NativeLinkError as errors:
                self._complain(errors.exceptions[0])
            if self._connected:
                self._connected = False
                self._lost_at = self._clock.monotonic()
            if self._left.is_set:
                return
            if self._connections > connections:
                pause_s = _FIRST_PAUSE_S
            # Between half and the whole of it, so that a fleet does not come back in step.
            await self._pause(pause_s * (0.5 + self._random.random() / 2))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            if self._running and self._clock.monotonic() - self._lost_at > self._settings.grace_s:
                _log.warning("no scheduler for too long: %d actions end", len(self._running))
                self._kill_all()

    def _complain(self, error: Exception) -> None:
        """Say why there is no connection: at once, then every minute as long as that lasts."""
        now = self._clock.monotonic()
        if self._connected or now >= self._complained_at + _COMPLAIN_EVERY_S:
            self._complained_at = now
            _log.warning("no connection to the scheduler: %s", error)

    async def _pause(self, seconds: float) -> None:
        async with asyncio.TaskGroup() as group:
            sleep = group.create_task(_slept(self._sleep, seconds))
            left = group.create_task(self._left.wait())
            await asyncio.wait((sleep, left), return_when=asyncio.FIRST_COMPLETED)
            sleep.cancel()
            left.cancel()

    async def _connection(self) -> None:
        """One connection, from its first message to its end."""
        call = self._channel.duplex(_PATH)
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await call.write(self._hello())
                first = _parse(await call.read())
            if first.WhichOneof("update") != "connection_result":
                raise NativeLinkError(
                    Code.INTERNAL,
                    f"the scheduler's first message is {first.WhichOneof('update')!r} where "
                    "'connection_result' is due",
                )
            self._joined(first.connection_result.worker_id)
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(self._outbox.write_to(call))
                breathing = group.create_task(self._breathe())
                reading = group.create_task(self._read(call))
                await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
                if self._left.is_set:
                    # The scheduler ends the call when it has read our good-bye.
                    await asyncio.wait((reading,), timeout=_GOOD_BYE_S)
                for task in (reading, writing, breathing):
                    task.cancel()
        except TimeoutError:
            raise unavailable(f"no answer within {self._settings.timeout_s:g} seconds") from None
        finally:
            call.cancel()
            await self._outbox.leave()

    def _hello(self) -> bytes:
        request = pb.ConnectWorkerRequest(
            worker_id_prefix=self._settings.name,
            max_inflight_tasks=self._settings.max_inflight_tasks,
            can_resume=True,
            resumes=self._worker_id,
        )
        for name, value in self._settings.properties:
            request.properties.add(name=name, value=value)
        request.running.extend(dict.fromkeys([*self._running, *self._outbox.unconfirmed()]))
        return pb.UpdateForScheduler(connect_worker_request=request).SerializeToString()

    def _joined(self, worker_id: str) -> None:
        resumed = worker_id == self._worker_id
        if resumed:
            self._outbox.repeat()
        else:
            if self._running:
                _log.warning(
                    "the scheduler does not know %s any more: %d actions end",
                    self._worker_id,
                    len(self._running),
                )
            self._kill_all()
            self._outbox.clear()
        self._worker_id = worker_id
        self._connected = True
        self._is_answered = False
        self._heard_at = self._clock.monotonic()
        self._connections += 1
        if self._draining:
            self._tell_draining()
        _log.info("%s as %s", "connected again" if resumed else "connected", worker_id)

    # -- both directions -----------------------------------------------------------------------

    async def _read(self, call: Duplex) -> None:
        while (message := await call.read()) is not None:
            self._heard_at = self._clock.monotonic()
            update = _parse(message)
            match update.WhichOneof("update"):
                case "keep_alive":
                    self._is_answered = True
                case "start_action":
                    self._start(update.start_action)
                case "kill_operation_request":
                    self._kill(update.kill_operation_request.operation_id)
                case "disconnect":
                    return
                case _:
                    pass

    async def _breathe(self) -> None:
        alive = pb.UpdateForScheduler(keep_alive_request=pb.KeepAliveRequest())
        while True:
            await self._sleep(self._settings.timeout_s / 2)
            silence_s = self._clock.monotonic() - self._heard_at
            # NativeLink's scheduler answers no sign of life; one that does has gone, or what lies
            # between has forgotten the connection without a word.
            if self._is_answered and silence_s > self._settings.timeout_s:
                raise unavailable(f"the scheduler has been silent for {silence_s:.1f} seconds")
            self._send(alive)

    def _send(self, update: pb.UpdateForScheduler) -> None:
        self._outbox.post(update.SerializeToString())

    def _tell_draining(self) -> None:
        """Say whether new actions are wanted; a scheduler of NativeLink's passes it over."""
        alive = pb.KeepAliveRequest(draining=self._draining)
        self._send(pb.UpdateForScheduler(keep_alive_request=alive))

    async def _flushed(self) -> None:
        while self._connected and not self._outbox.is_empty:
            await self._sleep(0.01)

    # -- actions -------------------------------------------------------------------------------

    def _start(self, order: pb.StartExecute) -> None:
        name = order.operation_id
        if self._draining:
            self._refuse(order, Code.RESOURCE_EXHAUSTED, "Worker shutting down")
        elif name in self._running:
            self._refuse(order, Code.ALREADY_EXISTS, f"operation {name} is running already")
        else:
            self._begin(order)

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

    def _refuse(self, order: pb.StartExecute, code: Code, message: str) -> None:
        self._fail(order.operation_id, code, message, order.execute_request.instance_name)

    def _fail(self, operation_id: str, code: Code, message: str, instance_name: str = "") -> None:
        result = pb.ExecuteResult(instance_name=instance_name, operation_id=operation_id)
        result.internal_error.code = code
        result.internal_error.message = message
        self._send(pb.UpdateForScheduler(execute_result=result))

    async def _execute(self, order: pb.StartExecute, *, at_once: bool) -> None:
        name = order.operation_id

        def process_ended() -> None:
            # At once: while the disk makes this one's result durable, the next one runs.
            self._send(
                pb.UpdateForScheduler(execute_complete=pb.ExecuteComplete(operation_id=name))
            )

        def finished(result: pb.ExecuteResult) -> None:
            message = pb.UpdateForScheduler(execute_result=result).SerializeToString()
            # Before it is told: the scheduler may want it to be tried once more, at once.
            self._end(name)
            self._outbox.post_result(name, message)

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
            is_awaited = name in self._stopping
            self._end(name)
            if is_awaited:
                # Until it hears so, the scheduler keeps the room and sends the order again.
                self._fail(name, Code.ABORTED, "the action was killed")

    def _end(self, name: str) -> None:
        """An operation runs no more; its directory may be there still."""
        if name in self._running:
            del self._running[name]
            self._stopping.discard(name)
            self._executed += 1
            if not self._running:
                self._idle_since = self._clock.monotonic()
                self._idle.set()

    def _kill(self, operation_id: str) -> None:
        task = self._running.get(operation_id)
        if task is not None:
            self._stopping.add(operation_id)
            task.cancel()
        elif operation_id not in self._running:
            self._fail(operation_id, Code.CANCELLED, "it does not run here, or not any more")

    def _kill_all(self) -> None:
        for task in self._running.values():
            if task is not None:
                task.cancel()


async def _slept(sleep: Callable[[float], Awaitable[None]], seconds: float) -> None:
    await sleep(seconds)


async def _next(notices: Notices) -> Notice:
    return await notices.next()


def _parse(message: bytes | None) -> pb.UpdateForWorker:
    if message is None:
        raise unavailable("the scheduler ended the connection")
    try:
        return pb.UpdateForWorker.FromString(message)
    except DecodeError as error:
        raise NativeLinkError(Code.INTERNAL, "the scheduler sent what is no message") from error
