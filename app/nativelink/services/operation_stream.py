"""An operation followed by a client: each new state, and how it stands while none comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from nativelink.core.clock import Clock
from nativelink.core.eager import begin
from nativelink.core.errors import NativeLinkError
from nativelink.core.rpc import MessageSink
from nativelink.scheduler.operation import OperationView
from nativelink.services.operation_messages import Parts, operation_parts

__all__ = ["PASSING_S", "REPEAT_INTERVAL_S", "OperationStream"]

#: Load balancers drop streams on which nothing moves for 60 s (AWS Application Load Balancer) or
#: 350 s (Network Load Balancer); the state is sent again before the first of them does, with the
#: position in the queue as it is by then.
REPEAT_INTERVAL_S: Final = 25.0

#: Most actions of a build are short: a state that lasts no longer than this, which nobody would
#: see, is not worth a message of its own, with a write for us and a wake-up for the client.
PASSING_S: Final = 0.25


class OperationStream:
    """Writes the states of one operation; use it as a context manager.

    The last state is written at once, others if they last for `PASSING_S`.

    Args:
        sink: the client.
        clock: for the pauses.
        look: the operation as it is now, None where that is not known.
        repeat_interval_s: seconds without a new state until it is sent again.
    """

    __slots__ = (
        "_clock",
        "_interval_s",
        "_last",
        "_look",
        "_passing",
        "_passing_timer",
        "_sending",
        "_sent_at",
        "_sink",
        "_timer",
        "_writing",
    )

    def __init__(
        self,
        sink: MessageSink,
        clock: Clock,
        *,
        look: Callable[[], OperationView | None] = lambda: None,
        repeat_interval_s: float = REPEAT_INTERVAL_S,
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._look = look
        self._interval_s = repeat_interval_s
        self._last: Parts = ()
        self._sent_at = 0.0
        #: `send` waits for the client.
        self._sending = False
        self._timer: asyncio.TimerHandle | None = None
        self._passing: OperationView | None = None
        self._passing_timer: asyncio.TimerHandle | None = None
        #: What is written apart from `send`, while it has to wait for the client.
        self._writing: asyncio.Task[None] | None = None

    def __enter__(self) -> OperationStream:
        return self

    def __exit__(self, *_: object) -> None:
        for timer in (self._timer, self._passing_timer):
            if timer is not None:
                timer.cancel()
        if self._writing is not None:
            self._writing.cancel()

    async def send(self, view: OperationView) -> None:
        """Send a new state, or have it sent if it lasts."""
        if not view.done:
            self._passing = view
            if self._passing_timer is None:
                self._await_passing()
            return
        self._passing = None
        if self._writing is not None and not self._writing.done():
            await asyncio.wait((self._writing,))
        self._note(view)
        self._sending = True
        try:
            await self._sink.write(*self._last)
        finally:
            self._sending = False

    def _note(self, view: OperationView) -> None:
        self._last = operation_parts(view)
        self._sent_at = self._clock.monotonic()

    def _await_passing(self) -> None:
        loop = asyncio.get_running_loop()
        self._passing_timer = loop.call_later(PASSING_S, self._on_lasting)

    def _on_lasting(self) -> None:
        self._passing_timer = None
        if self._passing is None:
            return
        if self._is_writing():
            self._await_passing()
            return
        self._note(self._passing)
        self._passing = None
        self._write_apart()
        if self._timer is None:
            # A timer per stream, not per state: it finds out by itself how long it has to wait.
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._on_time)

    def _on_time(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._sent_at + self._interval_s - self._clock.monotonic()
        if left <= 0 and not self._is_writing():
            self._sent_at = self._clock.monotonic()
            left = self._interval_s
            view = self._look()
            if view is not None and not view.done:
                # What is final goes through `send`, which may have something to add.
                self._last = operation_parts(view)
            self._write_apart()
        self._timer = loop.call_later(max(left, 1.0), self._on_time)

    def _is_writing(self) -> bool:
        return self._sending or (self._writing is not None and not self._writing.done())

    def _write_apart(self) -> None:
        begun = begin(self._write_last(), asyncio.get_running_loop())
        self._writing = None if isinstance(begun, tuple) else begun

    async def _write_last(self) -> None:
        try:
            await self._sink.write(*self._last)
        except NativeLinkError:
            # The call is over, and its handler hears of it itself.
            return
