"""The asyncio side of one connection: bytes between a transport and the protocol machines.

Everything that one turn of the event loop gives to be written is written at once: what `receive`
and the handlers it started produced goes out when they are through, what a task produced later
waits for the end of that turn.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any, Final, cast

from nativelink.core.rpc import Peer
from nativelink.transport.calls import Calls
from nativelink.transport.frames import PREFACE
from nativelink.transport.http1 import Http1Protocol
from nativelink.transport.http2 import Http2Connection

if TYPE_CHECKING:
    from nativelink.transport.server import Server
    from nativelink.transport.streams import Stream

_log = logging.getLogger(__name__)

__all__ = ["Http2Protocol", "OpeningProtocol"]

#: From here on a list of buffers goes to the kernel as it is; below, one joined buffer is cheaper.
_JOIN_BYTES: Final = 64 * 1024
#: How long a connection that we ended may take to read why, before it is closed.
_LINGER_S: Final = 1.0


class OpeningProtocol(asyncio.Protocol):
    """A connection before it is known which protocol it speaks.

    TLS clients say so by ALPN; plain ones, and those without ALPN, by their first octets: HTTP/2
    begins with its preface (RFC 9113 section 3.3), which is no HTTP/1.1 request.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._seen = b""
        self._since = server.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._server.admit(self):
            self._transport.abort()
            return
        if self._alpn() == "h2":
            self._become_http2()

    def _alpn(self) -> str | None:
        assert self._transport is not None
        ssl_object = self._transport.get_extra_info("ssl_object")
        return (
            None if ssl_object is None else cast("str | None", ssl_object.selected_alpn_protocol())
        )

    def data_received(self, data: bytes) -> None:
        seen = self._seen = self._seen + data
        count = min(len(seen), len(PREFACE))
        if self._alpn() == "http/1.1" or seen[:count] != PREFACE[:count]:
            assert self._transport is not None
            successor = Http1Protocol(self._server, self._server.peer_of(self._transport))
            self._succeed(successor)
            successor.greet(seen)
        elif count == len(PREFACE):
            self._become_http2().data_received(seen)

    def _become_http2(self) -> Http2Protocol:
        assert self._transport is not None
        successor = Http2Protocol(self._server, self._server.peer_of(self._transport))
        self._succeed(successor)
        return successor

    def _succeed(self, successor: Http2Protocol | Http1Protocol) -> None:
        assert self._transport is not None
        self._transport.set_protocol(successor)
        self._server.exchange(self, successor)
        successor.connection_made(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._server.forget(self)

    def tick(self, now: float) -> None:
        """Close a connection that says nothing."""
        limit = self._server.settings.header_timeout_s
        if limit and now - self._since > limit and self._transport is not None:
            self._transport.abort()

    def drain(self, now: float) -> None:  # noqa: ARG002 - nothing is under way
        """Nothing is under way here."""
        self.close()

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """Handlers under way."""
        return set()


class Http2Protocol(asyncio.Protocol):
    """Drives one `Http2Connection`."""

    def __init__(self, server: Server, peer: Peer) -> None:
        self._server = server
        self._monotonic = server.monotonic
        self._born = server.monotonic()
        self._age_limit = server.jittered_age()
        self.connection = Http2Connection(server.settings, self._born)
        self.calls = Calls(
            self.connection,
            server.router,
            peer,
            clock=server.clock,
            observer=server.observer,
            flush_soon=self._flush_soon,
        )
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._flushing = False
        self._join_bytes = _JOIN_BYTES
        self._ended_at: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        limit = self._server.settings.http2_max_send_buf_size
        self._transport.set_write_buffer_limits(high=limit, low=limit // 2)
        is_tls = transport.get_extra_info("ssl_object") is not None
        if is_tls or not type(transport).__module__.startswith("uvloop"):
            # With TLS each buffer becomes a record of its own, which costs more than copying it.
            # And plain asyncio's `writelines` of CPython 3.12 and 3.13 never pauses its protocol.
            self._join_bytes = sys.maxsize
        self._flush()

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        news = connection.receive(data, self._monotonic())
        if news:
            # Nothing that a handler does now needs a flush of its own.
            self._flushing = True
            self.calls.handle(news)
            self._flushing = False
        self._flush()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_later)

    def _flush_later(self) -> None:
        self._flushing = False
        self._flush()

    def _flush(self) -> None:
        connection = self.connection
        # A reset may let the backlog go on without giving anything to be written.
        while connection.out or connection.drained or self.calls.resumable:
            if connection.out:
                self._write()
            connection.pump()
            drained, connection.drained = connection.drained, []
            for stream in drained:
                stream.call.on_drained()
            self._flushing = True
            self.calls.resume()
            self._flushing = False
        if connection.done and self._ended_at is None:
            self._hang_up()

    def _write(self) -> None:
        connection, transport = self.connection, self._transport
        large = connection.out_bytes > self._join_bytes
        out = connection.take_output()
        if transport is None or transport.is_closing():
            return
        if large:
            transport.writelines(out)
        elif out:
            transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _hang_up(self) -> None:
        """Close, but let the peer read first why: closing with unread input resets TCP."""
        transport = self._transport
        if transport is None:
            return
        self._ended_at = self._monotonic()
        error = self.connection.error
        if error is not None:
            _log.warning(
                "connection from %s ended with %s: %s",
                self.calls.peer.address,
                error.code.name,
                error.reason,
            )
        self._take_leave(self.connection.abandon())
        if error is None or self.connection.dead or not transport.can_write_eof():
            transport.close()
        else:
            transport.write_eof()

    def _take_leave(self, streams: list[Stream]) -> None:
        for stream in streams:
            if stream.call is not None:
                stream.call.on_news()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.connection.set_writable(False, self._monotonic())

    def resume_writing(self) -> None:
        self.connection.set_writable(True, self._monotonic())
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._transport = None
        self._take_leave(self.connection.abandon())
        self._server.forget(self)

    def tick(self, now: float) -> None:
        """Let time pass (about once a second)."""
        if self._ended_at is not None:
            # After a violation the peer need only learn why; else the last answers are to arrive.
            orderly = self.connection.error is None
            limit = self._server.settings.send_timeout_s if orderly else _LINGER_S
            if limit and now - self._ended_at > limit and self._transport is not None:
                self._transport.abort()
            return
        age = now - self._born
        grace = self._server.settings.max_connection_age_grace_s
        if self._age_limit and age > self._age_limit:
            self.connection.drain(now)
            if grace and age > self._age_limit + grace:
                self.close()
                return
        news = self.connection.tick(now)
        self._flushing = True
        self.calls.handle(news)
        self._flushing = False
        if self.connection.dead and self._transport is not None:
            self._transport.abort()
        else:
            self._flush()

    def drain(self, now: float) -> None:
        """Let the calls under way finish, take no more, then close."""
        self.connection.drain(now)
        self._flush()

    def close(self) -> None:
        """Close at once; what is under way is cancelled."""
        self.calls.cancel()
        if self._transport is not None:
            self._transport.abort()

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """Handlers under way."""
        return self.calls.running
