"""Something that happens once."""

from __future__ import annotations

import asyncio

__all__ = ["Latch"]


class Latch:
    """An `asyncio.Event` that is never cleared and costs nothing until somebody waits for it.

    Attributes:
        is_set: whether it happened.
    """

    __slots__ = ("_event", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._event: asyncio.Event | None = None

    def set(self) -> None:
        """Let everyone go on who waits, now or later."""
        self.is_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Return once `set` was called."""
        if not self.is_set:
            if self._event is None:
                self._event = asyncio.Event()
            await self._event.wait()
