"""What stands at a back end's address whether or not the back end is there."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from typing import Self

from tests.clients.certificates import KeyPair

__all__ = ["Front"]


class Front:
    """Passes connections on to a back end that may die and come back at another port.

    While there is none, every connection is reset, and counted: so a test knows that somebody
    tried, and how often, instead of waiting for some time. Or it waits for the next back end, as
    for a machine that starts: so whoever tries a few times only need not outlast that. A context
    manager.

    Args:
        pair: what it shows to those who speak TLS to it; None: they do not.

    Attributes:
        port: where it listens, on loopback.
        refused: connections that found nobody, since the back end was last taken away.
    """

    def __init__(self, pair: KeyPair | None = None) -> None:
        self.port = 0
        self.refused = 0
        self._backend: int | None = None
        self._came = asyncio.Event()
        self._holds = False
        self._tls: ssl.SSLContext | None = None
        if pair is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(pair.certificate, pair.key)
        self._lines: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *reason: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def to(self, port: int) -> None:
        """Pass connections on to this port, also those that wait."""
        self._backend = port
        self._holds = False
        self._loop.call_soon_threadsafe(self._came.set)

    def away(self) -> None:
        """Break all connections and refuse further ones: the back end is no more."""
        self._backend = None
        self.refused = 0
        self._call(self._break(self._lines))

    def hold(self, end: Callable[[], None]) -> None:
        """Let `end` end the back end, and its connections with it; further ones wait."""
        passing = set(self._lines)
        self._came.clear()
        self._holds, self._backend = True, None
        end()
        self._call(self._break(passing))

    def _call(self, what: object) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(120)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await self._break(self._lines)
        await self._server.wait_closed()

    async def _break(self, lines: set[asyncio.Task[None]]) -> None:
        lines = {line for line in lines if not line.done()}
        for line in lines:
            line.cancel()
        if lines:
            await asyncio.wait(lines)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        try:
            if self._holds:
                await self._came.wait()
            if self._backend is None:
                self.refused += 1
                return
            out_reader, out_writer = await asyncio.open_connection("127.0.0.1", self._backend)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_pass(reader, out_writer))
                    both.create_task(_pass(out_reader, writer))
            finally:
                out_writer.transport.abort()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            # A side that broke, or the back end that was taken away: the other side sees it too.
            pass
        finally:
            writer.transport.abort()
            self._lines.discard(line)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**18):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        # TLS ends both ways at once; who answers has answered.
        writer.close()
