"""The connections of an outgoing channel, and who may use them when.

A call takes the connection with the fewest calls in flight, of an endpoint that is not known to be
down if there is one. Calls beyond the limits wait in the order they came. Nothing here is timed:
grpcio goes on connecting to a server that is down, and one that is back is used again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio

from nativelink.core.errors import NativeLinkError, unavailable
from nativelink.transport.endpoints import ClientTls, Endpoint, channel_options, credentials_of

__all__ = ["Connection", "Pool", "PoolRecorder"]

_READY = grpc.ChannelConnectivity.READY
_FAILURE = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN


class PoolRecorder(Protocol):
    """Counts what happens to a pool of connections."""

    def acquired(self, *, queued: bool, idle: int) -> None:
        """A call got a connection; `idle` connections carried no call then."""
        ...

    def reconnected(self) -> None:
        """A connection that a call had found broken was found open again."""
        ...


class _Server:
    """An endpoint with what all its connections share."""

    __slots__ = ("endpoint", "failed", "in_flight")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.in_flight = 0
        #: The last attempt to connect came to nothing.
        self.failed = False

    @property
    def full(self) -> bool:
        limit = self.endpoint.concurrency_limit
        return limit > 0 and self.in_flight >= limit


class Connection:
    """One HTTP/2 connection, opened when it is first used and again whenever it broke."""

    __slots__ = (
        "_channel",
        "_lost",
        "_methods",
        "_opened",
        "_recorder",
        "_stamps",
        "in_flight",
        "server",
    )

    def __init__(self, server: _Server, recorder: PoolRecorder | None) -> None:
        self.server = server
        self.in_flight = 0
        self._recorder = recorder
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[tuple[str, str], Any] = {}
        self._opened = False
        #: It was open, and then was not.
        self._lost = False
        self._stamps: list[tuple[int, int] | None] = []

    @property
    def is_open(self) -> bool:
        """Whether a call can be sent at once."""
        return self._channel is not None and self._channel.get_state() is _READY

    def check_open(self) -> bool:
        """`is_open`, and note what that means for its server."""
        if not self.is_open:
            self._lost = self._opened
            return False
        if self._lost:
            self._lost = False
            if self._recorder is not None:
                self._recorder.reconnected()
        self._opened = True
        self.server.failed = False
        return True

    def method(self, shape: str, path: str) -> Any:
        """What calls a method; `shape` is grpcio's name of it, such as `unary_unary`."""
        made = self._methods.get((shape, path))
        if made is None:
            made = self._methods[shape, path] = getattr(self._channel, shape)(path)
        return made

    async def open(self) -> None:
        """Return when a call can be sent: at once if it is open.

        Raises:
            NativeLinkError: UNAVAILABLE if the server cannot be reached.
        """
        if self.check_open():
            return
        endpoint = self.server.endpoint
        try:
            async with asyncio.timeout(endpoint.connect_timeout_s):
                failed = await self._wait_open()
        except TimeoutError:
            failed = f"no connection within {endpoint.connect_timeout_s:g} s"
        if failed is not None:
            self.server.failed = True
            raise unavailable(f"cannot connect to {endpoint.address}: {failed}")
        self.check_open()

    async def _wait_open(self) -> str | None:
        """Why there is no connection, or None when there is one."""
        while True:
            channel = self._channel
            if channel is None:
                channel = self._create()
            state = channel.get_state(try_to_connect=True)
            if state is _READY:
                return None
            if state is _SHUTDOWN:
                if self._channel is channel:
                    return "the channel is closed"
            elif state is _FAILURE:
                if self._channel is channel and not await self._renew(channel):
                    return await self._reason(channel)
            else:
                await channel.wait_for_state_change(state)

    def _create(self) -> grpc.aio.Channel:
        endpoint = self.server.endpoint
        options = channel_options(endpoint)
        if endpoint.tls is None:
            channel = grpc.aio.insecure_channel(endpoint.address, options)
        else:
            self._stamps = _stamps(endpoint.tls)
            channel = grpc.aio.secure_channel(
                endpoint.address, credentials_of(endpoint.tls), options
            )
        self._channel = channel
        self._methods.clear()
        return channel

    async def _renew(self, channel: grpc.aio.Channel) -> bool:
        """Begin anew if the TLS files changed since: certificates expire and are replaced."""
        tls = self.server.endpoint.tls
        if tls is None or _stamps(tls) == self._stamps:
            return False
        self._create()
        await channel.close()
        return True

    async def _reason(self, channel: grpc.aio.Channel) -> str:
        """What grpcio says of a connection that failed: it tells only those who call."""
        try:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            await check(b"")
        except grpc.aio.AioRpcError as error:
            return error.details() or "the connection failed"
        return "the connection failed"

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


