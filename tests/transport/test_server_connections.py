"""The server on loopback: connections that are drained, attacked, too many, silent or old."""

import asyncio

import pytest

from nativelink.testing.fakes import wait_until
from nativelink.transport.server import ServerSettings
from tests.transport.live import live
from tests.transport.wire import ENHANCE_YOUR_CALM, GOAWAY, PING, frame, message, parse, u32


async def test_a_drain_finishes_calls_and_then_closes():
    async with live() as running, running.connect() as client:
        client.greet()
        stream_id = client.open("Wait", b"last")
        await wait_until(lambda: running.server.statistics().calls == 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(running.server.drain(5))
            assert (await client.until(GOAWAY)).payload[:4] == u32(2**31 - 1)
            ping = await client.frame()
            client.writer.write(frame(PING, 1, 0, ping.payload))
            assert (await client.until(GOAWAY)).payload[:4] == u32(stream_id)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", running.port)
            running.service.gate.set()
            assert (await client.answer(stream_id))[0] == message(b"last")
            assert await client.closed() == b""
        assert running.server.statistics().connections == 0


async def test_a_drain_cancels_what_does_not_finish_in_time():
    async with live() as running, running.connect() as client:
        client.greet()
        client.open("Wait", b"")
        await wait_until(lambda: running.server.statistics().calls == 1)
        await running.server.drain(0.01)
        assert running.service.cancelled == 1


async def test_a_connection_that_attacks_dies_alone_and_reads_why():
    async with live() as running, running.connect() as good, running.connect() as bad:
        good.greet()
        bad.greet()
        slow = good.open("Wait", b"mine")
        bad.writer.write(2000 * frame(PING, 0, 0, b"8 octets"))
        *_, last = parse(await bad.closed())
        assert (last.kind, last.code) == (GOAWAY, ENHANCE_YOUR_CALM)
        running.service.gate.set()
        assert (await good.answer(slow))[0] == message(b"mine")
        bad.writer.close()
        await wait_until(lambda: running.server.statistics().connections == 1)
        assert running.server.statistics().connections_ended == {"ENHANCE_YOUR_CALM": 1}


async def test_connections_beyond_the_limit_are_closed_at_once():
    async with live(ServerSettings(max_connections=1)) as running, running.connect() as first:
        first.greet()
        assert (await first.answer(first.open("Unary", b"a")))[0] == message(b"a")
        async with running.connect() as second:
            assert await second.closed() == b""
        assert (await first.answer(first.open("Unary", b"b")))[0] == message(b"b")
        assert running.server.statistics().connections_refused == 1


async def test_a_connection_that_says_nothing_is_closed():
    async with live(ServerSettings(header_timeout_s=30)) as running, running.connect() as client:
        await wait_until(lambda: running.server.statistics().connections == 1)
        running.pass_time(29)
        assert running.server.statistics().connections == 1
        running.pass_time(2)
        assert await client.closed() == b""


async def test_an_old_connection_is_told_to_go_and_then_closed():
    chosen = ServerSettings(max_connection_age_s=100, max_connection_age_grace_s=50)
    async with live(chosen) as running, running.connect() as client:
        client.greet()
        client.open("Wait", b"")
        await wait_until(lambda: running.server.statistics().calls == 1)
        running.pass_time(111)
        await client.until(GOAWAY)
        running.pass_time(2)
        assert running.service.cancelled == 0
        running.pass_time(50)
        await client.closed()
        await wait_until(lambda: running.service.cancelled == 1)
