"""Calls that are not answered at once: their request comes in pieces, or their handler waits.

An exchange is told of news of its stream, runs the handler, and answers. Whatever ends it first,
the handler, the peer's reset or the deadline, wins; what comes later finds it `ended`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Coroutine
from typing import Any, cast

from nativelink.core.eager import begin
from nativelink.core.errors import NativeLinkError
from nativelink.transport.environment import CallEnvironment
from nativelink.transport.status import error_of
from nativelink.transport.streams import Stream

__all__ = ["Exchange"]


class Exchange(ABC):
    """One stream's handler and its answer; the base of the kinds.

    Attributes:
        where: method or path, for the log.
        ended: the answer is complete, or nobody waits for it.
    """

    def __init__(self, calls: CallEnvironment, stream: Stream, where: str) -> None:
        self.calls = calls
        self.stream = stream
        self.where = where
        self.ended = False
        # The arrival of the batch that it came in: the clock is read once for all of them.
        self._started = stream.active_at
        self._task: asyncio.Task[Any] | None = None
        stream.call = self

    @abstractmethod
    def on_news(self) -> None:
        """More body, its end, or a reset."""

    def on_drained(self) -> None:  # noqa: B027 - most kinds never wait for that
        """The outbox is empty."""

    @abstractmethod
    def succeed(self, result: Any) -> None:
        """The handler returned: answer."""

    @abstractmethod
    def fail(self, error: NativeLinkError) -> None:
        """The handler raised, or could not begin: answer."""

    def run(self, handler: Awaitable[Any]) -> None:
        """Begin the handler's coroutine."""
        try:
            begun = begin(cast("Coroutine[Any, Any, Any]", handler), self.calls.loop)
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - told to the client
            self._failed(raised)
            return
        if isinstance(begun, tuple):
            self._returned(begun[0])
        else:
            self.follow(begun)

    def follow(self, task: asyncio.Task[Any]) -> None:
        """The handler waits; go on when it ends."""
        self._task = task
        self.calls.running.add(task)
        task.add_done_callback(self._on_done)

    def over(self) -> None:
        """Nobody waits any more: neither for the answer nor for more of the request."""
        self.ended = True

    def abandon(self) -> None:
        """The peer went away, or the deadline passed: stop the handler."""
        self.over()
        if self._task is not None:
            self._task.cancel()

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self.calls.running.discard(task)
        try:
            result = task.result()
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - told to the client
            self._failed(raised)
        else:
            self._returned(result)
        self.calls.flush_soon()

    def _returned(self, result: Any) -> None:
        if self.ended:
            return
        try:
            self.succeed(result)
        except Exception as raised:  # noqa: BLE001 - a reply that is none
            self._failed(raised)

    def _failed(self, raised: BaseException) -> None:
        # What a handler raises on its way out of a call that is over interests nobody.
        if not self.ended:
            self.fail(error_of(raised, self.where))
