"""Calls of services without a transport."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar, cast

from nativelink.core.digest import Digest
from nativelink.core.eager import begin
from nativelink.core.rpc import CallContext, MessageSink, Method, Peer, Reply, SupportsSerialize
from nativelink.core.streams import Chunk
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

__all__ = ["Caller", "FakeMessageSink", "FakeMessageSource", "digest_message", "serialized"]

M = TypeVar("M", bound=SupportsSerialize)
M_co = TypeVar("M_co", covariant=True)
T = TypeVar("T")


class MessageType(Protocol[M_co]):
    """A class of protobuf messages."""

    def FromString(self, s: bytes, /) -> M_co: ...  # noqa: N802 - protobuf's name


def digest_message(digest: Digest) -> pb.Digest:
    """A digest as REAPI's messages carry it."""
    return pb.Digest(hash=digest.hash, size_bytes=digest.size_bytes)


def serialized(message: Reply) -> bytes:
    """A message's bytes."""
    return message if isinstance(message, bytes) else message.SerializeToString()


class FakeMessageSource:
    """What a client sends: at first `messages`, then what the test sends, until it ends.

    Attributes:
        reads: messages that the handler took.
    """

    def __init__(self, *messages: Reply, ended: bool = True) -> None:
        self._messages: deque[bytes | None] = deque(map(serialized, messages))
        self._waiting: asyncio.Future[None] | None = None
        self.reads = 0
        if ended:
            self.end()

    def send(self, message: Reply) -> None:
        """Send one more message."""
        self._append(serialized(message))

    def end(self) -> None:
        """Half-close the stream."""
        self._append(None)

    async def read(self) -> Chunk | None:
        while not self._messages:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        message = self._messages[0]
        if message is not None:
            self._messages.popleft()
            self.reads += 1
        return message

    def _append(self, message: bytes | None) -> None:
        self._messages.append(message)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class FakeMessageSink(MessageSink):
    """Collects what a handler sends.

    Attributes:
        messages: each message's bytes.
        parts: the parts that each message was made of.
    """

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.parts: list[tuple[Chunk, ...]] = []

    async def write(self, *parts: Chunk) -> None:
        self.parts.append(parts)
        self.messages.append(b"".join(parts))


class Caller:
    """Calls the methods of a service as a transport does: each call in a context of its own.

    Args:
        methods: what the service serves.
        metadata: request headers of each call.
    """

    def __init__(
        self, methods: Sequence[Method], metadata: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        self._methods = {method.path.rpartition("/")[2]: method for method in methods}
        self._metadata = metadata

    def method(self, name: str) -> Method:
        """The method of a name without its service."""
        return self._methods[name]

    async def unary(self, name: str, request: Reply, reply: MessageType[M]) -> M:
        """Call a method without streams."""
        method = self._methods[name]
        assert not method.client_streaming
        assert not method.server_streaming
        parsed = method.parse(serialized(request))
        return reply.FromString(
            serialized(await self._run(method.handler(parsed, self._context(method))))
        )

    async def server_stream(
        self,
        name: str,
        request: Reply,
        reply: MessageType[M],
        sink: FakeMessageSink | None = None,
    ) -> list[M]:
        """Call a method that streams its answers."""
        method = self._methods[name]
        assert not method.client_streaming
        assert method.server_streaming
        sink = FakeMessageSink() if sink is None else sink
        parsed = method.parse(serialized(request))
        await self._run(method.handler(parsed, self._context(method), sink))
        return [reply.FromString(message) for message in sink.messages]

    async def client_stream(self, name: str, source: FakeMessageSource, reply: MessageType[M]) -> M:
        """Call a method that takes a stream of requests."""
        method = self._methods[name]
        assert method.client_streaming
        assert not method.server_streaming
        return reply.FromString(
            serialized(await self._run(method.handler(source, self._context(method))))
        )

    async def bidirectional(
        self, name: str, source: FakeMessageSource, reply: MessageType[M]
    ) -> list[M]:
        """Call a method with streams both ways."""
        method = self._methods[name]
        assert method.client_streaming
        assert method.server_streaming
        sink = FakeMessageSink()
        await self._run(method.handler(source, self._context(method), sink))
        return [reply.FromString(message) for message in sink.messages]

    def _context(self, method: Method) -> CallContext:
        return CallContext(method.path, self._metadata, Peer("127.0.0.1:1"))

    @staticmethod
    async def _run(handler: Awaitable[T]) -> T:
        coro = cast("Coroutine[Any, Any, T]", handler)
        begun = begin(coro, asyncio.get_running_loop())
        return begun[0] if isinstance(begun, tuple) else await begun
