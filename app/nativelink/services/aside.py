"""Work in threads, one piece after the other, that its owner can wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from nativelink.core.eager import ended

__all__ = ["Aside"]

T = TypeVar("T")


class Aside:
    """Runs pieces of work in threads, one at a time.

    A thread cannot be stopped: whoever is cancelled while it works leaves it behind. What it works
    on must not be closed before `ended` returned.
    """

    __slots__ = ("_hop",)

    def __init__(self) -> None:
        self._hop: asyncio.Future[Any] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, or what it raised."""
        hop = asyncio.get_running_loop().run_in_executor(None, work)
        self._hop = hop
        return await asyncio.shield(hop)

    async def ended(self) -> None:
        """Return when no thread works any more, and heed a cancellation only then."""
        if self._hop is not None:
            # This retrieves what it raised, as whoever waited for it may have been cancelled.
            await ended([self._hop])
