"""A listener: its socket, its connections, and the clock that ticks for them."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, Protocol

from nativelink.core.clock import Clock, SystemClock
from nativelink.core.eager import begin
from nativelink.core.errors import invalid_argument
from nativelink.core.rpc import Method, Peer
from nativelink.transport.connection import Http2Protocol, OpeningProtocol
from nativelink.transport.environment import CallObserver
from nativelink.transport.routing import AnyHttpRoute, Router
from nativelink.transport.settings import ServerSettings, TlsSettings
from nativelink.transport.tls import TlsContexts, peer_identity

__all__ = ["Server", "ServerSettings", "Statistics", "TlsSettings", "check_address"]

_log = logging.getLogger(__name__)

_TICK_S: Final = 1.0
_AGE_JITTER: Final = 0.1
_IP_FREEBIND: Final = 15  # linux/in.h; the socket module has no name for it


class _Connection(Protocol):
    """What the server asks of each connection's protocol."""

    def tick(self, now: float) -> None: ...

    def drain(self, now: float) -> None: ...

    def close(self) -> None: ...

    @property
    def tasks(self) -> set[asyncio.Task[Any]]: ...


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a listener does now, and did so far.

    Attributes:
        connections: open ones.
        connections_total: accepted ones, those turned away not counted.
        connections_refused: beyond `max_connections`.
        calls: HTTP/2 streams open now.
        calls_total: gRPC calls and HTTP/2 requests begun on connections still open or closed.
        connections_ended: by HTTP/2 error code, connections that we ended for a violation.
        handshakes_failed: by what OpenSSL says, TLS handshakes that came to nothing.
        tls_expires: by configuration key, when the TLS files in use expire (`TlsContexts.expires`).
    """

    connections: int
    connections_total: int
    connections_refused: int
    calls: int
    calls_total: int
    connections_ended: dict[str, int]
    handshakes_failed: dict[str, int]
    tls_expires: dict[str, float]


class Server:
    """Serves gRPC methods and plain HTTP routes on one address.

    Args:
        methods: what gRPC serves.
        routes: what plain HTTP serves, on HTTP/1.1 and HTTP/2.
        settings: the listener's.
        tls: certificates, or None for plain text.
        observer: told of every finished gRPC call.
        clock: for durations, deadlines and time limits.
    """

    def __init__(
        self,
        methods: Iterable[Method],
        routes: Iterable[AnyHttpRoute] = (),
        *,
        settings: ServerSettings | None = None,
        tls: TlsSettings | None = None,
        observer: CallObserver | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings or ServerSettings()
        self.router = Router(methods, routes, self.settings)
        self.observer = observer
        self.clock: Clock = clock or SystemClock()
        self.monotonic = self.clock.monotonic
        self._tls = None if tls is None else TlsContexts(tls)
        self._socket: socket.socket | None = None
        self._address: tuple[str, int] | None = None
        self._server: asyncio.Server | None = None
        self._relistening: asyncio.Task[None] | None = None
        #: Whether the TLS files changed after the listener was made.
        self._outdated = False
        self._timer: asyncio.TimerHandle | None = None
        self._connections: set[_Connection] = set()
        self._emptied: asyncio.Event = asyncio.Event()
        self._accepted = 0
        self._refused = 0
        self._past_calls = 0
        self._ended: dict[str, int] = {}

    # -- life -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for an address or TLS files that cannot be used.
            OSError: the address cannot be bound.
        """
        if self._tls is not None:
            self._tls.load(self.monotonic())
        self._socket = _bound_socket(self.settings)
        name = self._socket.getsockname()
        self._address = (name[0], name[1])
        await self._listen()
        self._schedule_tick()

    async def _listen(self) -> None:
        """Accept on a duplicate of our socket, in the place of the listener before.

        TLS contexts are swapped by that. The one before goes when the new one stands: a swap that
        fails leaves it as it is. Connections under way do not belong to the listener.
        """
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        context = None if self._tls is None else self._tls.context
        timeout = self.settings.handshake_timeout_s or None
        sock = self._socket.dup()
        try:
            server = await loop.create_server(
                lambda: OpeningProtocol(self),
                sock=sock,
                backlog=self.settings.backlog,
                ssl=context,
                ssl_handshake_timeout=timeout if context is not None else None,
            )
        except BaseException:
            sock.close()
            raise
        before, self._server = self._server, server
        if before is not None:
            before.close()

    async def _relisten(self) -> None:
        """Listen with the TLS files as they are now; `tick` tries again if that fails."""
        again, self._outdated = self._outdated, False
        try:
            await self._listen()
        except OSError as error:
            self._outdated = True
            if not again:
                _log.error(
                    "cannot listen with the changed TLS files, the old ones stay for now: %s", error
                )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are, or were, bound."""
        if self._address is None:
            raise RuntimeError("the server was not started")
        return self._address

    async def drain(self, grace_s: float) -> bool:
        """Accept no more, let calls under way finish for `grace_s` seconds, then close.

        Returns:
            Whether all of them finished by themselves.
        """
        finished = True
        await self._stop_listening()
        now = self.monotonic()
        for connection in list(self._connections):
            connection.drain(now)
        if self._connections:
            self._emptied.clear()
            try:
                async with asyncio.timeout(grace_s):
                    await self._emptied.wait()
            except TimeoutError:
                finished = False
                _log.warning(
                    "%d connections did not finish within %g s", len(self._connections), grace_s
                )
        await self.close()
        return finished

    async def close(self) -> None:
        """Close at once: handlers under way are cancelled and awaited."""
        await self._stop_listening()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tasks: set[asyncio.Task[Any]] = set()
        for connection in list(self._connections):
            tasks |= connection.tasks
            connection.close()
        if tasks:
            await asyncio.wait(tasks)
        if self._connections:
            self._emptied.clear()
            await self._emptied.wait()

    async def _stop_listening(self) -> None:
        if self._relistening is not None:
            # It would listen again.
            await asyncio.wait((self._relistening,))
            self._relistening = None
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # -- time -------------------------------------------------------------------------------

    def _schedule_tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        self._schedule_tick()
        self.tick()

    def tick(self) -> None:
        """Enforce time limits; called about once a second, by tests whenever they like."""
        now = self.monotonic()
        for connection in list(self._connections):
            connection.tick(now)
        if self._tls is None:
            return
        self._tls.failed.tell(now)
        under_way = self._relistening is not None and not self._relistening.done()
        if self._server is None or under_way:
            return
        if self._tls.changed(now) or self._outdated:
            begun = begin(self._relisten(), asyncio.get_running_loop())
            self._relistening = begun if isinstance(begun, asyncio.Task) else None

    def jittered_age(self) -> float:
        """One connection's `max_connection_age_s`, so that not all of them go at once."""
        age = self.settings.max_connection_age_s
        return age * (1 + random.uniform(-_AGE_JITTER, _AGE_JITTER)) if age else 0.0

    # -- connections ------------------------------------------------------------------------

    def admit(self, connection: _Connection) -> bool:
        """Whether one more connection is taken."""
        if len(self._connections) >= self.settings.max_connections:
            self._refused += 1
            return False
        self._accepted += 1
        self._connections.add(connection)
        return True

    def exchange(self, before: _Connection, after: _Connection) -> None:
        """A connection found out which protocol it speaks."""
        self._connections.discard(before)
        self._connections.add(after)

    def forget(self, connection: _Connection) -> None:
        """A connection is closed."""
        self._connections.discard(connection)
        if isinstance(connection, Http2Protocol):
            self._past_calls += connection.connection.opened
            error = connection.connection.error
            if error is not None:
                name = error.code.name
                self._ended[name] = self._ended.get(name, 0) + 1
        if not self._connections:
            self._emptied.set()

    def peer_of(self, transport: asyncio.Transport) -> Peer:
        """Who is at the other end."""
        name = transport.get_extra_info("peername")
        address = str(name or "")
        if isinstance(name, tuple):
            host, port = name[0], name[1]
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        subject, sans = peer_identity(transport.get_extra_info("ssl_object"))
        return Peer(address, subject, sans)

    def statistics(self) -> Statistics:
        """Now and so far."""
        machines = [
            item.connection for item in self._connections if isinstance(item, Http2Protocol)
        ]
        return Statistics(
            connections=len(self._connections),
            connections_total=self._accepted,
            connections_refused=self._refused,
            calls=sum(len(item.streams) for item in machines),
            calls_total=self._past_calls + sum(item.opened for item in machines),
            connections_ended=dict(self._ended),
            handshakes_failed={} if self._tls is None else dict(self._tls.failed.counts),
            tls_expires={} if self._tls is None else dict(self._tls.expires),
        )


def check_address(settings: ServerSettings) -> None:
    """Look whether a server could start there now; nothing listens afterwards.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for an address that is none.
        OSError: the address cannot be bound.
    """
    _bound_socket(settings).close()


def _bound_socket(settings: ServerSettings) -> socket.socket:
    host, _, port = settings.address.rpartition(":")
    host = host.strip("[]") or "0.0.0.0"  # noqa: S104 - `:port` says so
    try:
        version = ip_address(host).version if port.isascii() and port.isdigit() else 0
    except ValueError:
        version = 0
    if not version or int(port) > 65535:
        raise invalid_argument(
            f"socket_address {settings.address!r}: ip:port is expected, such as 0.0.0.0:50051"
        )
    sock = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.freebind:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.setblocking(False)
        sock.bind((host, int(port)))
    except BaseException:
        sock.close()
        raise
    return sock
