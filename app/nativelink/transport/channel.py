"""Outgoing gRPC: `core.channel.Channel` over grpcio.

grpcio speaks the protocol, resolves names and keeps connections alive; this module adds what its
asyncio side leaves open: errors that are ours, time-outs that hold from the first wait on, several
connections and endpoints, and limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextvars import ContextVar, copy_context
from types import TracebackType
from typing import Any, Final

import grpc.aio

from nativelink.core.channel import Metadata
from nativelink.core.eager import begin
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.core.streams import Chunk
from nativelink.transport.duplex import GrpcDuplex, error_of_call, send
from nativelink.transport.endpoints import Endpoint, credentials_of
from nativelink.transport.pool import Connection, Pool, PoolRecorder

__all__ = ["GrpcChannel"]


#: The channel of a stream of which a message is worked on, or made, now. What that takes to ask of
#: the same server belongs to the stream: it would wait for the stream's own end behind a limit.
_within: Final[ContextVar[GrpcChannel | None]] = ContextVar("within", default=None)


class GrpcChannel:
    """Connections to one service somewhere else; it connects when it is first needed.

    Used as an async context manager: the end of its block ends all calls and connections.

    A call goes to an endpoint that can be reached. What happens to it there is for the caller to
    judge: a call that was sent is never sent again here.

    Args:
        endpoints: the servers, any of which can answer.
        connections_per_endpoint: TCP connections to each; more are opened only while calls
            share the first ones.
        max_concurrent_requests: calls in flight; further ones wait in the order they came. A
            call counts until it ended, a stream as one, with what is asked while a message of it
            is worked on or made. 0: no limit.
        recorder: counts what happens to the connections.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        connections_per_endpoint: int = 1,
        max_concurrent_requests: int = 0,
        recorder: PoolRecorder | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._pool = Pool(
            endpoints,
            connections_per_endpoint=connections_per_endpoint,
            max_concurrent_requests=max_concurrent_requests,
            recorder=recorder,
        )
        self._closed = False

    async def __aenter__(self) -> GrpcChannel:
        """Check the TLS files; nothing is connected yet.

        Raises:
            NativeLinkError: INVALID_ARGUMENT naming the file that cannot be used.
        """
        for endpoint in self._endpoints:
            if endpoint.tls is not None:
                credentials_of(endpoint.tls)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        await self._pool.close()

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        metadata: Metadata = (),
        timeout_s: float | None = None,
    ) -> bytes:
        connection, timeout_s = await self._take(timeout_s)
        try:
            answer: bytes = await connection.method("unary_unary", path)(
                request, timeout=timeout_s, metadata=metadata
            )
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from error
        except asyncio.CancelledError:
            self._check_cancelled()
            raise
        finally:
            self._pool.release(connection)
        return answer

    async def server_stream(
        self,
        path: str,
        request: bytes,
        *,
        metadata: Metadata = (),
        timeout_s: float | None = None,
    ) -> AsyncGenerator[bytes, None]:
        connection, timeout_s = await self._take(timeout_s)
        call = None
        try:
            call = connection.method("unary_stream", path)(
                request, timeout=timeout_s, metadata=metadata
            )
            outer = _within.get()
            async for message in call:
                _within.set(self)
                try:
                    yield message
                finally:
                    _within.set(outer)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from error
        except asyncio.CancelledError:
            self._check_cancelled()
            raise
        finally:
            if call is not None:
                call.cancel()
            self._pool.release(connection)

    async def client_stream(
        self,
        path: str,
        requests: AsyncIterator[Chunk] | Iterable[Chunk],
        *,
        metadata: Metadata = (),
        timeout_s: float | None = None,
    ) -> bytes:
        connection, timeout_s = await self._take(timeout_s)
        call: Any = None
        writing: tuple[None] | asyncio.Task[None] = (None,)
        try:
            call = connection.method("stream_unary", path)(timeout=timeout_s, metadata=metadata)
            context = copy_context()
            context.run(_within.set, self)
            # The answer is waited for all the time: it ends the writing wherever that stands.
            writing = begin(_write_all(call, requests), asyncio.get_running_loop(), context)
            answer: bytes = await call
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from error
        except asyncio.CancelledError:
            if isinstance(writing, asyncio.Task) and writing.done():
                # If the messages could not be had, that is why.
                writing.result()
            self._check_cancelled()
            raise
        finally:
            if call is not None:
                call.cancel()
            if isinstance(writing, asyncio.Task):
                writing.cancel()
                await asyncio.wait((writing,))
                if not writing.cancelled():
                    writing.exception()
            self._pool.release(connection)
        return answer

    def duplex(
        self, path: str, *, metadata: Metadata = (), timeout_s: float | None = None
    ) -> GrpcDuplex:
        return GrpcDuplex(self._take, self._pool.release, path, metadata, timeout_s)

    async def _take(self, timeout_s: float | None) -> tuple[Connection, float | None]:
        """A connection, and how much of the time is left then."""
        if self._closed:
            raise unavailable("the channel is closed")
        within = _within.get() is self
        connection = self._pool.take_nowait(beyond_limits=within)
        if connection is not None:
            return connection, timeout_s
        if timeout_s is None:
            return await self._pool.take(beyond_limits=within), None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._pool.take(beyond_limits=within)
        except TimeoutError:
            raise NativeLinkError(
                Code.DEADLINE_EXCEEDED, f"no connection was free within {timeout_s:g} s"
            ) from None
        return connection, max(0.0, deadline - loop.time())

    def _check_cancelled(self) -> None:
        """A cancellation is passed on only if it is the caller's own."""
        task = asyncio.current_task()
        if self._closed and (task is None or not task.cancelling()):
            raise unavailable("the channel was closed while the call was under way")


async def _write_all(call: Any, messages: AsyncIterator[Chunk] | Iterable[Chunk]) -> None:
    """Send all messages; stop quietly when the peer takes no more: the answer says why."""
    try:
        # grpcio takes no message before.
        await call.wait_for_connection()
        if isinstance(messages, AsyncIterator):
            async for message in messages:
                await send(call, message if isinstance(message, bytes) else bytes(message))
        else:
            for message in messages:
                await send(call, message if isinstance(message, bytes) else bytes(message))
        await call.done_writing()
    except (grpc.aio.InternalError, grpc.aio.AioRpcError):
        return
    except BaseException:
        call.cancel()
        raise
