"""A scheduler that passes everything on: the base of wrappers, which override what they change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.operation import OperationView
from nativelink.scheduler.scheduler import Scheduler, Watch

__all__ = ["DelegatingScheduler"]


class DelegatingScheduler:
    """Asks `backend` for everything."""

    def __init__(self, backend: Scheduler) -> None:
        self._backend = backend

    async def execute(self, action: ActionInfo, *, name: str = "") -> Watch:
        return await self._backend.execute(action, name=name)

    async def watch(self, name: str) -> Watch:
        return await self._backend.watch(name)

    async def get(self, name: str) -> OperationView:
        return await self._backend.get(name)

    async def operations(self, *, since: float = 0.0) -> Iterable[OperationView]:
        return await self._backend.operations(since=since)

    async def cancel(self, name: str) -> None:
        await self._backend.cancel(name)

    async def delete(self, name: str) -> None:
        await self._backend.delete(name)

    def known_properties(self) -> Sequence[str]:
        return self._backend.known_properties()
