"""Plain HTTP/1.1 on the same listener."""

import asyncio
import socket
import struct

import h11
import pytest

from nativelink.core.errors import unavailable
from nativelink.core.rpc import HttpResponse, HttpRoute
from nativelink.testing.fakes import FakeClock, wait_until
from nativelink.transport.server import Server, ServerSettings
from tests.transport.live import live

#: More than loopback's buffers take.
BIG = 16 * 1024 * 1024


async def exchange(running, request):
    async with running.connect() as client:
        client.writer.write(request)
        return await client.closed()


def get(path, *headers):
    lines = [f"GET {path} HTTP/1.1", "Host: x", *headers, "Connection: close", "", ""]
    return "\r\n".join(lines).encode()


async def test_a_request_is_answered():
    async with live() as running:
        answer = await exchange(running, get("/status"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-type: application/json" in head
    assert body == b'{"ok": true}\n'


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/nowhere"), b"404"),
        (get("/broken"), b"500"),
        (b"GET /status HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000, b"431"),
        (
            b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n" + bytes(70_000),
            b"413",
        ),
        (b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", b"400"),
    ],
    ids=["absent", "broken", "no host", "long head", "long body", "length"],
)
async def test_what_cannot_be_served_is_said_so_and_closed(request_, status):
    async with live(ServerSettings(max_decoding_message_size=65_536)) as running:
        assert (await exchange(running, request_)).startswith(b"HTTP/1.1 " + status)


def chunked(path, count):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"1\r\nx\r\n" * count + b"0\r\n\r\n"


@pytest.mark.parametrize(("path", "status"), [("/status", b"413"), ("/nowhere", b"404")])
async def test_a_body_in_too_many_pieces_ends_the_connection(path, status):
    """Each piece costs time, during which nothing else is served."""
    async with live() as running:
        answer = await exchange(running, chunked(path, 2000) + get("/status"))
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_body_in_some_pieces_is_taken():
    async with live() as running:
        answer = await exchange(running, chunked("/status", 400) + get("/status"))
    assert answer.count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize(
    "garbage",
    [
        b"INVALID CONNECTION PREFACE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ],
)
async def test_what_does_not_speak_http_gets_no_answer(garbage):
    async with live() as running:
        assert await exchange(running, garbage) == b""


async def test_a_connection_serves_one_request_after_the_other_and_pipelined_ones():
    async with live() as running, running.connect() as client:
        post = b"POST /post?q=%d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        client.writer.write(b"".join(post % number for number in range(3)))
        for number in range(3):
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head
            assert await client.reader.readexactly(10) == b"POST 3 q=%d" % number


async def test_a_chunked_body_that_comes_slowly_is_one_body():
    async with live() as running, running.connect() as client:
        client.writer.write(
            b"POST /post HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert (await client.reader.readline()).startswith(b"HTTP/1.1 100 ")
        for part in (b"3\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\n\r\n"):
            client.writer.write(part)
            await client.writer.drain()
        assert (await client.closed()).endswith(b"POST 5 ")


async def test_head_has_no_body():
    async with live() as running:
        answer = await exchange(
            running, b"HEAD /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 13" in answer


async def test_a_client_that_half_closes_is_answered():
    async with live() as running, running.connect() as client:
        client.writer.write(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        client.writer.write_eof()
        assert (await client.closed()).startswith(b"HTTP/1.1 200 ")


class Gated:
    """A route whose handler waits, and others that answer what is hard to get rid of."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.cancelled = False
        self.begun = 0
        self.clock = FakeClock()
        routes = {"/wait": self.wait, "/fail": self.fail, "/big": self.big}
        self.server = Server([], [HttpRoute(*route) for route in routes.items()], clock=self.clock)

    def pass_time(self, seconds):
        self.clock.advance(seconds)
        self.server.tick()

    @property
    def connections(self):
        return self.server.statistics().connections

    async def big(self, request):
        self.begun += 1
        return HttpResponse(200, bytes(BIG))

    async def wait(self, request):
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return HttpResponse(200, b"waited")

    async def fail(self, request):
        await asyncio.sleep(0)
        raise unavailable("later")

    async def __aenter__(self):
        await self.server.start()
        self.reader, self.writer = await asyncio.open_connection(*self.server.address)
        return self

    async def __aexit__(self, *exc):
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass
        await self.server.close()


async def test_a_handler_may_wait_and_others_wait_behind_it():
    async with Gated() as gated:
        gated.writer.write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n" + get("/fail"))
        await wait_until(lambda: gated.server.statistics().connections == 1)
        gated.gate.set()
        answer = await gated.reader.read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"waitedHTTP/1.1 503 " in answer
    assert answer.endswith(b"later\n")


async def test_a_client_that_vanishes_cancels_its_handler():
    """A reset does; an orderly end is also what a client does that only has nothing more to say."""
    async with Gated() as gated:
        gated.writer.write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_until(lambda: any(item.tasks for item in gated.server._connections))
        reset_when_closed = struct.pack("ii", 1, 0)
        gated.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, reset_when_closed
        )
        gated.writer.transport.abort()
        await wait_until(lambda: gated.cancelled)


async def test_a_drain_answers_what_is_under_way_and_closes():
    async with Gated() as gated, asyncio.TaskGroup() as group:
        gated.writer.write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_until(lambda: any(item.tasks for item in gated.server._connections))
        group.create_task(gated.server.drain(5))
        await asyncio.sleep(0)
        gated.gate.set()
        answer = await gated.reader.read()
        assert b"connection: close" in answer.lower()
        assert answer.endswith(b"waited")


async def test_a_drain_closes_a_connection_that_rests():
    async with live() as running, running.connect() as client:
        client.writer.write(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.reader.readuntil(b"true}\n")
        await running.server.drain(5)
        assert await client.closed() == b""


def states(running):
    """How far the requests of its connections are, as far as these have said what they speak."""
    connections = running.server._connections
    return [each._http.their_state for each in connections if hasattr(each, "_http")]


@pytest.mark.parametrize(
    ("begun", "limit", "state"),
    [
        (b"GET /sta", 30, h11.IDLE),
        (b"GET /status HTTP/1.1\r\nHost: x\r\nX-Slow: ", 30, h11.IDLE),
        (
            b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabc",
            60,
            h11.SEND_BODY,
        ),
    ],
    ids=["line", "head", "body"],
)
async def test_slow_requests_are_not_awaited_for_ever(begun, limit, state):
    settings = ServerSettings(header_timeout_s=30, body_timeout_s=60)
    async with live(settings) as running, running.connect() as client:
        client.writer.write(begun)
        await client.writer.drain()
        await wait_until(lambda: states(running) == [state])
        running.pass_time(limit - 1)
        assert running.server.statistics().connections == 1
        running.pass_time(2)
        assert await client.closed() == b""


@pytest.fixture
async def unread():
    """A connection whose peer does not read the long answer that it asked for."""
    async with Gated() as gated:
        gated.reader._transport.pause_reading()
        gated.writer.write(get("/big"))
        await wait_until(lambda: gated.begun == 1)
        yield gated


async def test_a_last_answer_that_nobody_reads_is_not_awaited_for_ever(unread):
    unread.pass_time(59)
    await asyncio.sleep(0)
    assert unread.connections == 1
    unread.pass_time(2)
    await wait_until(lambda: unread.connections == 0)


async def test_a_close_does_not_wait_for_who_reads_nothing(unread):
    async with asyncio.timeout(60):
        await unread.server.close()
    assert unread.connections == 0


async def test_a_drain_does_not_wait_longer_than_its_grace_for_who_reads_nothing(unread):
    async with asyncio.timeout(60):
        assert not await unread.server.drain(0.01)
    assert unread.connections == 0


async def test_a_last_answer_that_is_read_late_is_whole(unread):
    unread.pass_time(59)
    unread.reader._transport.resume_reading()
    _, _, body = (await unread.reader.read()).partition(b"\r\n\r\n")
    assert len(body) == BIG


async def test_no_request_begins_while_answers_pile_up():
    async with Gated() as gated:
        gated.reader._transport.pause_reading()
        request = b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n"
        gated.writer.write(3 * request)
        await wait_until(lambda: gated.begun)
        for _ in range(20):
            await asyncio.sleep(0)
        assert gated.begun == 1
        # The time limit is that of an unread answer, not that of the next request's header.
        gated.pass_time(59)
        await asyncio.sleep(0)
        assert gated.connections == 1
        gated.reader._transport.resume_reading()
        for number in range(1, 4):
            await gated.reader.readuntil(b"\r\n\r\n")
            await gated.reader.readexactly(BIG)
            assert gated.begun >= number
        gated.writer.write(2 * request)
        gated.reader._transport.pause_reading()
        await wait_until(lambda: gated.begun == 4)
        gated.pass_time(61)
        await wait_until(lambda: gated.connections == 0)
        assert gated.begun == 4


@pytest.mark.parametrize("half_closed", [False, True])
async def test_requests_behind_one_that_waits_stay_with_the_peer(half_closed):
    post = b"POST /fail HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + bytes(60_000)
    async with Gated() as gated:
        gated.writer.write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n" + 200 * post)
        if half_closed:
            gated.writer.write_eof()
        await wait_until(lambda: gated.connections == 1)
        await wait_until(lambda: any(item.tasks for item in gated.server._connections))
        (connection,) = gated.server._connections
        await wait_until(lambda: not connection._transport.is_reading())
        held, _ = connection._http.trailing_data
        assert 0 < len(held) < 1024 * 1024
        gated.gate.set()
        if not half_closed:
            gated.writer.write(get("/fail"))
        answers = await gated.reader.read()
    assert answers.count(b"waitedHTTP/1.1 503 ") == 1
    assert answers.count(b"HTTP/1.1 503 ") == 200 + (not half_closed)


async def test_a_client_that_half_closes_behind_a_request_that_waits_gets_all_its_answers():
    async with Gated() as gated:
        begun = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\nGET /fail HTTP/1.1\r\nHost: "
        gated.writer.write(begun)
        await wait_until(lambda: any(item.tasks for item in gated.server._connections))
        gated.writer.write(b"x\r\n\r\n")
        gated.writer.write_eof()
        for _ in range(20):
            await asyncio.sleep(0)
        gated.gate.set()
        answers = await gated.reader.read()
    assert answers.count(b"HTTP/1.1 ") == 2
    assert answers.endswith(b"later\n")
