"""Plain HTTP requests over HTTP/2, and their answers over either version."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.rpc import (
    HttpRequest,
    HttpResponse,
    HttpRoute,
    HttpStreamHandler,
    HttpStreamRoute,
)
from nativelink.core.streams import Chunk
from nativelink.transport.environment import CallEnvironment
from nativelink.transport.exchanges import Exchange
from nativelink.transport.fields import Field
from nativelink.transport.flow import header_block
from nativelink.transport.frames import ErrorCode
from nativelink.transport.routing import HttpPlan
from nativelink.transport.status import http_status_of
from nativelink.transport.streams import Stream

__all__ = [
    "HttpExchange",
    "HttpStreamExchange",
    "http_error",
    "http_exchange",
    "http_fields",
    "incomplete",
]


#: Of the body of a request that was refused: it is on its way already, as a rule.
_LINGER_BYTES: Final = 256 * 1024
#: Seconds that it may take.
_LINGER_S: Final = 1.0
_NO_CONTENT: Final = 204
#: Beside it, Not Modified.
_BODILESS: Final = frozenset({_NO_CONTENT, 304})


def http_exchange(calls: CallEnvironment, stream: Stream, plan: HttpPlan) -> None:
    """Begin to serve a plain HTTP request over HTTP/2."""
    route = plan.route
    if isinstance(route, HttpStreamRoute):
        HttpStreamExchange(calls, stream, plan, route.handler).start()
    else:
        HttpExchange(calls, stream, plan, route).on_news()


class _HttpExchange(Exchange):
    """A plain HTTP request of either kind."""

    def __init__(self, calls: CallEnvironment, stream: Stream, plan: HttpPlan) -> None:
        super().__init__(calls, stream, plan.path)
        self._plan = plan

    def _request(self, body: bytes) -> HttpRequest:
        head = self.stream.head
        return HttpRequest(
            head.method.decode("latin-1"),
            self._plan.path,
            self._plan.query,
            ((b"host", head.authority), *head.fields) if head.authority else head.fields,
            body,
            self.calls.peer,
        )

    def succeed(self, result: Any) -> None:
        self._answer(result)

    def fail(self, error: NativeLinkError) -> None:
        self._answer(http_error(error))

    def _answer(self, response: HttpResponse) -> None:
        connection, stream = self.calls.connection, self.stream
        block = header_block(
            [(b":status", b"%d" % response.status), *http_fields(response, len(response.body))],
        )
        connection.send_head(stream, block)
        if response.body and stream.head.method != b"HEAD":
            connection.send_data(stream, [response.body], len(response.body))
        connection.finish(stream, None)
        self.over()


class HttpExchange(_HttpExchange):
    """A request whose body is taken whole."""

    def __init__(
        self, calls: CallEnvironment, stream: Stream, plan: HttpPlan, route: HttpRoute
    ) -> None:
        super().__init__(calls, stream, plan)
        self._route = route
        self._body: list[bytes] = []
        self._held = 0

    def on_news(self) -> None:
        stream = self.stream
        if stream.reset is not None:
            self.abandon()
            return
        if self._task is not None or self.ended:
            return
        calls = self.calls
        inbox, stream.inbox = stream.inbox, []
        for chunk in inbox:
            self._body.append(bytes(chunk))
            self._held += len(chunk)
            calls.held += len(chunk)
            calls.connection.credit(stream, len(chunk))
        if stream.received > calls.max_message or calls.held > calls.max_held:
            self._answer(HttpResponse(413))
        elif not stream.ended:
            stream.whole = True
        else:
            self.run(self._route.handler(self._request(b"".join(self._body))))

    def over(self) -> None:
        super().over()
        self.calls.held -= self._held
        self._held = 0
        self._body.clear()


class HttpStreamExchange(_HttpExchange):
    """A request whose body, and whose answer's, are streamed; its handler's source and sink."""

    def __init__(
        self,
        calls: CallEnvironment,
        stream: Stream,
        plan: HttpPlan,
        handler: HttpStreamHandler,
    ) -> None:
        super().__init__(calls, stream, plan)
        #: `Source`: what the request's Content-Length says.
        self.size = stream.head.content_length
        self._handler = handler
        self._awaits_body: asyncio.Future[None] | None = None
        self._awaits_room: asyncio.Future[None] | None = None
        #: Bytes that the answer still lacks; None where its length was not said.
        self._lacks: int | None = None

    def start(self) -> None:
        """Start the handler."""
        if self.stream.ended and self.size is None:
            self.size = sum(map(len, self.stream.inbox))
        self.run(self._served())

    async def _served(self) -> HttpResponse | None:
        """What the handler answers, once the client has sent what little it still sends.

        Whoever answers earlier must end the stream with a reset (RFC 9113 section 8.1), and some
        clients then report that instead of the answer (curl of Debian 12).
        """
        try:
            response = await self._handler(self._request(b""), self, self)
        except NativeLinkError:
            if not self.stream.head_sent:
                await self._linger()
            raise
        if response is not None:
            await self._linger()
        return response

    async def _linger(self) -> None:
        """Drop the rest of a body that has no more than `_LINGER_BYTES`."""
        if any(name == b"expect" for name, _ in self.stream.head.fields):
            return
        left = _LINGER_BYTES
        if self.size is not None and self.size > left:
            return
        try:
            async with asyncio.timeout(_LINGER_S):
                while left > 0 and (chunk := await self.read()):
                    left -= len(chunk)
        except (NativeLinkError, TimeoutError):
            # It went away, or sends nothing.
            return

    def on_news(self) -> None:
        if self.stream.reset is not None:
            self.abandon()
        elif self._awaits_body is not None and not self._awaits_body.done():
            self._awaits_body.set_result(None)

    def on_drained(self) -> None:
        if self._awaits_room is not None and not self._awaits_room.done():
            self._awaits_room.set_result(None)

    async def read(self) -> Chunk:
        """What arrived of the request's body (`Source`)."""
        stream = self.stream
        while not stream.inbox:
            if self.ended or stream.reset is not None:
                raise _gone()
            if stream.ended:
                return b""
            # A client that stalls is sent away after `body_timeout_s`.
            stream.whole = True
            stream.active_at = self.calls.monotonic()
            self._awaits_body = self.calls.loop.create_future()
            try:
                await self._awaits_body
            finally:
                self._awaits_body = None
                stream.whole = False
        inbox, stream.inbox = stream.inbox, []
        # Frames are of 16 KiB as a rule, and each step of a store costs more than joining them.
        data = inbox[0] if len(inbox) == 1 else b"".join(inbox)
        self.calls.connection.credit(stream, len(data))
        self.calls.flush_soon()
        return bytes(data) if isinstance(data, bytearray) else data

    def begin(self, response: HttpResponse, length: int | None) -> None:
        """Send the head of the answer (`HttpSink`)."""
        if self.ended:
            raise _gone()
        fields = [(b":status", b"%d" % response.status), *http_fields(response, length)]
        self.calls.connection.send_head(self.stream, header_block(fields))
        # Some answers have no body, whatever length they tell (RFC 9110 section 8.6).
        has_body = not self._is_head and response.status not in _BODILESS
        self._lacks = length if has_body else None

    @property
    def _is_head(self) -> bool:
        return self.stream.head.method == b"HEAD"

    async def write(self, chunk: Chunk, /) -> None:
        """Send a piece of the answer's body (`Sink`)."""
        if self.ended:
            raise _gone()
        if self._is_head:
            return
        calls = self.calls
        size = len(chunk)
        if self._lacks is not None:
            self._lacks -= size
            if self._lacks < 0:
                raise incomplete(-self._lacks, "more")
        sent = calls.connection.send_data(self.stream, [chunk], size)
        calls.flush_soon()
        if not sent:
            self._awaits_room = calls.loop.create_future()
            try:
                await self._awaits_room
            finally:
                self._awaits_room = None
            if self.ended:
                raise _gone()

    def succeed(self, result: Any) -> None:
        if result is not None:
            self._answer(cast("HttpResponse", result))
        elif not self.stream.head_sent:
            raise TypeError(f"the handler of {self.where} gave no answer")
        elif self._lacks:
            self.fail(incomplete(self._lacks, "fewer"))
        else:
            self.calls.connection.finish(self.stream, None)
            self.over()

    def fail(self, error: NativeLinkError) -> None:
        if self.stream.head_sent:
            # Of the codes, the one that does not count against the peer: it did nothing wrong.
            self.calls.connection.reset(self.stream, ErrorCode.CANCEL)
            self.over()
        else:
            super().fail(error)


def _gone() -> NativeLinkError:
    return NativeLinkError(Code.CANCELLED, "the request is over: its client went away")


def incomplete(size: int, relation: str) -> NativeLinkError:
    """What ends an answer whose body is not as long as its head says."""
    return NativeLinkError(Code.DATA_LOSS, f"{size} bytes {relation} than announced")


def http_error(error: NativeLinkError) -> HttpResponse:
    """The plain HTTP answer that reports `error`."""
    return HttpResponse(http_status_of(error.code), f"{error.message}\n".encode())


def http_fields(response: HttpResponse, length: int | None) -> list[Field]:
    """The header fields of a plain HTTP answer whose body has `length` bytes."""
    fields = [(b"content-type", response.content_type.encode("latin-1"))]
    # Which must not tell a length, not even that of nothing (RFC 9110 section 8.6).
    if length is not None and response.status != _NO_CONTENT:
        fields.append((b"content-length", b"%d" % length))
    fields += [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers.items()
    ]
    return fields
