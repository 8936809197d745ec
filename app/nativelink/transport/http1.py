"""Plain HTTP/1.1 (h11) for the routes that are no gRPC: status, metrics, admin, the HTTP cache."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any, Final, cast

import h11

from nativelink.core.eager import begin
from nativelink.core.rpc import HttpRequest, HttpResponse, HttpRoute, HttpStreamRoute, Peer
from nativelink.transport.http1_stream import Http1Stream, response_head
from nativelink.transport.http_exchange import http_error, http_fields
from nativelink.transport.status import error_of

if TYPE_CHECKING:
    from nativelink.transport.server import Server

__all__ = ["Http1Protocol"]

_MAX_REQUESTS: Final = 1000
#: How long a client that was refused may go on sending its body, so that it reads the refusal:
#: closing with unread input resets TCP, and the answer with it (nginx `lingering_timeout` 5 s).
_LINGER_S: Final = 5.0
_MAX_SHOWN_PATH: Final = 200
#: Pieces of a body that is not streamed: each chunk is one, and takes h11 some 20 us. Beyond so
#: many, each must hold so many bytes on average.
_FREE_PIECES: Final = 500
_MEAN_PIECE_BYTES: Final = 256
_REQUEST_LINE: Final = re.compile(rb"[!-~]+ [!-~]+ HTTP/1\.[01]\r?\n")


class Http1Protocol(asyncio.Protocol):
    """Drives one `h11.Connection`: a request at a time.

    Pipelined requests wait until those before them are answered and the answers are on their way:
    one read of them at most in memory, the others with the peer.

    Header sections are limited to `http2_max_header_list_size`, bodies that are not streamed to
    `max_decoding_message_size`; a request must arrive within `header_timeout_s`, or keep
    progressing within `body_timeout_s`; answers must be read within `send_timeout_s`.
    """

    def __init__(self, server: Server, peer: Peer) -> None:
        self._server = server
        self._peer = peer
        self._http = h11.Connection(
            h11.SERVER, max_incomplete_event_size=server.settings.http2_max_header_list_size
        )
        self._transport: asyncio.Transport | None = None
        self._request: h11.Request | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._task: asyncio.Task[Any] | None = None
        #: The request under way, if its bodies are streamed.
        self._stream: Http1Stream | None = None
        self._draining = False
        self._served = 0
        #: When what is awaited from the peer now began, or last made progress.
        self._since = server.monotonic()
        #: Since when answers fill the socket's buffer, because the peer does not read them.
        self._blocked_at: float | None = None
        #: Since when only the rest of the last answer is to go out.
        self._closing_at: float | None = None
        #: Whether what the client still sends is read and dropped meanwhile.
        self._lingers = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def greet(self, data: bytes) -> None:
        """Take the first octets; what does not speak HTTP gets no HTTP answer."""
        assert self._transport is not None
        line, newline, _ = data.partition(b"\n")
        if newline and not _REQUEST_LINE.fullmatch(line + newline):
            self._hang_up()
            return
        self.data_received(data)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or self._closing_at is not None:
            return
        if self._request is not None:
            self._since = self._server.monotonic()
        self._http.receive_data(data)
        if self._stream is not None:
            self._stream.on_data()
            return
        self._advance()
        # A peer that waits in silence is still read from, so that a reset cancels its handler.
        if self._ignores_input and self._http.trailing_data[0]:
            transport.pause_reading()

    def eof_received(self) -> bool:
        # A client may half-close and still read its answers; in TLS it cannot.
        if self._closing_at is not None:
            return False
        self._http.receive_data(b"")
        if self._stream is not None:
            self._stream.on_data()
        else:
            self._advance()
        return self._waits and self._transport is not None and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self._blocked_at = self._server.monotonic()

    def resume_writing(self) -> None:
        self._blocked_at = None
        self._since = self._server.monotonic()
        if self._stream is not None:
            self._stream.on_room()
        else:
            self._advance()

    @property
    def _waits(self) -> bool:
        """Whether the next request must wait: for a handler, or for the peer to read."""
        return self._task is not None or self._blocked_at is not None

    @property
    def _ignores_input(self) -> bool:
        """Whether nobody takes what the peer sends now, neither as a request nor as a body."""
        return self._waits and self._stream is None

    def _advance(self) -> None:
        """Handle what h11 has, until something must be waited for."""
        transport = self._transport
        if transport is None or self._closing_at is not None:
            return
        while not self._waits:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._answer(HttpResponse(error.error_status_hint), close=True)
                return
            if event is h11.NEED_DATA:
                transport.resume_reading()
                if self._http.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[]))
                return
            if isinstance(event, h11.Request):
                self._request = event
                self._body = []
                self._body_bytes = 0
                self._since = self._server.monotonic()
                if _is_ambiguous(event):
                    self._answer(HttpResponse(400, b"two lengths of one body\n"), close=True)
                    return
                path, _, query = event.target.decode("latin-1").partition("?")
                route = self._server.router.route(path)
                if route is None:
                    # Whatever it sends: nobody waits for the body of what goes nowhere.
                    self._served += 1
                    if not self._answer(_nowhere(path)):
                        return
                elif isinstance(route, HttpStreamRoute) and not self._serve_stream(
                    route, path, query
                ):
                    return
            elif isinstance(event, h11.Data):
                self._body_bytes += len(event.data)
                self._body.append(bytes(event.data))
                if self._is_too_much():
                    self._answer(HttpResponse(413), close=True)
                    return
            elif isinstance(event, h11.EndOfMessage):
                if not self._serve():
                    return
            else:
                self._hang_up()
                return

    def _is_too_much(self) -> bool:
        """Whether a body that is not streamed is too long, or cut into too many pieces."""
        pieces, size = len(self._body), self._body_bytes
        return size > self._server.settings.max_message_bytes or (
            pieces > _FREE_PIECES and size < pieces * _MEAN_PIECE_BYTES
        )

    def _serve(self) -> bool:
        """Answer a complete request; False if it must wait for its handler, or was the last."""
        request = self._request
        assert request is not None
        path, _, query = request.target.decode("latin-1").partition("?")
        route = self._server.router.route(path)
        self._served += 1
        assert isinstance(route, HttpRoute)
        body, self._body = b"".join(self._body), []
        return self._run(route.handler(self._http_request(request, path, query, body)), path)

    def _serve_stream(self, route: HttpStreamRoute, path: str, query: str) -> bool:
        """Begin a request whose bodies are streamed; the result is that of `_serve`."""
        transport, request = self._transport, self._request
        assert transport is not None
        assert request is not None
        self._served += 1
        stream = self._stream = Http1Stream(
            self._http,
            transport,
            request,
            monotonic=self._server.monotonic,
            closes=lambda: self._draining or self._served >= _MAX_REQUESTS,
            blocked=lambda: self._blocked_at is not None,
        )
        handler = route.handler(self._http_request(request, path, query, b""), stream, stream)
        return self._run(handler, path)

    def _http_request(
        self, request: h11.Request, path: str, query: str, body: bytes
    ) -> HttpRequest:
        return HttpRequest(
            request.method.decode("latin-1"),
            path,
            query,
            [(bytes(name), bytes(value)) for name, value in request.headers],
            body,
            self._peer,
        )

    def _run(self, handler: Awaitable[HttpResponse | None], path: str) -> bool:
        """Start a handler; False if it must be waited for, or if the connection closes."""
        try:
            begun = begin(
                cast("Coroutine[Any, Any, HttpResponse | None]", handler),
                asyncio.get_running_loop(),
            )
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - told to the client
            return self._fail(raised, path)
        if isinstance(begun, tuple):
            return self._succeed(begun[0])
        self._task = begun
        begun.add_done_callback(self._on_done)
        return False

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._task = None
        if self._transport is None:
            self._stream = None
            if not task.cancelled():
                # Retrieved: nobody waits for it.
                task.exception()
            return
        try:
            response = task.result()
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - told to the client
            request = self._request
            goes_on = self._fail(
                raised, request.target.decode("latin-1") if request else "HTTP/1.1"
            )
        else:
            goes_on = self._succeed(response)
        if goes_on:
            self._advance()

    def _succeed(self, response: HttpResponse | None) -> bool:
        """The handler returned; whether the connection awaits the next request."""
        stream, self._stream = self._stream, None
        if stream is None or response is not None:
            assert response is not None
            return self._answer(response)
        try:
            stream.finish()
        except h11.LocalProtocolError as error:
            # Too little was written, or nothing.
            return self._fail(error, stream.where)
        return self._next()

    def _fail(self, raised: BaseException, path: str) -> bool:
        """The handler raised; whether the connection awaits the next request."""
        self._stream = None
        error = error_of(raised, path)
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            return self._answer(http_error(error))
        # The answer has begun: what is left to say is that it will not be whole.
        if self._transport is not None:
            self._transport.abort()
        return False

    def _answer(self, response: HttpResponse, *, close: bool = False) -> bool:
        """Send `response`; False if the connection closes, True if it awaits the next request."""
        http = self._http
        if self._transport is None or self._closing_at is not None:
            return False
        close = close or self._draining or self._served >= _MAX_REQUESTS
        unread = self._unread()
        close = close or unread
        if http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            fields = http_fields(response, len(response.body))
            if close:
                fields.append((b"connection", b"close"))
            self._send(response_head(response.status, fields))
            if self._request is None or self._request.method != b"HEAD":
                self._send(h11.Data(data=response.body))
            self._send(h11.EndOfMessage())
        return self._next(close=close, unread=unread)

    def _unread(self) -> bool:
        """Whether the client still sends a body that nobody reads; what is here is dropped."""
        http = self._http
        try:
            for _ in range(_FREE_PIECES):
                if http.their_state is not h11.SEND_BODY:
                    return False
                if http.next_event() is h11.NEED_DATA:
                    return True
        except h11.RemoteProtocolError:
            pass
        return True

    def _next(self, *, close: bool = False, unread: bool = False) -> bool:
        """Behind an answer: whether the connection awaits the next request."""
        http = self._http
        self._request = None
        unread = unread or self._unread()
        if not (close or unread) and http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
            self._since = self._server.monotonic()
            return True
        self._hang_up(linger=unread)
        return False

    def _hang_up(self, *, linger: bool = False) -> None:
        """Close once everything was sent; `tick` sees to it that this comes to an end.

        Args:
            linger: the client still sends; let it read first what it was answered.
        """
        transport = self._transport
        if transport is not None and self._closing_at is None:
            self._closing_at = self._server.monotonic()
            if linger and transport.can_write_eof():
                self._lingers = True
                transport.write_eof()
                transport.resume_reading()
            else:
                transport.close()

    def _send(self, event: h11.Event) -> None:
        assert self._transport is not None
        data = self._http.send(event)
        if data:
            self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._transport = None
        if self._task is not None:
            self._task.cancel()
        self._server.forget(self)

    def tick(self, now: float) -> None:
        """Close what is overdue."""
        transport, settings = self._transport, self._server.settings
        if transport is None:
            return
        if self._lingers and self._closing_at is not None:
            if now - self._closing_at > _LINGER_S:
                transport.abort()
            return
        unread_since = self._blocked_at if self._closing_at is None else self._closing_at
        if unread_since is not None:
            since, limit = unread_since, settings.send_timeout_s
        elif self._stream is not None and self._stream.waits_since is not None:
            since, limit = self._stream.waits_since, settings.body_timeout_s
        elif self._task is not None:
            return
        elif self._request is None:
            since, limit = self._since, settings.header_timeout_s
        else:
            since, limit = self._since, settings.body_timeout_s
        if limit and now - since > limit:
            transport.abort()

    def drain(self, now: float) -> None:  # noqa: ARG002 - no time limit of its own
        """Answer what is under way, then close."""
        self._draining = True
        if self._task is None:
            self._hang_up()

    def close(self) -> None:
        """Close at once; what is under way is cancelled."""
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """Handlers under way."""
        return set() if self._task is None else {self._task}


def _nowhere(path: str) -> HttpResponse:
    shown = path[:_MAX_SHOWN_PATH].encode("ascii", "replace").decode()
    return HttpResponse(404, f"No route for {shown}; / says what there is\n".encode())


def _is_ambiguous(request: h11.Request) -> bool:
    """Whether a proxy in front may have seen another end of the body than we (RFC 9112, 6.1)."""
    names = {bytes(name) for name, _ in request.headers}
    return b"transfer-encoding" in names and b"content-length" in names
