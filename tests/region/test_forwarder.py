"""A load balancer's listener, with real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from scripts.region_local.forwarder import Forwarder

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def target(handler: Handler) -> AsyncIterator[tuple[str, int]]:
    """A machine."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        await server.wait_closed()


def naming(name: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name + await reader.read())
        await writer.drain()

    return handler


async def ask(address: tuple[str, int], data: bytes = b"") -> bytes:
    """Send, end, and read to the end."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_bytes_pass_both_ways_and_each_end_may_end_first() -> None:
    async with target(naming(b"got ")) as machine, Forwarder("127.0.0.1", 0) as forwarder:
        forwarder.targets = [machine]
        data = bytes(range(256)) * 8192
        assert await ask(forwarder.address, data) == b"got " + data
        assert forwarder.served == 1


async def test_connections_go_to_targets_in_turn() -> None:
    async with (
        target(naming(b"a")) as first,
        target(naming(b"b")) as second,
        Forwarder("127.0.0.1", 0) as forwarder,
    ):
        forwarder.targets = [first, second]
        answers = [await ask(forwarder.address) for _ in range(4)]
        assert sorted(answers) == [b"a", b"a", b"b", b"b"]


async def test_a_target_that_refuses_is_passed_over() -> None:
    async with target(naming(b"gone")) as gone:
        pass
    async with target(naming(b"here")) as here, Forwarder("127.0.0.1", 0) as forwarder:
        forwarder.targets = [gone, here]
        assert [await ask(forwarder.address) for _ in range(2)] == [b"here", b"here"]


async def test_without_a_target_a_connection_is_closed() -> None:
    async with Forwarder("127.0.0.1", 0) as forwarder:
        assert await ask(forwarder.address) == b""


async def test_closing_ends_connections_that_are_open() -> None:
    connected = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        connected.set()
        await reader.read()

    async with target(silent) as machine:
        async with Forwarder("127.0.0.1", 0) as forwarder:
            forwarder.targets = [machine]
            reader, writer = await asyncio.open_connection(*forwarder.address)
            writer.write(b"x")
            await connected.wait()
        assert await reader.read() == b""
        assert forwarder.connections == 0
        writer.close()
        await writer.wait_closed()
