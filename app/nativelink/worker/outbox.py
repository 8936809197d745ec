"""What a worker has to tell its scheduler, over one connection after the other.

Results are kept after they were written: one that was on its way when the connection broke is
written again to the next one. The protocol has no acknowledgement, but our scheduler answers signs
of life, and takes one message after the other: it has what was written before a sign of life that
it answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from nativelink.core.channel import Duplex
from nativelink.core.eager import begin, ended
from nativelink.core.errors import NativeLinkError
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as pb,
)

__all__ = ["Outbox"]

#: So many results, and of so many bytes, may be on their way, or were sent to a scheduler that
#: answers nothing.
_RESEND_RESULTS: Final = 10_000
_RESEND_BYTES: Final = 16 << 20


class _Message(NamedTuple):
    """What is to be written.

    Attributes:
        data: encoded.
        result_of: the operation whose result it is; empty for what is no result.
        is_alive: whether it is a sign of life, which may be answered.
    """

    data: bytes
    result_of: str = ""
    is_alive: bool = False


class Outbox:
    """Messages in order, each written at once where that need not wait."""

    def __init__(self) -> None:
        self._waiting: deque[_Message] = deque()
        self._wake = asyncio.Event()
        #: The call, while nothing waits and the one who writes does, so that others may write.
        self._idle_call: Duplex | None = None
        #: Such a write, of the first message that waits, that has to wait itself.
        self._begun: asyncio.Task[None] | None = None
        #: Results that were written, by operation, the last one in the end, each with its number.
        self._sent: dict[str, tuple[int, bytes]] = {}
        self._sent_bytes = 0
        self._results = 0
        #: Signs of life of this connection, and the answers to them.
        self._alive = 0
        self._answers = 0
        #: The sign of life whose answer is waited for, and the last result before it.
        self._mark: tuple[int, int] | None = None
        self._is_closed = False

    @property
    def is_empty(self) -> bool:
        """Whether all is written."""
        return not self._waiting

    def tell(self, update: pb.UpdateForScheduler) -> None:
        """Send what is no result.

        A scheduler of the same process may answer it before this returns.
        """
        is_alive = update.HasField("keep_alive_request")
        self._post(_Message(update.SerializeToString(), is_alive=is_alive))

    def tell_result(self, result: pb.ExecuteResult) -> None:
        """Send an operation's result, which may have to be sent again."""
        data = pb.UpdateForScheduler(execute_result=result).SerializeToString()
        self._post(_Message(data, result.operation_id))

    def has_result(self, operation_id: str) -> bool:
        """Whether an operation's result waits, or may be on its way."""
        return operation_id in self._sent or any(
            each.result_of == operation_id for each in self._waiting
        )

    def forget_result(self, operation_id: str) -> None:
        """The scheduler had an operation's last result, since it orders it once more."""
        self._drop(operation_id)
        for place, message in enumerate(self._waiting):
            if message.result_of == operation_id:
                # It is being written, and answered within that: there is nothing to repeat of it.
                self._waiting[place] = _Message(message.data)

    def answered(self) -> None:
        """The scheduler answered a sign of life; they are answered in order."""
        self._answers += 1
        if self._mark is not None and self._answers >= self._mark[0]:
            _, last = self._mark
            self._mark = None
            arrived = [name for name, (number, _) in self._sent.items() if number <= last]
            for operation_id in arrived:
                self._drop(operation_id)

    def close(self) -> None:
        """No more will come: who writes ends the call's one half when all is written."""
        self._is_closed = True
        self._wake.set()

    def unconfirmed(self) -> Sequence[str]:
        """Operations whose results may not have arrived; `repeat` or `clear` must follow."""
        return [*self._sent, *(each.result_of for each in self._waiting if each.result_of)]

    def repeat(self) -> None:
        """There is a new connection: what was written to the old one may never have arrived."""
        self._waiting.extendleft(
            _Message(data, operation_id) for operation_id, (_, data) in reversed(self._sent.items())
        )
        self._begin_anew()
        self._wake.set()

    def clear(self) -> None:
        """Nobody wants to hear of it any more."""
        self._waiting.clear()
        self._begin_anew()

    async def write_to(self, call: Duplex) -> None:
        """Write what there is and what comes, until `close`; `leave` must follow.

        Raises:
            NativeLinkError: the call has ended. What it did not take waits for the next one.
        """
        waiting = self._waiting
        while True:
            while waiting:
                await call.write(waiting[0].data)
                self._written()
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
                self._written()

    async def leave(self) -> None:
        """The call that was written to is over."""
        begun, self._begun = self._begun, None
        if begun is not None:
            # Its message waits still, for the next connection.
            begun.cancel()
            await ended((begun,))

    def _post(self, message: _Message) -> None:
        waiting = self._waiting
        waiting.append(message)
        call, self._idle_call = self._idle_call, None
        if call is not None:
            try:
                begun = begin(call.write(message.data), asyncio.get_running_loop())
            except NativeLinkError:
                pass  # The one who writes comes upon it, and ends the connection.
            else:
                if isinstance(begun, tuple):
                    self._written()
                    if not waiting:
                        self._idle_call = call
                        return
                    # The answer made somebody post more, which must come before what is next.
                else:
                    self._begun = begun
        self._wake.set()

    def _begin_anew(self) -> None:
        """Nothing is under way."""
        self._sent.clear()
        self._sent_bytes = self._alive = self._answers = 0
        self._mark = None

    def _written(self) -> None:
        """The first message that waited is written."""
        data, result_of, is_alive = self._waiting.popleft()
        if result_of:
            self._drop(result_of)
            self._results += 1
            self._sent[result_of] = self._results, data
            self._sent_bytes += len(data)
            while self._sent_bytes > _RESEND_BYTES or len(self._sent) > _RESEND_RESULTS:
                self._drop(next(iter(self._sent)))
        elif is_alive:
            self._alive += 1
            if self._mark is None:
                self._mark = self._alive, self._results

    def _drop(self, operation_id: str) -> None:
        sent = self._sent.pop(operation_id, None)
        if sent is not None:
            self._sent_bytes -= len(sent[1])
