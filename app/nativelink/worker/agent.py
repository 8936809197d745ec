"""A worker, as its machine sees it: it joins a scheduler, drains, and leaves in time.

`connection.py` keeps the connection over which it hears what to do, `orders.py` does it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from nativelink.core.channel import Channel
from nativelink.core.clock import Clock
from nativelink.worker.connection import ConnectionSettings, SchedulerConnection
from nativelink.worker.notices import Notice, Notices
from nativelink.worker.orders import Executor, Orders
from nativelink.worker.outbox import Outbox

__all__ = ["Agent", "AgentStatistics"]

_log: Final = logging.getLogger(__name__)

#: Kept of the time that a notice gives, to hand back what does not finish and to say so.
_HAND_BACK_S: Final = 20.0


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
        settings: see ConnectionSettings.
        clock: the time.
        random: spreads the reconnections of many workers.
        sleep: waits for seconds; tests pass their own.
    """

    def __init__(
        self,
        channel: Channel,
        executor: Executor,
        settings: ConnectionSettings,
        *,
        clock: Clock,
        random: Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        outbox = Outbox()
        self._orders = Orders(executor, outbox, clock)
        self._connection = SchedulerConnection(
            channel, self._orders, outbox, settings, clock=clock, random=random, sleep=sleep
        )
        self._patience: asyncio.Timeout | None = None

    def statistics(self) -> AgentStatistics:
        """Figures of this moment."""
        orders, connection = self._orders, self._connection
        return AgentStatistics(
            connection.worker_id,
            connection.is_up,
            orders.draining,
            len(orders.running),
            orders.executed,
            connection.count,
            orders.idle_s,
        )

    async def run(self) -> None:
        """Stay connected until `leave` has finished. Cancelling kills what runs."""
        async with self._orders:
            await self._connection.keep()

    def drain(self) -> None:
        """Take no new actions; what runs goes on."""
        self._orders.draining = True
        self._connection.tell_draining()

    def resume(self) -> None:
        """Take new actions again, unless the worker leaves already."""
        if self._orders.draining and self._patience is None and not self._connection.is_ending:
            self._orders.draining = False
            self._connection.tell_draining()

    async def leave(self, timeout_s: float) -> bool:
        """Take no new actions, let running ones finish, and say good-bye.

        Args:
            timeout_s: then what still runs is killed, and runs elsewhere at once.

        Returns:
            Whether everything finished by itself.
        """
        orders, connection = self._orders, self._connection
        orders.draining = True
        if orders.running:
            # So that nothing is sent which would only be refused; else the good-bye says it.
            connection.tell_draining()
        try:
            async with asyncio.timeout(timeout_s) as self._patience:
                await orders.wait_idle()
                await connection.flushed()
            finished = True
        except TimeoutError:
            finished = False
            _log.warning(
                "%d actions did not end within %g seconds and are handed back",
                len(orders.running),
                timeout_s,
            )
        connection.say_good_bye()
        orders.kill_all()
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


async def _next(notices: Notices) -> Notice:
    return await notices.next()
