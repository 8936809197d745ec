"""An outgoing call that streams both ways, over grpcio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc.aio

from nativelink.core.channel import Metadata
from nativelink.core.errors import NativeLinkError, unavailable
from nativelink.transport.peer_status import error_of_peer
from nativelink.transport.pool import Connection

__all__ = ["GrpcDuplex", "error_of_call"]

#: What grpcio calls a write that failed because the call is over, before it knows how it ended.
_BROKEN_WRITE: Final = "Internal error from Core"
#: How long it may take to learn that.
_STATUS_S: Final = 1.0


def error_of_call(error: grpc.aio.AioRpcError) -> NativeLinkError:
    """What the peer, or grpcio in its place, ended a call with."""
    return error_of_peer(
        error.code().value[0],
        error.details() or "",
        # grpcio decodes neither percent signs nor base64 twice: values of `-bin` names are bytes.
        list(error.trailing_metadata() or ()),
    )


class GrpcDuplex:
    """A call that streams both ways; it begins with the first read or write.

    One task may read while another writes; writes of several tasks follow each other.
    """

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
        self._writing = asyncio.Lock()
        self._cancelled = False
        #: Statuses that grpcio reported: after a failed write a guess, then the peer's.
        self._statuses = 0
        self._settled = asyncio.Event()

    async def read(self) -> bytes | None:
        if self._messages is None:
            await self._begin()
        assert self._messages is not None
        try:
            return await anext(self._messages, None)
        except grpc.aio.AioRpcError as error:
            raise await self._error(error) from error
        except asyncio.CancelledError:
            self._check_cancelled()
            raise

    async def write(self, message: bytes, /) -> None:
        call = self._call or await self._begin()
        try:
            async with self._writing:
                await call.write(message)
        except grpc.aio.AioRpcError as error:
            raise await self._error(error) from error
        except asyncio.InvalidStateError:
            raise await self._ended() from None
        except asyncio.CancelledError:
            self._check_cancelled()
            raise

    async def done_writing(self) -> None:
        call = self._call or await self._begin()
        async with self._writing:
            await call.done_writing()

    def cancel(self) -> None:
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    async def _begin(self) -> Any:
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

            def status_came(_: object) -> None:
                self._statuses += 1
                if self._statuses == 1:
                    self._release(connection)
                else:
                    self._settled.set()

            call.add_done_callback(status_came)
            self._messages = aiter(call)
            self._call = call
            return call

    async def _error(self, error: grpc.aio.AioRpcError) -> NativeLinkError:
        if error.details() != _BROKEN_WRITE:
            return error_of_call(error)
        return await self._ended()

    async def _ended(self) -> NativeLinkError:
        """Why nothing can be written any more."""
        if await self._call.details() == _BROKEN_WRITE:
            try:
                async with asyncio.timeout(_STATUS_S):
                    await self._settled.wait()
            except TimeoutError:
                return unavailable("the call broke while it was written to")
        code = await self._call.code()
        if code is grpc.StatusCode.OK:
            return unavailable("the peer has ended the call")
        return error_of_peer(
            code.value[0],
            await self._call.details() or "",
            list(await self._call.trailing_metadata() or ()),
        )

    def _check_cancelled(self) -> None:
        """A cancellation is passed on only if it is the caller's own."""
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            raise unavailable("the call was cancelled")
