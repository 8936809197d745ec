"""gRPC calls that are not answered at once: unary ones, and those that stream."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from nativelink.core.errors import Code, NativeLinkError, invalid_argument, resource_exhausted
from nativelink.core.rpc import CallContext, MessageSink, current_call
from nativelink.core.streams import Chunk
from nativelink.transport.environment import CallEnvironment
from nativelink.transport.exchanges import Exchange
from nativelink.transport.grpc import (
    MIN_GZIP_BYTES,
    PREFIX_BYTES,
    MessageReader,
    gzip_message,
    message_prefix,
    split_prefix,
)
from nativelink.transport.routing import GrpcPlan
from nativelink.transport.streams import Stream

__all__ = ["StreamingExchange", "UnaryExchange", "malformed"]

#: Enough for one message's share of what a turn costs to be small; the blob's bytes are not copied.
_BATCH_BYTES: Final = 1024 * 1024
#: Of tiny messages, a megabyte would be a million objects made, and sent, in one turn.
_BATCH_MESSAGES: Final = 256
_OVER: Final = "the call is over: its client went away, or its deadline has passed"


def _parsed_request(plan: GrpcPlan, message: Chunk) -> Any:
    """The request that a handler takes.

    Raises:
        NativeLinkError: INVALID_ARGUMENT.
    """
    try:
        return plan.parse(bytes(message))
    except Exception as error:
        raise malformed(plan, error) from error


def malformed(plan: GrpcPlan, error: Exception) -> NativeLinkError:
    """What a request that cannot be parsed is answered with."""
    return invalid_argument(f"malformed request of {plan.path}: {error}")


class _GrpcExchange(Exchange):
    """A gRPC call of either kind: deadline, status, incomplete messages."""

    def __init__(
        self,
        calls: CallEnvironment,
        stream: Stream,
        plan: GrpcPlan,
        context: CallContext | None = None,
    ) -> None:
        super().__init__(calls, stream, plan.path)
        self.plan = plan
        self._timer: asyncio.TimerHandle | None = None
        # Made when a request does not arrive in one piece.
        self._reader: MessageReader | None = None
        if context is None:
            timeout = plan.timeout_s
            context = CallContext(
                plan.path,
                plan.metadata,
                calls.peer,
                None if timeout is None else self._started + timeout,
            )
        self.context = context

    def follow(self, task: asyncio.Task[Any]) -> None:
        super().follow(task)
        self._watch_deadline()

    def fail(self, error: NativeLinkError) -> None:
        connection, stream, router = self.calls.connection, self.stream, self.calls.router
        metadata = self.context.trailing_metadata
        if stream.head_sent:
            connection.cut(stream)
            connection.finish(stream, router.trailers(error, metadata))
        else:
            connection.send_only(stream, router.error_head(error, metadata))
        self._conclude(error.code)

    def over(self) -> None:
        if not self.ended:
            self._conclude(Code.CANCELLED)

    def _conclude(self, code: Code) -> None:
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reader is not None:
            self.calls.held -= self._reader.held
            self._reader.drop()
        observer = self.calls.observer
        if observer is not None:
            observer.call_ended(self.plan.path, code, self.calls.monotonic() - self._started)

    def _watch_deadline(self) -> None:
        deadline = self.context.deadline
        if deadline is not None and self._timer is None and not self.ended:
            left = max(deadline - self.calls.monotonic(), 0.0)
            self._timer = self.calls.loop.call_later(left, self._on_deadline)

    def _on_deadline(self) -> None:
        self._timer = None
        if self.ended:
            return
        timeout = self.plan.timeout_s
        self.fail(
            NativeLinkError(Code.DEADLINE_EXCEEDED, f"the deadline of {timeout} s has passed")
        )
        self.abandon()
        self.calls.flush_soon()

    def _advance(self, chunks: list[bytes | memoryview | bytearray]) -> bool:
        """Read on in chunks, the last first, until a message is ready or none is left.

        Raises:
            NativeLinkError: what `MessageReader.advance` raises, and RESOURCE_EXHAUSTED when the
                connection's unfinished requests are too long together.
        """
        calls = self.calls
        reader = self._reader
        if reader is None:
            longest = max(calls.max_message, self.plan.method.min_message_bytes)
            reader = self._reader = MessageReader(longest, gzip=self.plan.gunzip)
        before = reader.held
        unread = reader.unread
        try:
            ready = reader.ready or (unread > 0 and reader.advance())
            while not ready and chunks:
                chunk = chunks.pop()
                unread += len(chunk)
                reader.feed(chunk)
                ready = reader.advance()
        finally:
            calls.held += reader.held - before
            if unread > reader.unread:
                calls.connection.credit(self.stream, unread - reader.unread)
        if calls.held > calls.max_held:
            raise resource_exhausted(
                f"incomplete requests of more than {calls.max_held} bytes on one connection"
            )
        return ready

    def _take(self) -> Chunk:
        """The message that is ready.

        Raises:
            NativeLinkError: what `MessageReader.take` raises.
        """
        reader = self._reader
        assert reader is not None
        self.calls.held -= reader.held
        return reader.take()

    def _whole_request(self) -> Any:
        """The request of a call whose client sends one; None while it is incomplete.

        Raises:
            NativeLinkError: INVALID_ARGUMENT and what `MessageReader` raises.
        """
        stream = self.stream
        inbox = stream.inbox
        if stream.ended and len(inbox) == 1 and self._reader is None:
            body = inbox[0]
            size = len(body) - PREFIX_BYTES
            if 0 <= size <= self.calls.max_message and split_prefix(body) == (0, size):
                # The usual case; its credit is given when the stream ends.
                return _parsed_request(self.plan, bytes(body[PREFIX_BYTES:]))
        stream.inbox = []
        chunks = inbox[::-1]
        ready = self._advance(chunks)
        reader = self._reader
        assert reader is not None
        if ready and (chunks or reader.unread):
            raise invalid_argument(f"{self.where} takes one request message, more were sent")
        if not stream.ended:
            stream.whole = True
            self._watch_deadline()
            return None
        reader.finish()
        if not ready:
            raise invalid_argument(f"{self.where} takes one request message, none was sent")
        return _parsed_request(self.plan, self._take())


class UnaryExchange(_GrpcExchange):
    """One request, one answer."""

    def on_news(self) -> None:
        if self.stream.reset is not None:
            self.abandon()
        elif self._task is None and not self.ended:
            try:
                request = self._whole_request()
            except NativeLinkError as error:
                self.fail(error)
                return
            if request is not None:
                current_call.set(self.context)
                self.run(self.plan.handler(request, self.context))

    def succeed(self, result: Any) -> None:
        self.calls.reply(self.stream, self.plan, self.context, result)
        self._conclude(Code.OK)


class StreamingExchange(_GrpcExchange):
    """A call that streams in one direction at least; it is its handler's source and sink."""

    def __init__(self, calls: CallEnvironment, stream: Stream, plan: GrpcPlan) -> None:
        super().__init__(calls, stream, plan)
        #: Taken from the inbox, last first.
        self._chunks: list[bytes | memoryview | bytearray] = []
        self._awaits_body: asyncio.Future[None] | None = None
        self._await_room: list[asyncio.Future[None]] = []
        self._began = False

    def on_news(self) -> None:
        if self.stream.reset is not None:
            self.abandon()
        elif self._awaits_body is not None and not self._awaits_body.done():
            # Put the message together before the reader is woken: that is not free.
            try:
                if self._pull():
                    self._awaits_body.set_result(None)
            except NativeLinkError as error:
                self._awaits_body.set_exception(error)
        elif self._began:
            # Its reader comes for it.
            return
        elif not self.ended:
            self.begin()

    def begin(self) -> None:
        """Start the handler, once its request is there if it takes only one."""
        method = self.plan.method
        request: Any = self
        if not method.client_streaming:
            try:
                request = self._whole_request()
            except NativeLinkError as error:
                self.fail(error)
                return
            if request is None:
                return
        self._began = True
        current_call.set(self.context)
        if method.server_streaming:
            self.run(self.plan.handler(request, self.context, self))
        else:
            self.run(self.plan.handler(request, self.context))

    def on_drained(self) -> None:
        waiters, self._await_room = self._await_room, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def read(self) -> Chunk | None:
        """The next request message (`core.rpc.MessageSource`)."""
        while not self._pull():
            self._awaits_body = self.calls.loop.create_future()
            try:
                await self._awaits_body
            finally:
                self._awaits_body = None
        reader = self._reader
        if reader is not None:
            if reader.ready:
                return self._take()
            reader.finish()
        return None

    def _pull(self) -> bool:
        """Take what arrived until a message is complete; False if there is more to wait for."""
        stream = self.stream
        while not self.ended:
            if not self._chunks:
                self._chunks, stream.inbox = stream.inbox[::-1], []
            ready = self._advance(self._chunks)
            # There may be credit to tell the peer of.
            self.calls.flush_soon()
            if ready:
                return True
            if not stream.inbox:
                return stream.ended
        raise NativeLinkError(Code.CANCELLED, _OVER)

    async def write(self, *parts: Chunk) -> None:
        """Send one answer message (`core.rpc.MessageSink`)."""
        size = sum(map(len, parts))
        flag = 0
        if self.plan.gzip and size >= MIN_GZIP_BYTES:
            parts = (gzip_message(b"".join(parts)),)
            size = len(parts[0])
            flag = 1
        await self._send([message_prefix(flag, size), *parts], size + PREFIX_BYTES)

    async def write_slices(self, head: bytes, data: memoryview, step: int) -> None:
        """Send many messages (`core.rpc.MessageSink`), some at a time."""
        if self.plan.gzip:
            await MessageSink.write_slices(self, head, data, step)
            return
        head = message_prefix(0, len(head) + step) + head
        batch = step * max(1, min(_BATCH_BYTES // step, _BATCH_MESSAGES))
        for first in range(0, len(data), batch):
            parts: list[Chunk] = []
            size = 0
            for start in range(first, min(first + batch, len(data)), step):
                parts += (head, data[start : start + step])
                size += len(head) + step
            await self._send(parts, size)

    async def _send(self, parts: list[Chunk], size: int) -> None:
        """Send a part of the body, and wait until it has gone to the socket or its buffer."""
        if self.ended:
            raise NativeLinkError(Code.CANCELLED, _OVER)
        calls, stream = self.calls, self.stream
        if not stream.head_sent:
            calls.connection.send_head(stream, self.plan.head)
        sent = calls.connection.send_data(stream, parts, size)
        calls.flush_soon()
        if not sent:
            room = calls.loop.create_future()
            self._await_room.append(room)
            await room
            if self.ended:
                raise NativeLinkError(Code.CANCELLED, _OVER)

    def succeed(self, result: Any) -> None:
        calls, stream = self.calls, self.stream
        if self.plan.method.server_streaming:
            if not stream.head_sent:
                calls.connection.send_head(stream, self.plan.head)
            calls.connection.finish(
                stream, calls.router.trailers(None, self.context.trailing_metadata)
            )
        else:
            calls.reply(stream, self.plan, self.context, result)
        self._conclude(Code.OK)
