"""The server on loopback: peers that do not read, and calls that wait for room."""

import asyncio
from collections import Counter

import pytest

from nativelink.core.rpc import Method
from nativelink.testing.fakes import wait_until
from nativelink.transport.server import ServerSettings
from tests.transport.live import live
from tests.transport.wire import (
    ACK,
    DATA,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    frame,
    message,
    parse,
    settings,
)


async def test_a_peer_that_reads_nothing_stalls_alone_and_is_dropped():
    chosen = ServerSettings(send_timeout_s=60)
    async with live(chosen) as running, running.connect() as client, running.connect() as other:
        client.greet(window=2**31 - 1)
        client.reader._transport.pause_reading()
        client.open("Download", b"1000000000,1000000")
        other.greet()
        assert (await other.answer(other.open("Unary", b"x")))[0] == message(b"x")
        await wait_until(
            lambda: any(
                not item.connection.writable
                for item in running.server._connections
                if hasattr(item, "connection")
            )
        )
        running.pass_time(61)
        await wait_until(lambda: running.server.statistics().connections == 1)
        assert ("Download", "CANCELLED") in running.observed.calls


@pytest.fixture
async def leaving():
    """A connection that was told to go, whose peer has not read its last answer (16 MiB) yet."""

    async def handler(request, context):
        return bytes(16 * 1024 * 1024)

    # All of the answer fits into the socket's buffer: the connection is done, but for the sending.
    chosen = ServerSettings(send_timeout_s=60, http2_max_send_buf_size=2**26)
    method = Method("/test.Echo/Big", handler)
    async with live(chosen, methods=[method]) as running, running.connect() as client:
        client.greet(window=2**31 - 1, max_frame=2**24 - 1)
        client.reader._transport.pause_reading()
        client.open("Big", b"")
        await wait_until(lambda: running.server.statistics().calls_total == 1)
        (connection,) = running.server._connections
        connection.drain(running.clock.monotonic())
        client.writer.write(frame(PING, ACK, 0, b"draining"))
        await wait_until(lambda: connection.connection.done)
        assert connection.connection.writable
        yield running, client


async def test_a_last_answer_that_is_read_late_is_whole(leaving):
    running, client = leaving
    running.pass_time(59)
    client.reader._transport.resume_reading()
    answer = b"".join(item.payload for item in parse(await client.closed()) if item.kind == DATA)
    assert answer == message(bytes(16 * 1024 * 1024))


async def test_a_last_answer_that_nobody_reads_is_not_awaited_for_ever(leaving):
    running, _ = leaving
    running.pass_time(59)
    await asyncio.sleep(0)
    assert running.server.statistics().connections == 1
    running.pass_time(2)
    await wait_until(lambda: running.server.statistics().connections == 0)


async def test_requests_do_not_start_while_answers_pile_up():
    """A read full of small requests with large answers holds a few of them in memory, not all."""
    begun = []
    big = bytes(1024 * 1024)

    async def handler(request, context):
        begun.append(request)
        return big

    method = Method("/test.Echo/Big", handler)
    async with live(methods=[method]) as running, running.connect() as client:
        client.greet(window=2**31 - 1, max_frame=2**24 - 1)
        client.reader._transport.pause_reading()
        for _ in range(100):
            client.open("Big", b"")
        await wait_until(lambda: begun)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(begun) < 50
        client.reader._transport.resume_reading()
        sizes = Counter()
        ended = 0
        while ended < 100:
            got = await client.frame()
            ended += got.kind == HEADERS and got.flags & END_STREAM
            sizes[got.stream_id] += len(got.payload) if got.kind == DATA else 0
        assert [sizes[stream_id] for stream_id in range(1, 201, 2)] == 100 * [len(big) + 5]
        assert len(begun) == 100


async def test_calls_that_waited_for_room_are_answered_once_each():
    async def handler(request, context):
        return bytes(1024 * 1024)

    method = Method("/test.Echo/Big", handler)
    async with live(methods=[method]) as running, running.connect() as client:
        client.greet(window=0)
        stream_ids = [client.open("Big") for _ in range(40)]
        for stream_id in stream_ids:
            client.writer.write(frame(DATA, 0, stream_id, message(b"")))
        for stream_id in stream_ids:
            client.writer.write(frame(DATA, END_STREAM, stream_id, b""))
        client.writer.write(frame(PING, 0, 0, b"8 octets"))
        await client.until(PING)
        client.writer.write(settings(window=2**31 - 1))
        sizes = Counter()
        ends = Counter()
        while sum(ends.values()) < 40:
            got = await client.frame()
            if got.kind == HEADERS and got.flags & END_STREAM:
                ends[got.stream_id] += 1
            sizes[got.stream_id] += len(got.payload) if got.kind == DATA else 0
        assert ends == Counter(stream_ids)
        assert sizes == Counter(dict.fromkeys(stream_ids, 1024 * 1024 + 5))


async def test_calls_that_wait_for_room_begin_when_a_client_cancels_those_before_them():
    begun = []

    async def handler(request, context):
        begun.append(request)
        return bytes(1024 * 1024)

    method = Method("/test.Echo/Big", handler)
    async with live(methods=[method]) as running, running.connect() as client:
        client.greet(window=0)
        stream_ids = [client.open("Big", b"") for _ in range(30)]
        await wait_until(lambda: begun)
        client.writer.write(frame(PING, 0, 0, b"8 octets"))
        await client.until(PING)
        started = len(begun)
        assert started < 30
        for stream_id in stream_ids[:started]:
            client.writer.write(frame(RST_STREAM, 0, stream_id, bytes((0, 0, 0, 8))))
        await wait_until(lambda: len(begun) == 30)
