"""An operation followed by a client: each new state, and the last one again while none comes."""

from __future__ import annotations

import asyncio
from typing import Final

from nativelink.core.clock import Clock
from nativelink.core.eager import begin
from nativelink.core.errors import NativeLinkError
from nativelink.core.rpc import MessageSink
from nativelink.services.operation_messages import Parts

__all__ = ["REPEAT_INTERVAL_S", "OperationStream"]

#: Load balancers drop streams on which nothing moves for 60 s (AWS Application Load Balancer) or
#: 350 s (Network Load Balancer); the last state is sent again before the first of them does.
REPEAT_INTERVAL_S: Final = 25.0


class OperationStream:
    """Writes the states of one operation; use it as a context manager.

    Args:
        sink: the client.
        clock: for the pauses.
        repeat_interval_s: seconds without a new state until the last one is sent again.
    """

    __slots__ = ("_clock", "_interval_s", "_last", "_repeat", "_sent_at", "_sink", "_timer")

    def __init__(
        self, sink: MessageSink, clock: Clock, *, repeat_interval_s: float = REPEAT_INTERVAL_S
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._interval_s = repeat_interval_s
        self._last: Parts = ()
        self._sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._repeat: asyncio.Task[None] | None = None

    def __enter__(self) -> OperationStream:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._repeat is not None:
            self._repeat.cancel()

    async def send(self, operation: Parts) -> None:
        """Send a new state."""
        self._last = operation
        # A timer per stream, not per state: it finds out by itself how long it still has to wait.
        self._sent_at = self._clock.monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._on_time)
        await self._sink.write(*operation)

    def _on_time(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._sent_at + self._interval_s - self._clock.monotonic()
        if left <= 0 and (self._repeat is None or self._repeat.done()):
            self._sent_at = self._clock.monotonic()
            left = self._interval_s
            begun = begin(self._send_again(), loop)
            self._repeat = None if isinstance(begun, tuple) else begun
        self._timer = loop.call_later(max(left, 1.0), self._on_time)

    async def _send_again(self) -> None:
        try:
            await self._sink.write(*self._last)
        except NativeLinkError:
            # The call is over, and its handler hears of it itself.
            return
