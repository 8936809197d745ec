"""A worker's connection to its scheduler: kept, given up when it is dead, made anew.

The protocol is NativeLink's (v1.6.6, worker_api.proto). Fields of ours in its first message say
which id the worker had on the connection that broke, and which operations it still has from it. A
scheduler that gives the same id again goes on with them; any other answer means that they run
elsewhere now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from google.protobuf.message import DecodeError

from nativelink.core.channel import Channel, Duplex
from nativelink.core.clock import Clock
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.core.latch import Latch
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as pb,
)
from nativelink.worker.orders import Orders
from nativelink.worker.outbox import Outbox

__all__ = ["ConnectionSettings", "SchedulerConnection"]

_log: Final = logging.getLogger(__name__)

_PATH: Final = "/com.github.trace_machina.nativelink.remote_execution.WorkerApi/ConnectWorker"
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_GOOD_BYE_S: Final = 2.0
_COMPLAIN_EVERY_S: Final = 60.0
#: A pause that takes so many times as long as it should is this process's standstill.
_STANDSTILL: Final = 1.5


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """How a worker presents itself, and how patient it is.

    Attributes:
        name: its id begins with it.
        properties: what it offers.
        max_inflight_tasks: 0 is no limit.
        timeout_s: of a connection attempt; a sign of life is sent every half of it.
        grace_s: so long actions go on without a connection. Of use only as long as the scheduler
            keeps them for this worker, which is its `worker_timeout_s`.
    """

    name: str
    properties: Sequence[tuple[str, str]]
    max_inflight_tasks: int = 0
    timeout_s: float = 5.0
    grace_s: float = 60.0


class SchedulerConnection:
    """Connects again and again, and passes on what either side says.

    Args:
        channel: to the scheduler's worker API.
        orders: heeds what the scheduler says.
        outbox: has what it is to hear.
        settings: see ConnectionSettings.
        clock: the time.
        random: spreads the reconnections of many workers.
        sleep: waits for seconds.

    Attributes:
        worker_id: the id that the scheduler gave; empty while it was never connected.
        is_up: whether there is a connection now.
        count: how many there were since the start.
    """

    def __init__(
        self,
        channel: Channel,
        orders: Orders,
        outbox: Outbox,
        settings: ConnectionSettings,
        *,
        clock: Clock,
        random: Random,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._channel = channel
        self._orders = orders
        self._outbox = outbox
        self._settings = settings
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self.worker_id = ""
        self.is_up = False
        self.count = 0
        self._is_answered = False
        self._is_excused = False
        self._heard_at = 0.0
        self._lost_at = 0.0
        self._complained_at = -_COMPLAIN_EVERY_S
        self._left = Latch()

    @property
    def is_ending(self) -> bool:
        """Whether good-bye was said."""
        return self._left.is_set

    async def keep(self) -> None:
        """Stay connected, until the good-bye has been said."""
        pause_s = _FIRST_PAUSE_S
        while True:
            count = self.count
            try:
                await self._connect()
            except* NativeLinkError as errors:
                self._complain(errors.exceptions[0])
            now = self._clock.monotonic()
            if self.is_up:
                self.is_up = False
                self._lost_at = now
            if self._left.is_set:
                return
            # Not after the pause: whoever stood still meanwhile tries once more before that.
            if self._orders.wanted and now - self._lost_at > self._settings.grace_s:
                _log.warning("no scheduler for too long: %d actions end", len(self._orders.wanted))
                self._orders.kill_all()
            if self.count > count:
                pause_s = _FIRST_PAUSE_S
            # Between half and the whole of it, so that a fleet does not come back in step.
            await self._pause(pause_s * (0.5 + self._random.random() / 2))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def tell_draining(self) -> None:
        """Say whether new actions are wanted; a scheduler of NativeLink's passes it over."""
        alive = pb.KeepAliveRequest(draining=self._orders.draining)
        self._outbox.tell(pb.UpdateForScheduler(keep_alive_request=alive))

    def say_good_bye(self) -> None:
        """Let this connection be the last one: what runs here still may run elsewhere at once."""
        self._outbox.tell(pb.UpdateForScheduler(going_away_request=pb.GoingAwayRequest()))
        self._left.set()
        self._outbox.close()

    async def flushed(self) -> None:
        """Return once all is said, or there is nobody to say it to."""
        while self.is_up and not self._outbox.is_empty:
            await self._sleep(0.01)

    def _complain(self, error: Exception) -> None:
        """Say why there is no connection: at once, then every minute as long as that lasts."""
        now = self._clock.monotonic()
        if self.is_up or now >= self._complained_at + _COMPLAIN_EVERY_S:
            self._complained_at = now
            _log.warning("no connection to the scheduler: %s", error)

    async def _pause(self, seconds: float) -> None:
        async with asyncio.TaskGroup() as group:
            sleep = group.create_task(_slept(self._sleep, seconds))
            left = group.create_task(self._left.wait())
            await asyncio.wait((sleep, left), return_when=asyncio.FIRST_COMPLETED)
            sleep.cancel()
            left.cancel()

    async def _connect(self) -> None:
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
            resumes=self.worker_id,
        )
        for name, value in self._settings.properties:
            request.properties.add(name=name, value=value)
        request.running.extend(dict.fromkeys([*self._orders.wanted, *self._outbox.unconfirmed()]))
        return pb.UpdateForScheduler(connect_worker_request=request).SerializeToString()

    def _joined(self, worker_id: str) -> None:
        resumed = worker_id == self.worker_id
        if resumed:
            self._outbox.repeat()
        else:
            if self._orders.running:
                _log.warning(
                    "the scheduler does not know %s any more: %d actions end",
                    self.worker_id,
                    len(self._orders.running),
                )
            self._orders.kill_all()
            self._outbox.clear()
        self.worker_id = worker_id
        self.is_up = True
        self._is_answered = False
        self._is_excused = False
        self._heard_at = self._clock.monotonic()
        self.count += 1
        if self._orders.draining:
            self.tell_draining()
        _log.info("%s as %s", "connected again" if resumed else "connected", worker_id)

    async def _read(self, call: Duplex) -> None:
        while (message := await call.read()) is not None:
            self._heard_at = self._clock.monotonic()
            self._is_excused = False
            update = _parse(message)
            match update.WhichOneof("update"):
                case "keep_alive":
                    self._is_answered = True
                    self._outbox.answered()
                case "start_action":
                    self._orders.start(update.start_action)
                case "kill_operation_request":
                    self._orders.kill(update.kill_operation_request.operation_id)
                case "disconnect":
                    return
                case _:
                    pass

    async def _breathe(self) -> None:
        alive = pb.UpdateForScheduler(keep_alive_request=pb.KeepAliveRequest())
        pause_s = self._settings.timeout_s / 2
        while True:
            began = self._clock.monotonic()
            await self._sleep(pause_s)
            now = self._clock.monotonic()
            if now - began > _STANDSTILL * pause_s and not self._is_excused:
                # It was this side that was silent: a process that was stopped, a laptop that
                # slept. What the scheduler said meanwhile is not read yet. That excuses one
                # silence: who is late each time would notice no dead connection otherwise.
                self._heard_at = now
                self._is_excused = True
            silence_s = now - self._heard_at
            # NativeLink's scheduler answers no sign of life; one that does has gone, or what lies
            # between has forgotten the connection without a word.
            if self._is_answered and silence_s > self._settings.timeout_s:
                raise unavailable(f"the scheduler has been silent for {silence_s:.1f} seconds")
            self._outbox.tell(alive)


async def _slept(sleep: Callable[[float], Awaitable[None]], seconds: float) -> None:
    await sleep(seconds)


def _parse(message: bytes | None) -> pb.UpdateForWorker:
    if message is None:
        raise unavailable("the scheduler ended the connection")
    try:
        return pb.UpdateForWorker.FromString(message)
    except DecodeError as error:
        raise NativeLinkError(Code.INTERNAL, "the scheduler sent what is no message") from error
