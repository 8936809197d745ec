"""A listener of a network load balancer: passes connections on to healthy machines, as they are."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Final

__all__ = ["Forwarder"]

#: Bytes that are read at once, and that may wait for a slow peer.
_CHUNK: Final = 256 * 1024
_CONNECT_S: Final = 5.0


class Forwarder:
    """Listens while its context is open.

    Connections to a target that is not in `targets` any more go on until they end, or the target
    does, as with deregistered machines.

    Args:
        host, port: where; port 0 is any.

    Attributes:
        targets: who gets connections, in turn: hosts and ports.
        connections: that are open now.
        served: connections that were accepted.
    """

    def __init__(self, host: str, port: int) -> None:
        self.targets: Sequence[tuple[str, int]] = ()
        self.connections = 0
        self.served = 0
        self._host, self._port = host, port
        self._turn = itertools.count()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._group = asyncio.TaskGroup()

    @property
    def address(self) -> tuple[str, int]:
        """Where it really listens."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    async def __aenter__(self) -> Forwarder:
        await self._group.__aenter__()
        self._server = await asyncio.start_server(
            self._accept, self._host, self._port, limit=_CHUNK
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await self._group.__aexit__(None, None, None)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: asyncio would make a task of it that nobody waits for.
        task = self._group.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.served += 1
        try:
            await self._pass_on(reader, writer)
        finally:
            self.connections -= 1
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected = await self._connect()
        if connected is None:
            return
        to_reader, to_writer = connected
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, to_writer))
                group.create_task(_copy(to_reader, writer))
        except* OSError:
            # One side is gone: so is the connection.
            pass
        finally:
            to_writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the next target that takes one."""
        targets = tuple(self.targets)
        first = next(self._turn)
        for index in range(len(targets)):
            host, port = targets[(first + index) % len(targets)]
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CONNECT_S):
                    return await asyncio.open_connection(host, port, limit=_CHUNK)
        return None


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()
