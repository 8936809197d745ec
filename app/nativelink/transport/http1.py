"""Plain HTTP/1.1 (h11) for the routes that are no gRPC: status, metrics, admin."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, cast

import h11

from nativelink.core.eager import begin
from nativelink.core.rpc import HttpRequest, HttpResponse, Peer
from nativelink.transport.http_exchange import http_error, http_fields
from nativelink.transport.status import error_of

if TYPE_CHECKING:
    from nativelink.transport.server import Server

__all__ = ["Http1Protocol"]

_MAX_REQUESTS: Final = 1000
_REQUEST_LINE: Final = re.compile(rb"[!-~]+ [!-~]+ HTTP/1\.[01]\r?\n")


class Http1Protocol(asyncio.Protocol):
    """Drives one `h11.Connection`: a request at a time.

    Pipelined requests wait until those before them are answered and the answers are on their way:
    one read of them at most in memory, the others with the peer.

    Header sections are limited to `http2_max_header_list_size`, bodies to
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
        self._draining = False
        self._served = 0
        #: When what is awaited from the peer now began, or last made progress.
        self._since = server.monotonic()
        #: Since when answers fill the socket's buffer, because the peer does not read them.
        self._blocked_at: float | None = None
        #: Since when only the rest of the last answer is to go out.
        self._closing_at: float | None = None

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
        self._advance()
        # A peer that waits in silence is still read from, so that a reset cancels its handler.
        if self._waits and self._http.trailing_data[0]:
            transport.pause_reading()

    def eof_received(self) -> bool:
        # A client may half-close and still read its answers; in TLS it cannot.
        self._http.receive_data(b"")
        self._advance()
        return self._waits and self._transport is not None and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self._blocked_at = self._server.monotonic()

    def resume_writing(self) -> None:
        self._blocked_at = None
        self._since = self._server.monotonic()
        self._advance()

    @property
    def _waits(self) -> bool:
        """Whether the next request must wait: for a handler, or for the peer to read."""
        return self._task is not None or self._blocked_at is not None

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
            elif isinstance(event, h11.Data):
                self._body_bytes += len(event.data)
                if self._body_bytes > self._server.settings.max_message_bytes:
                    self._answer(HttpResponse(413), close=True)
                    return
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                if not self._serve():
                    return
            else:
                self._hang_up()
                return

    def _serve(self) -> bool:
        """Answer a complete request; False if it must wait for its handler, or was the last."""
        request = self._request
        assert request is not None
        path, _, query = request.target.decode("latin-1").partition("?")
        route = self._server.router.route(path)
        self._served += 1
        if route is None:
            return self._answer(HttpResponse(404))
        handler = route.handler(
            HttpRequest(
                request.method.decode("latin-1"),
                path,
                query,
                [(bytes(name), bytes(value)) for name, value in request.headers],
                b"".join(self._body),
                self._peer,
            )
        )
        try:
            begun = begin(
                cast("Coroutine[Any, Any, HttpResponse]", handler), asyncio.get_running_loop()
            )
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - told to the client
            return self._answer(http_error(error_of(raised, path)))
        if isinstance(begun, tuple):
            return self._answer(begun[0])
        self._task = begun
        begun.add_done_callback(self._on_done)
        return False

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._task = None
        try:
            response = task.result()
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - told to the client
            if self._transport is None:
                return
            request = self._request
            response = http_error(
                error_of(raised, request.target.decode("latin-1") if request else "HTTP/1.1")
            )
        if self._transport is not None and self._answer(response):
            self._advance()

    def _answer(self, response: HttpResponse, *, close: bool = False) -> bool:
        """Send `response`; False if the connection closes, True if it awaits the next request."""
        http = self._http
        if self._transport is None or self._closing_at is not None:
            return False
        close = close or self._draining or self._served >= _MAX_REQUESTS
        if http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            fields = http_fields(response)
            if close:
                fields.append((b"connection", b"close"))
            self._send(h11.Response(status_code=response.status, headers=fields))
            if self._request is None or self._request.method != b"HEAD":
                self._send(h11.Data(data=response.body))
            self._send(h11.EndOfMessage())
        self._request = None
        if not close and http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
            self._since = self._server.monotonic()
            return True
        self._hang_up()
        return False

    def _hang_up(self) -> None:
        """Close once everything was sent; `tick` sees to it that this comes to an end."""
        if self._transport is not None and self._closing_at is None:
            self._closing_at = self._server.monotonic()
            self._transport.close()

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
        unread_since = self._blocked_at if self._closing_at is None else self._closing_at
        if unread_since is not None:
            since, limit = unread_since, settings.send_timeout_s
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
