"""A Redis server and our connections to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from nativelink.core.errors import NativeLinkError, unavailable
from nativelink.core.latch import Latch
from nativelink.stores.remote.redis_address import Endpoint, Login
from nativelink.stores.remote.redis_connection import Command, RedisConnection, dial, pack

__all__ = ["Attempt", "Dialing", "NodeRecorder", "RedisNode"]

#: Batches of commands that wait on one connection before another one is used as well: the more
#: travel together, the less each costs; but behind a large blob everybody waits for it.
_SHARED: Final = 16


class NodeRecorder(Protocol):
    """Counts what happens to connections."""

    def acquired(self, *, queued: bool, idle: int) -> None:
        """A call got a connection while `idle` others carried none."""
        ...

    def reconnected(self) -> None:
        """A connection that had broken is open again."""
        ...


class Dialing:
    """How connections are made, the same for all servers of a store.

    Attributes:
        login: what they begin with.
        connect_timeout_s: for each.
        command_timeout_s: for each command.
        connections: kept to each server.
        recorder: counts them.
    """

    __slots__ = ("command_timeout_s", "connect_timeout_s", "connections", "login", "recorder")

    def __init__(
        self,
        login: Login,
        *,
        connect_timeout_s: float,
        command_timeout_s: float,
        connections: int,
        recorder: NodeRecorder | None,
    ) -> None:
        self.login = login
        self.connect_timeout_s = connect_timeout_s
        self.command_timeout_s = command_timeout_s
        self.connections = connections
        self.recorder = recorder


class Attempt(Latch):
    """Somebody does what all need; others wait for what comes of it.

    Attributes:
        error: why nothing did; None also if whoever tried was cancelled.
    """

    __slots__ = ("error",)

    def __init__(self) -> None:
        super().__init__()
        self.error: NativeLinkError | None = None


class _Place:
    """Room for one connection."""

    __slots__ = ("attempt", "connection", "was_open")

    def __init__(self) -> None:
        self.connection: RedisConnection | None = None
        self.attempt: Attempt | None = None
        self.was_open = False

    @property
    def is_open(self) -> bool:
        return self.connection is not None and self.connection.lost is None


class RedisNode:
    """Sends commands to one server; connections are opened when they are needed."""

    def __init__(self, endpoint: Endpoint, dialing: Dialing) -> None:
        self.endpoint = endpoint
        self._dialing = dialing
        self._places = [_Place() for _ in range(dialing.connections)]
        self._closed = False

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to commands, which travel together on one connection.

        Raises:
            NativeLinkError: the server cannot be reached, or was lost before it had answered.
        """
        return await self.run_packed(pack(commands), len(commands))

    async def run_packed(self, packed: Sequence[bytes], count: int) -> list[Any]:
        """The same for commands that were packed before."""
        connection = self._ready()
        if connection is None:
            connection = await self._open()
        return await connection.send(packed, count)

    def close(self) -> None:
        """Drop all connections."""
        self._closed = True
        for place in self._places:
            if place.connection is not None:
                place.connection.close()

    def _ready(self) -> RedisConnection | None:
        """The connection to use; None if one is to be opened first."""
        best: RedisConnection | None = None
        opening = False
        for place in self._places:
            connection = place.connection
            if connection is None or connection.lost is not None:
                opening = True
                break
            if connection.waiting < _SHARED:
                best = connection
                break
            if best is None or connection.waiting < best.waiting:
                best = connection
        if opening and (best is None or best.waiting >= _SHARED):
            return None
        if best is not None and self._dialing.recorder is not None:
            idle = sum(
                1
                for place in self._places
                if place.connection is not None and not place.connection.waiting
            )
            self._dialing.recorder.acquired(queued=best.waiting >= _SHARED, idle=idle)
        return best

    async def _open(self) -> RedisConnection:
        """Open the first connection that is not open; those who come meanwhile share it."""
        recorder = self._dialing.recorder
        if recorder is not None:
            recorder.acquired(queued=True, idle=0)
        while True:
            if self._closed:
                raise unavailable(f"the connections to Redis at {self.endpoint} are closed")
            place = next((place for place in self._places if not place.is_open), self._places[0])
            if place.connection is not None and place.is_open:
                return place.connection
            attempt = place.attempt
            if attempt is None:
                return await self._dial(place)
            await attempt.wait()
            if attempt.error is not None:
                raise attempt.error.copy()
            # None of both: whoever connected was cancelled.
            if place.connection is not None and place.is_open:
                return place.connection

    async def _dial(self, place: _Place) -> RedisConnection:
        dialing = self._dialing
        attempt = place.attempt = Attempt()
        try:
            connection = await dial(
                self.endpoint,
                dialing.login,
                connect_timeout_s=dialing.connect_timeout_s,
                timeout_s=dialing.command_timeout_s,
            )
        except NativeLinkError as error:
            attempt.error = error
            raise
        finally:
            place.attempt = None
            attempt.set()
        if self._closed:
            connection.close()
            raise unavailable(f"the connections to Redis at {self.endpoint} are closed")
        place.connection = connection
        if place.was_open and dialing.recorder is not None:
            dialing.recorder.reconnected()
        place.was_open = True
        return connection
