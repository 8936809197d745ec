"""What the calls of one connection share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from nativelink.core.clock import Clock
from nativelink.core.errors import Code
from nativelink.core.rpc import CallContext, Peer, Reply
from nativelink.transport.grpc import MIN_GZIP_BYTES, gzip_message, message_prefix
from nativelink.transport.http2 import Http2Connection
from nativelink.transport.limits import MAX_HELD_REQUEST_MESSAGES
from nativelink.transport.routing import GrpcPlan, Router
from nativelink.transport.streams import Stream

__all__ = ["CallEnvironment", "CallObserver"]


class CallObserver(Protocol):
    """Told of every finished gRPC call (the metric `rpc.server.duration`)."""

    def call_ended(self, method_path: str, code: Code, seconds: float, count: int = 1, /) -> None:
        """`count` calls of one method have ended in the same way, each after `seconds`."""
        ...


class CallEnvironment:
    """What the calls of one connection share.

    Args:
        connection: the streams.
        router: what is served.
        peer: the other end.
        clock: for durations and deadlines.
        observer: see `CallObserver`.
        flush_soon: to be called when `connection.out` may have got something.

    Attributes:
        running: handlers that wait for something.
        held: bytes of requests that nobody works on yet, as their clients still send, and of the
            bodies of plain HTTP requests until they are answered.
    """

    def __init__(
        self,
        connection: Http2Connection,
        router: Router,
        peer: Peer,
        *,
        clock: Clock,
        observer: CallObserver | None,
        flush_soon: Callable[[], None],
    ) -> None:
        self.connection = connection
        self.router = router
        self.peer = peer
        self.flush_soon = flush_soon
        self.running: set[asyncio.Task[Any]] = set()
        self.held = 0
        self.max_message = connection.settings.max_message_bytes
        self.max_held = MAX_HELD_REQUEST_MESSAGES * self.max_message
        self.loop = asyncio.get_running_loop()
        self.monotonic = clock.monotonic
        self.observer = observer

    def reply(self, stream: Stream, plan: GrpcPlan, context: CallContext, reply: Reply) -> None:
        """Answer with one message and OK."""
        message = reply if isinstance(reply, bytes) else reply.SerializeToString()
        flag = 0
        if plan.gzip and len(message) >= MIN_GZIP_BYTES:
            message = gzip_message(message)
            flag = 1
        size = len(message)
        router = self.router
        metadata = context.trailing_metadata
        self.connection.respond(
            stream,
            plan.head,
            message_prefix(flag, size),
            message,
            router.trailers(None, metadata) if metadata else router.ok_trailers,
        )
