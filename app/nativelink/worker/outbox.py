"""What a worker has to tell its scheduler, over one connection after the other.

Results are kept for a while after they were sent: the protocol has no acknowledgement, so a result
that was on its way when the connection broke is sent again on the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from nativelink.core.channel import Duplex
from nativelink.core.clock import Clock
from nativelink.core.eager import begin, ended
from nativelink.core.errors import NativeLinkError
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as pb,
)

__all__ = ["Outbox"]

#: So long, so many, and of so many bytes, results that were sent may still be on their way.
_RESEND_WITHIN_S: Final = 10.0
_RESEND_RESULTS: Final = 10_000
_RESEND_BYTES: Final = 16 << 20


class Outbox:
    """Messages in order, each written at once where that need not wait.

    Args:
        clock: the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()
        #: The call, while nothing waits and the one who writes does, so that others may write.
        self._idle_call: Duplex | None = None
        #: Such a write, of the first message that waits, that has to wait itself.
        self._begun: asyncio.Task[None] | None = None
        self._sent: deque[tuple[float, str, bytes]] = deque()
        self._sent_bytes = 0
        self._is_closed = False

    @property
    def is_empty(self) -> bool:
        """Whether all is written."""
        return not self._waiting

    def tell(self, update: pb.UpdateForScheduler) -> None:
        """Send what is no result.

        A scheduler of the same process may answer it before this returns.
        """
        self._post(update.SerializeToString())

    def tell_result(self, result: pb.ExecuteResult) -> None:
        """Send an operation's result, which may have to be sent again."""
        message = pb.UpdateForScheduler(execute_result=result).SerializeToString()
        self._sent.append((self._clock.monotonic(), result.operation_id, message))
        self._sent_bytes += len(message)
        self._forget_old_results()
        self._post(message)

    def close(self) -> None:
        """No more will come: who writes ends the call's one half when all is written."""
        self._is_closed = True
        self._wake.set()

    def unconfirmed(self) -> Sequence[str]:
        """Operations whose results may not have arrived."""
        self._forget_old_results()
        return [operation_id for _, operation_id, _ in self._sent]

    def repeat(self) -> None:
        """There is a new connection: what was written to the old one may never have arrived."""
        waiting = set(self._waiting)
        self._waiting.extendleft(
            message for _, _, message in reversed(self._sent) if message not in waiting
        )
        self._wake.set()

    def clear(self) -> None:
        """Nobody wants to hear of it any more."""
        self._waiting.clear()
        self._sent.clear()
        self._sent_bytes = 0

    async def write_to(self, call: Duplex) -> None:
        """Write what there is and what comes, until `close`; `leave` must follow.

        Raises:
            NativeLinkError: the call has ended. What it did not take waits for the next one.
        """
        waiting = self._waiting
        while True:
            while waiting:
                await call.write(waiting[0])
                waiting.popleft()
            if self._is_closed:
                await call.done_writing()
                return
            self._wake.clear()
            self._idle_call = call
            try:
                await self._wake.wait()
            finally:
                self._idle_call = None
            if self._begun is not None:
                await self._begun
                self._begun = None
                waiting.popleft()

    async def leave(self) -> None:
        """The call that was written to is over."""
        begun, self._begun = self._begun, None
        if begun is not None:
            # Its message waits still, for the next connection.
            begun.cancel()
            await ended((begun,))

    def _post(self, message: bytes) -> None:
        waiting = self._waiting
        waiting.append(message)
        call, self._idle_call = self._idle_call, None
        if call is not None:
            try:
                begun = begin(call.write(message), asyncio.get_running_loop())
            except NativeLinkError:
                pass  # The one who writes comes upon it, and ends the connection.
            else:
                if isinstance(begun, tuple):
                    waiting.popleft()
                    if not waiting:
                        self._idle_call = call
                        return
                    # The answer made somebody post more, which must come before what is next.
                else:
                    self._begun = begun
        self._wake.set()

    def _forget_old_results(self) -> None:
        sent = self._sent
        horizon = self._clock.monotonic() - _RESEND_WITHIN_S
        while sent and (
            sent[0][0] < horizon or self._sent_bytes > _RESEND_BYTES or len(sent) > _RESEND_RESULTS
        ):
            self._sent_bytes -= len(sent.popleft()[2])
