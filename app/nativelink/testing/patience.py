"""Time that passes when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from nativelink.testing.fakes import FakeClock

__all__ = ["Patience", "beside"]


class Patience:
    """Sleeps on a virtual clock.

    Attributes:
        clock: what sleeps are measured by.
    """

    def __init__(self) -> None:
        self.clock = FakeClock()
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        """Wait until so much was let pass."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.clock.monotonic() + seconds, waiter))
        await waiter

    async def settle(self) -> None:
        """Let everybody do what they can do now."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def let_pass(self, seconds: float) -> None:
        """Let time pass, one sleeper after the other, each when it is due."""
        await self.settle()
        end = self.clock.monotonic() + seconds
        while True:
            self._sleepers = [each for each in self._sleepers if not each[1].done()]
            due = min((at for at, _ in self._sleepers), default=end + 1)
            if due > end:
                break
            self.clock.advance(max(0.0, due - self.clock.monotonic()))
            for at, waiter in self._sleepers:
                if at <= due and not waiter.done():
                    waiter.set_result(None)
            await self.settle()
        self.clock.advance(max(0.0, end - self.clock.monotonic()))
        await self.settle()

    async def jump(self, seconds: float) -> None:
        """Let so much have passed at once, as after a standstill; then wake whoever slept."""
        self.clock.advance(seconds)
        await self.let_pass(0)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, object]) -> AsyncIterator[asyncio.Task[object]]:
    """Something that runs beside the body, and is cancelled after it."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield task
        finally:
            task.cancel()
