"""Calls to services of the same process, without a socket in between.

A worker that runs beside its scheduler speaks the same protocol as any other; only the bytes of
its messages are handed over instead of being sent.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import Any, Final

from nativelink.core.channel import Metadata
from nativelink.core.eager import begin
from nativelink.core.errors import Code, NativeLinkError, invalid_argument, unimplemented
from nativelink.core.resumption import Resumption
from nativelink.core.rpc import CallContext, MessageSink, Method, Peer, Reply
from nativelink.core.streams import Chunk

__all__ = ["LoopbackChannel"]

#: Messages that one side may be ahead of the other.
_WAITING_MESSAGES: Final = 64


class LoopbackChannel:
    """A `core.channel.Channel` to methods of this process.

    Args:
        methods: what can be called.
        name: who calls, as the methods see it.
    """

    def __init__(self, methods: Sequence[Method], *, name: str) -> None:
        self._methods = {method.path: method for method in methods}
        self._peer = Peer(name)

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        metadata: Metadata = (),
        timeout_s: float | None = None,
    ) -> bytes:
        method, context = self._call(path, metadata)
        async with _deadline(timeout_s, path):
            return _bytes(await _apart(method.handler(_parsed(method, request), context)))

    async def server_stream(
        self,
        path: str,
        request: bytes,
        *,
        metadata: Metadata = (),
        timeout_s: float | None = None,
    ) -> AsyncGenerator[bytes, None]:
        method, context = self._call(path, metadata)
        down = _Messages()
        handler = _Handler(method.handler(_parsed(method, request), context, down), down)
        loop = asyncio.get_running_loop()
        due = None if timeout_s is None else loop.time() + timeout_s
        try:
            while True:
                async with _deadline(None if due is None else due - loop.time(), path):
                    message = await down.read()
                if message is None:
                    return
                yield bytes(message)
        finally:
            handler.cancel()

    async def client_stream(
        self,
        path: str,
        requests: AsyncIterator[Chunk] | Iterable[Chunk],
        *,
        metadata: Metadata = (),
        timeout_s: float | None = None,
    ) -> bytes:
        method, context = self._call(path, metadata)
        source = _Requests(requests)
        async with _deadline(timeout_s, path):
            return _bytes(await _apart(method.handler(source, context)))

    def duplex(
        self, path: str, *, metadata: Metadata = (), timeout_s: float | None = None
    ) -> _LoopbackDuplex:
        del timeout_s  # Calls that stream both ways last as long as both sides want.
        return _LoopbackDuplex(*self._call(path, metadata))

    def _call(self, path: str, metadata: Metadata) -> tuple[Method, CallContext]:
        method = self._methods.get(path)
        if method is None:
            raise unimplemented(f"no method {path} is served in this process")
        headers = [
            # As on the wire, where the values of `-bin` names are in base64.
            (name.encode(), b64encode(value) if isinstance(value, bytes) else value.encode())
            for name, value in metadata
        ]
        return method, CallContext(path, headers, self._peer)


class _Messages:
    """Messages on their way in one direction: any number of writers, one reader.

    A reader who waits goes on within the call that writes.
    """

    __slots__ = ("_closed", "_error", "_reader", "_waiting", "_writers")

    def __init__(self) -> None:
        self._waiting: deque[Chunk] = deque()
        self._closed = False
        self._error: BaseException | None = None
        self._reader: Resumption[None] | None = None
        self._writers: deque[asyncio.Future[None]] = deque()

    async def write(self, *parts: Chunk) -> None:
        while len(self._waiting) >= _WAITING_MESSAGES and not self._closed:
            writer = asyncio.get_running_loop().create_future()
            self._writers.append(writer)
            await writer
        if self._closed:
            raise self._error or NativeLinkError(Code.CANCELLED, "the call has ended")
        self._waiting.append(parts[0] if len(parts) == 1 else b"".join(parts))
        _wake(self._reader)

    async def write_slices(self, head: bytes, data: memoryview, step: int) -> None:
        await MessageSink.write_slices(self, head, data, step)

    async def read(self) -> Chunk | None:
        while not self._waiting:
            if self._closed:
                if self._error is not None:
                    raise self._error
                return None
            self._reader = Resumption(asyncio.get_running_loop())
            await self._reader
        message = self._waiting.popleft()
        self._wake_writers()
        return message

    def close(self, error: BaseException | None = None) -> None:
        """No more messages; whoever waits goes on. What waits is still read."""
        if not self._closed:
            self._closed = True
            self._error = error
            _wake(self._reader)
            self._wake_writers()

    def _wake_writers(self) -> None:
        """There is room, or never will be. All of them: one alone may have been cancelled."""
        for writer in self._writers:
            _wake(writer)
        self._writers.clear()


def _wake(waiter: asyncio.Future[None] | Resumption[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


class _Handler:
    """A handler under way; its end closes the messages that it sends."""

    __slots__ = ("_down", "_task")

    def __init__(self, coro: Any, down: _Messages) -> None:
        self._down = down
        self._task: asyncio.Task[None] | None = None
        try:
            begun = begin(coro, asyncio.get_running_loop())
        except Exception as error:  # noqa: BLE001 - the caller gets it
            down.close(_as_error(error))
            return
        if isinstance(begun, tuple):
            down.close()
        else:
            self._task = begun
            begun.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._down.close(NativeLinkError(Code.CANCELLED, "the call was cancelled"))
        else:
            error = task.exception()
            self._down.close(None if error is None else _as_error(error))

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


class _LoopbackDuplex:
    """A call that streams both ways."""

    __slots__ = ("_down", "_handler", "_up")

    def __init__(self, method: Method, context: CallContext) -> None:
        self._up = _Messages()
        self._down = _Messages()
        self._handler = _Handler(method.handler(self._up, context, self._down), self._down)

    async def read(self) -> bytes | None:
        message = await self._down.read()
        return None if message is None else bytes(message)

    async def write(self, message: bytes, /) -> None:
        await self._up.write(message)

    async def done_writing(self) -> None:
        self._up.close()

    def cancel(self) -> None:
        self._handler.cancel()
        self._up.close()


class _Requests:
    """A caller's messages as the source that a handler reads."""

    __slots__ = ("_messages",)

    def __init__(self, messages: AsyncIterator[Chunk] | Iterable[Chunk]) -> None:
        self._messages = messages if isinstance(messages, AsyncIterator) else iter(messages)

    async def read(self) -> Chunk | None:
        if isinstance(self._messages, AsyncIterator):
            return await anext(self._messages, None)
        return next(self._messages, None)


class _deadline:  # noqa: N801 - reads like `asyncio.timeout`
    """`asyncio.timeout` that raises our error."""

    __slots__ = ("_path", "_seconds", "_timeout")

    def __init__(self, seconds: float | None, path: str) -> None:
        self._seconds = seconds
        self._path = path
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._timeout.__aexit__(*error)
        except TimeoutError:
            raise NativeLinkError(
                Code.DEADLINE_EXCEEDED, f"{self._path} took longer than {self._seconds:g} seconds"
            ) from None


async def _apart(coro: Any) -> Reply:
    """The handler's answer; what it sets in its context stays there."""
    begun = begin(coro, asyncio.get_running_loop())
    if isinstance(begun, tuple):
        reply: Reply = begun[0]
        return reply
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        begun.cancel()
        raise


def _parsed(method: Method, request: bytes) -> Any:
    try:
        return method.parse(request)
    except Exception as error:
        raise invalid_argument(f"malformed request to {method.path}: {error}") from error


def _bytes(reply: Reply) -> bytes:
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def _as_error(error: BaseException) -> BaseException:
    if isinstance(error, NativeLinkError):
        return error
    return NativeLinkError(Code.INTERNAL, f"{type(error).__name__}: {error}")
