"""A TCP proxy that breaks connections."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Self

from nativelink.stores.remote.redis_address import Endpoint
from nativelink.testing.fakes import wait_until

__all__ = ["CuttingProxy"]


class CuttingProxy:
    """Passes bytes on, and cuts each connection after some of them.

    Args:
        upstream: where to.
        seed: says when.
    """

    def __init__(self, upstream: Endpoint, *, seed: int) -> None:
        self._upstream = upstream
        self._chance = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None] | None] = set()
        self.cuts = 0

    @property
    def endpoint(self) -> Endpoint:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return Endpoint(host, port)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._server is not None
        self._server.close()
        for line in tuple(self._lines):
            if line is not None:
                line.cancel()
        await wait_until(lambda: not self._lines)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        self._lines.add(line)
        try:
            with suppress(OSError, asyncio.CancelledError):
                out_reader, out_writer = await asyncio.open_connection(*self._upstream)
                budget = self._chance.choice((300, 3_000, 50_000, 200_000))
                try:
                    with suppress(ExceptionGroup):
                        async with asyncio.TaskGroup() as tasks:
                            tasks.create_task(_pass(reader, out_writer, budget))
                            tasks.create_task(_pass(out_reader, writer, budget))
                    self.cuts += 1
                finally:
                    await _abort(out_writer)
        finally:
            await _abort(writer)
            self._lines.discard(line)


async def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int) -> None:
    """Pass `budget` bytes, then fail."""
    while budget > 0:
        data = await reader.read(min(budget, 4096))
        if not data:
            break
        budget -= len(data)
        writer.write(data)
        await writer.drain()
    raise ConnectionAbortedError
