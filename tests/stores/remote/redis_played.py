"""A Redis server that is played: it says what a test tells it to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis

from nativelink.stores.remote.redis_address import Endpoint
from nativelink.testing.fakes import wait_until

__all__ = ["PlayedRedis", "started"]

HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"


class PlayedRedis:
    """Answers commands by their first word, and counts them."""

    def __init__(self, **answers: bytes | Callable[[], bytes]) -> None:
        self._answers = {"HELLO": HELLO, **answers}
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.heard: Counter[str] = Counter()

    @property
    def endpoint(self) -> Endpoint:
        assert self._server is not None
        return Endpoint(*self._server.sockets[0].getsockname())

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    def drop(self) -> None:
        """Break all connections."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()
        await self._server.wait_closed()
        await wait_until(lambda: not self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        commands = hiredis.Reader()
        try:
            while data := await reader.read(65_536):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    word = command[0].decode()
                    self.heard[word] += 1
                    answer = self._answers[word]
                    writer.write(answer if isinstance(answer, bytes) else answer())
        except OSError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)


@asynccontextmanager
async def started(*servers: PlayedRedis) -> AsyncIterator[None]:
    for server in servers:
        await server.start()
    try:
        yield
    finally:
        for server in servers:
            await server.stop()
