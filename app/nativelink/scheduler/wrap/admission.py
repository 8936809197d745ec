"""Lets requests in at the pace of something else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.scheduler import Scheduler, Watch
from nativelink.scheduler.wrap.delegating import DelegatingScheduler

__all__ = ["AdmissionScheduler"]


class AdmissionScheduler(DelegatingScheduler):
    """Starts an execution when `room` returns.

    Args:
        backend: the scheduler behind it.
        room: waits while there is no room for what an execution causes.
    """

    def __init__(self, backend: Scheduler, room: Callable[[], Awaitable[None]]) -> None:
        super().__init__(backend)
        self._room = room

    async def execute(self, action: ActionInfo, *, name: str = "") -> Watch:
        await self._room()
        return await super().execute(action, name=name)