class Pool:
    """Hands connections out and takes them back.

    Args:
        endpoints: the servers, any of which can answer.
        connections_per_endpoint: at most that many are opened to each, as they are needed.
        max_concurrent_requests: calls in flight on all together; 0: no limit.
        recorder: counts, or None.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        connections_per_endpoint: int,
        max_concurrent_requests: int,
        recorder: PoolRecorder | None,
    ) -> None:
        servers = [_Server(endpoint) for endpoint in endpoints]
        # One connection of each first: between equals, the first is taken.
        self._connections = [
            Connection(server, recorder)
            for _ in range(connections_per_endpoint)
            for server in servers
        ]
        self._servers = len(servers)
        self._limit = max_concurrent_requests
        self._in_flight = 0
        self._recorder = recorder
        self._waiters: deque[asyncio.Future[Connection]] = deque()

    def take_nowait(self, *, beyond_limits: bool = False) -> Connection | None:
        """A connection, if one is open and a call may begin on it."""
        connection = self._pick_in_turn(beyond_limits=beyond_limits)
        if connection is None:
            return None
        if not connection.check_open():
            self.release(connection)
            return None
        self._acquired(queued=False)
        return connection

    async def take(self, *, beyond_limits: bool = False) -> Connection:
        """A connection that is open; give it back with `release`.

        Args:
            beyond_limits: wait for nobody.

        Raises:
            NativeLinkError: UNAVAILABLE if no endpoint can be reached.
        """
        tried: set[_Server] = set()
        while True:
            connection = self._pick_in_turn(beyond_limits=beyond_limits)
            if connection is None:
                connection = await self._queue()
            try:
                await connection.open()
            except NativeLinkError:
                self.release(connection)
                tried.add(connection.server)
                if len(tried) == self._servers or all(
                    each.server.failed for each in self._connections
                ):
                    raise
                continue
            except BaseException:
                self.release(connection)
                raise
            self._acquired(queued=True)
            return connection

    def release(self, connection: Connection) -> None:
        """A call of this connection has ended."""
        connection.in_flight -= 1
        connection.server.in_flight -= 1
        self._in_flight -= 1
        while self._waiters:
            if self._waiters[0].done():  # cancelled
                self._waiters.popleft()
                continue
            freed = self._pick()
            if freed is None:
                return
            self._waiters.popleft().set_result(freed)

    def _acquired(self, *, queued: bool) -> None:
        if self._recorder is not None:
            idle = sum(not each.in_flight for each in self._connections)
            self._recorder.acquired(queued=queued, idle=idle)

    def _pick_in_turn(self, *, beyond_limits: bool) -> Connection | None:
        if beyond_limits:
            return self._pick(beyond_limits=True)
        return None if self._waiters else self._pick()

    def _pick(self, *, beyond_limits: bool = False) -> Connection | None:
        """Reserve a connection, if a call may begin."""
        if self._limit and self._in_flight >= self._limit and not beyond_limits:
            return None
        best: Connection | None = None
        best_rank = (True, 0)
        busy = False
        for connection in self._connections:
            server = connection.server
            failed = server.failed and not connection.is_open
            if server.full and not beyond_limits:
                busy = busy or not failed
                continue
            rank = (failed, connection.in_flight)
            if best is None or rank < best_rank:
                best, best_rank = connection, rank
        if best_rank[0] and busy:
            # Better to wait for a server that is there than to ask again for one that is not.
            return None
        if best is not None:
            best.in_flight += 1
            best.server.in_flight += 1
            self._in_flight += 1
        return best

    async def _queue(self) -> Connection:
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release(waiter.result())
            raise

    async def close(self) -> None:
        """End all connections; calls in flight fail."""
        for connection in self._connections:
            await connection.close()


def _stamps(tls: ClientTls) -> list[tuple[int, int] | None]:
    return [_stamp(path) for path in (tls.ca_file, tls.cert_file, tls.key_file) if path]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
