"""A worker's machine comes into service, is kept while it works, and goes in good order.

Who knows that a machine is idle is the worker on it, so the worker ends it: after some idle time
it takes nothing new and asks its auto scaling group to end it and to want one fewer. The group
refuses where that would be below its smallest size; then the worker goes on. While it works, it is
protected from being chosen when somebody makes the group smaller.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from nativelink.aws.auto_scaling import AutoScaling
from nativelink.aws.notices import INTERVAL_S, ImdsNotices
from nativelink.aws.outage import Outage
from nativelink.core.clock import Clock
from nativelink.core.errors import Code, NativeLinkError
from nativelink.worker.agent import AgentStatistics
from nativelink.worker.notices import Notices

__all__ = ["Departure", "DepartureSettings", "Leaver", "arrive"]

_log: Final = logging.getLogger(__name__)

#: An idle worker stays protected for so long, as the next action often comes at once.
_PROTECTED_IDLE_S: Final = 60.0
#: What was under way to a worker when it said that it drains has arrived after so long.
_SETTLE_S: Final = 2.0
#: After a failure that is not the group's refusal.
_RETRY_S: Final = 60.0
#: After the group's refusal, at least: it lasts until the pool has grown, and asking costs what
#: comes meanwhile, as a worker that drains takes nothing and is not counted.
_REFUSED_S: Final = 300.0
#: A lifecycle action ends by itself after its time-out, 15 minutes in our groups.
_HEARTBEAT_S: Final = 120.0
#: Looks at whether a lifecycle action can be completed: the state that the group wants is told a
#: little before the action begins.
_TRIES: Final = 24


class Leaver(Protocol):
    """A worker as far as its leaving is concerned (`worker/agent.py`)."""

    def statistics(self) -> AgentStatistics: ...

    def drain(self) -> None: ...

    def resume(self) -> None: ...

    async def heed(self, notices: Notices, *, margin_s: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class DepartureSettings:
    """Whose departure, and when.

    Attributes:
        instance: EC2's id of this machine.
        group: its auto scaling group.
        hook: the group's lifecycle hook of terminating machines; empty if there is none.
        idle_after_s: so long without work makes a worker end its machine.
        margin_s: so long before a deadline what runs is handed back.
    """

    instance: str
    group: str
    hook: str
    idle_after_s: float
    margin_s: float = 20.0


class Departure:
    """Looks after one worker until it has left. Use it as `await departure.run()`, in a task.

    Args:
        worker: who leaves.
        notices: what EC2 says.
        auto_scaling: the group's API.
        settings: see DepartureSettings.
        clock: for the time between attempts.
        sleep: waits for seconds; tests pass their own.
    """

    def __init__(
        self,
        worker: Leaver,
        notices: ImdsNotices,
        auto_scaling: AutoScaling,
        settings: DepartureSettings,
        *,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._worker = worker
        self._notices = notices
        self._auto_scaling = auto_scaling
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        # As the group makes it: new instances are protected.
        self._protected = True
        self._next_attempt = 0.0
        self._protection = Outage(_log, "the protection from scale-in cannot be set")
        self._ending = Outage(_log, "this machine is idle but cannot be ended")

    async def run(self) -> None:
        """Return when the worker has left and the group was told that the machine may go."""
        async with asyncio.TaskGroup() as group:
            tending = group.create_task(self._tend())
            beating = group.create_task(self._beat())
            await self._worker.heed(self._notices, margin_s=self._settings.margin_s)
            tending.cancel()
            beating.cancel()
        await self._complete()

    # -- as long as it works -------------------------------------------------------------------

    async def _tend(self) -> None:
        ended = False
        while not ended:
            await self._sleep(INTERVAL_S)
            await self._protect()
            ended = await self._end_if_idle()

    async def _protect(self) -> None:
        now = self._worker.statistics()
        protected = now.running > 0 or now.idle_s < _PROTECTED_IDLE_S
        if protected == self._protected:
            return
        settings = self._settings
        try:
            await self._auto_scaling.protect(settings.group, settings.instance, protected=protected)
        except NativeLinkError as error:
            self._protection.failed(error)
        else:
            self._protection.worked()
            self._protected = protected

    async def _end_if_idle(self) -> bool:
        """End this machine if it is idle for long and one fewer is enough.

        Returns:
            Whether it ends.
        """
        worker, settings = self._worker, self._settings
        before = worker.statistics()
        # A worker whose scheduler is away has nothing to do either, but the fleet should be there
        # when the scheduler comes back.
        if not before.connected or before.idle_s < settings.idle_after_s:
            return False
        if self._clock.monotonic() < self._next_attempt:
            return False
        worker.drain()
        await self._sleep(_SETTLE_S)
        wait_s = settings.idle_after_s
        try:
            if worker.statistics().running == 0:
                await self._auto_scaling.terminate(settings.instance)
                self._notices.expect_end()
                _log.info("idle for %.0f s: this machine ends", before.idle_s)
                return True
        except NativeLinkError as error:
            if error.code is Code.FAILED_PRECONDITION:
                wait_s = max(wait_s, _REFUSED_S)
                _log.info("idle for %.0f s, but the group is at its smallest", before.idle_s)
            else:
                wait_s = _RETRY_S
                self._ending.failed(error)
        self._next_attempt = self._clock.monotonic() + wait_s
        if not before.draining:
            worker.resume()
        return False

    # -- when it leaves ------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Let actions that still run go on longer than the lifecycle hook would wait."""
        settings = self._settings
        while settings.hook:
            await self._sleep(_HEARTBEAT_S)
            if self._notices.terminating and self._worker.statistics().running:
                try:
                    await self._auto_scaling.still_busy(
                        settings.group, settings.hook, settings.instance
                    )
                except NativeLinkError as error:
                    _log.warning("the group may end this machine too early: %s", error)

    async def _complete(self) -> None:
        settings = self._settings
        if not settings.hook:
            return
        while not self._notices.terminating:
            await self._sleep(INTERVAL_S)
            await self._notices.look()
        await _completed(
            self._auto_scaling, settings.group, settings.hook, settings.instance, self._sleep
        )


async def arrive(
    auto_scaling: AutoScaling,
    *,
    group: str,
    hook: str,
    instance: str,
    ready: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Let this machine into service once it is ready.

    Where nobody waits for that, as after a restart, nothing happens.

    Args:
        auto_scaling: the group's API.
        group: name of the auto scaling group.
        hook: its lifecycle hook of launching machines.
        instance: EC2's id of this machine.
        ready: whether it can do its work.
        sleep: waits for seconds; tests pass their own.
    """
    while not ready():
        await sleep(1.0)
    await _completed(auto_scaling, group, hook, instance, sleep)


async def _completed(
    auto_scaling: AutoScaling,
    group: str,
    hook: str,
    instance: str,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    for left in reversed(range(_TRIES)):
        try:
            await auto_scaling.complete(group, hook, instance)
        except NativeLinkError as error:
            if not left:
                _log.info("the lifecycle hook %s is not completed: %s", hook, error)
        else:
            _log.info("the lifecycle hook %s is completed", hook)
            return
        await sleep(INTERVAL_S)
