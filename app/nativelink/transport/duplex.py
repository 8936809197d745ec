"""An outgoing call that streams both ways, over grpcio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio

from nativelink.core.channel import Metadata
from nativelink.core.errors import NativeLinkError, unavailable
from nativelink.transport.peer_status import error_of_peer
from nativelink.transport.pool import Connection

__all__ = ["GrpcDuplex", "error_of_call", "send"]

#: How long the peer's status may stay out after the end of its messages.
_STATUS_S: Final = 1.0


def error_of_call(error: grpc.aio.AioRpcError) -> NativeLinkError:
    """What the peer, or grpcio in its place, ended a call with."""
    return error_of_peer(
        error.code().value[0], error.details() or "", error.trailing_metadata() or ()
    )


async def send(call: Any, message: bytes) -> None:
    """Write to a call of grpcio's.

    Not `call.write`: if the call ends meanwhile, that one forgets the status which the peer sent,
    or is about to send, and reports "Internal error from Core" instead.

    Raises:
        grpc.aio.InternalError: the call has ended.
    """
    await call._cython_call.send_serialized_message(message)  # noqa: SLF001


class GrpcDuplex:
    """A call that streams both ways; it begins with the first read or write.

    One task may read while another writes; writes of several tasks follow each other.
    """

    __slots__ = (
        "_backlog",
        "_call",
        "_cancelled",
        "_messages",
        "_metadata",
        "_path",
        "_reading",
        "_release",
        "_starting",
        "_take",
        "_timeout_s",
        "_writing",
    )

    def __init__(
        self,
        take: Callable[[float | None], Awaitable[tuple[Connection, float | None]]],
        release: Callable[[Connection], None],
        path: str,
        metadata: Metadata,
        timeout_s: float | None,
    ) -> None:
        self._take = take
        self._release = release
        self._path = path
        self._metadata = metadata
        self._timeout_s = timeout_s
        self._call: Any = None
        self._messages: AsyncIterator[bytes] | None = None
        self._starting = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._cancelled = False
        #: Messages that came while the end of the call was looked for.
        self._backlog: deque[bytes] = deque()

    async def read(self) -> bytes | None:
        if self._call is None:
            await self.start()
        async with self._reading:
            # A writer may have put messages there while this one waited for its turn.
            message = self._backlog.popleft() if self._backlog else await self._next()
        if message is None and (error := await self._failure()) is not None:
            raise error
        return message

    async def write(self, message: bytes, /) -> None:
        call = self._call or await self.start()
        try:
            async with self._writing:
                await send(call, message)
        except grpc.aio.InternalError:
            raise await self._why_ended() from None
        except asyncio.CancelledError:
            call.cancel()
            self._check_cancelled()
            raise

    async def done_writing(self) -> None:
        call = self._call or await self.start()
        async with self._writing:
            try:
                await call.done_writing()
            except grpc.aio.InternalError:
                # It is over already; the reader hears how.
                return

    def cancel(self) -> None:
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    async def start(self) -> Any:
        """Begin the call now rather than with the first read or write; returns grpcio's.

        Raises:
            NativeLinkError: UNAVAILABLE if the peer cannot be reached.
        """
        async with self._starting:
            if self._call is not None:
                return self._call
            connection, timeout_s = await self._take(self._timeout_s)
            if self._cancelled:
                self._release(connection)
                raise unavailable("the call was cancelled before it began")
            try:
                call = connection.method("stream_stream", self._path)(
                    timeout=timeout_s, metadata=self._metadata
                )
            except BaseException:
                self._release(connection)
                raise
            self._give_back(connection, call)
            self._messages = aiter(call)
            self._call = call
            try:
                # grpcio takes no message before.
                await call.wait_for_connection()
            except grpc.aio.AioRpcError:
                # It is over already; reading and writing tell how.
                return call
            except asyncio.CancelledError:
                call.cancel()
                self._check_cancelled()
                raise
            return call

    def _give_back(self, connection: Connection, call: Any) -> None:
        """Let others use the connection when the call has ended."""
        ended = False

        def end(_: object) -> None:
            nonlocal ended
            if not ended:
                ended = True
                self._release(connection)

        call.add_done_callback(end)

    async def _next(self) -> bytes | None:
        """The next message, or None after the last one, however the call ended."""
        assert self._messages is not None
        try:
            return await anext(self._messages, None)
        except grpc.aio.AioRpcError:
            return None
        except asyncio.CancelledError:
            self._check_cancelled()
            raise

    async def _failure(self) -> NativeLinkError | None:
        """Why the call ended, once no more messages come; None if all was well."""
        call = self._call
        try:
            async with asyncio.timeout(_STATUS_S):
                code = await call.code()
        except TimeoutError:
            return unavailable("the call broke")
        if code is grpc.StatusCode.OK:
            return None
        return error_of_peer(
            code.value[0], await call.details() or "", await call.trailing_metadata() or ()
        )

    async def _why_ended(self) -> NativeLinkError:
        """Why nothing can be written any more."""
        # The status comes behind all messages, so these are taken out of the way, and kept.
        async with self._reading:
            while (message := await self._next()) is not None:
                self._backlog.append(message)
        return await self._failure() or unavailable("the peer has ended the call")

    def _check_cancelled(self) -> None:
        """A cancellation is passed on only if it is the caller's own."""
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            raise unavailable("the call was cancelled")
