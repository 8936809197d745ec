"""What the calls of one connection may hold in memory, whatever its peer does or does not."""

import asyncio
import gzip
import tracemalloc

import hpack
import pytest

from nativelink.core.rpc import HttpResponse, HttpRoute, Method, Peer
from nativelink.testing.fakes import FakeClock, wait_until
from nativelink.transport.connection import Http2Protocol
from nativelink.transport.limits import DELAYED_FRAME_BYTES
from nativelink.transport.server import Server, ServerSettings
from tests.transport.echo_service import EchoService
from tests.transport.wire import (
    CANCEL,
    DATA,
    END_STREAM,
    GRPC_FIELDS,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    WINDOW_UPDATE,
    Client,
    frame,
    message,
    parse,
    settings,
    u32,
)


class Deaf(asyncio.Transport):
    """A socket whose peer reads nothing until `read` is called."""

    def __init__(self):
        super().__init__()
        self.buffer = []
        self.high = 0
        self.protocol = None
        self.closing = False

    @property
    def size(self):
        return sum(map(len, self.buffer))

    def write(self, data):
        self.buffer.append(data)
        if self.protocol.connection.writable and self.size > self.high:
            self.protocol.pause_writing()

    def writelines(self, list_of_data):
        self.write(b"".join(list_of_data))

    def read(self):
        data, self.buffer = b"".join(self.buffer), []
        if not self.protocol.connection.writable:
            self.protocol.resume_writing()
        return data

    def set_write_buffer_limits(self, high=None, low=None):
        self.high = high

    def is_closing(self):
        return self.closing

    def can_write_eof(self):
        return False

    def close(self):
        self.closing = True

    abort = close


class Attacker(Client):
    """Drives a whole connection, calls and all; `send` says nothing of what is answered."""

    def __init__(self, settings_=None, methods=(), routes=(), **greeting):
        service = EchoService()
        self.clock = FakeClock()
        server = Server(
            [*service.methods(), *methods],
            [*service.routes(), *routes],
            settings=settings_ or ServerSettings(send_timeout_s=0, http2_keep_alive_interval_s=0),
            clock=self.clock,
            observer=self,
        )
        self.seconds = []
        self.told = []
        self.service = service
        self.protocol = Http2Protocol(server, Peer("attacker"))
        self.wire = Deaf()
        self.wire.protocol = self.protocol
        super().__init__(greet=False)
        self.connection = self.protocol.connection
        self.calls = self.protocol.calls
        self.protocol.connection_made(self.wire)
        self.send(PREFACE + settings(**greeting))

    def call_ended(self, method_path, code, seconds, count=1, /):
        self.seconds += count * [seconds]
        self.told.append((method_path.rpartition("/")[2], code.name, count))

    def send(self, data):
        self.protocol.data_received(data)

    def call(self, method, body=b"", *, end=True, **extra):
        fields = [
            (name, f"/test.Echo/{method}" if name == ":path" else value)
            for name, value in GRPC_FIELDS
        ]
        fields += [(name.replace("_", "-"), value) for name, value in extra.items()]
        stream_id = self.next_id
        data = self.headers(fields)
        body = message(body) if isinstance(body, bytes) else b"".join(body)
        return data + frame(DATA, END_STREAM if end else 0, stream_id, body)

    def post(self, body, path="/post", *, end=False):
        stream_id = self.next_id
        data = self.headers([(":method", "POST"), (":scheme", "http"), (":path", path)])
        return data + frame(DATA, END_STREAM if end else 0, stream_id, body)


def refused(attacker):
    return attacker.call("N" + "o" * 3000)


def failed(attacker):
    return attacker.call("Fail", b"x" * 3000)


def answered_early(attacker):
    return attacker.headers([(":method", "GET"), (":scheme", "http"), (":path", "/no")])


def not_found(attacker):
    return attacker.headers([(":method", "GET"), (":scheme", "http"), (":path", "/no")], end=True)


def cancelled(attacker):
    before = attacker.next_id - 2
    reset = frame(RST_STREAM, 0, before, u32(CANCEL)) if before > 0 else b""
    return reset + attacker.call("Unary", b"x")


def malformed(attacker):
    return attacker.headers([("x", "1")])


def pinged(_):
    return frame(PING, 0, 0, b"8 octets")


def configured(_):
    return settings(window=2**31 - 1)


def prioritized(_):
    return frame(PRIORITY, 0, 1, u32(1) + b"\x01")


def too_many(attacker):
    return attacker.call("Wait", b"x", end=False)


@pytest.mark.parametrize(
    "ask",
    [
        refused, failed, answered_early, not_found, cancelled, malformed, pinged, configured,
        prioritized, too_many,
    ],
    ids=lambda ask: ask.__name__,
)  # fmt: skip
async def test_no_way_of_asking_lets_what_is_unread_pile_up(ask, monkeypatch):
    """At a pace that every allowance lets pass; only a bound on what waits can end it."""
    monkeypatch.setattr("nativelink.transport.calls.MAX_DELAYED_BYTES", 50_000)
    monkeypatch.setattr("nativelink.transport.receiving.MAX_DELAYED_CONTROL_FRAMES", 200)
    chosen = ServerSettings(
        send_timeout_s=0, http2_keep_alive_interval_s=0, http2_max_concurrent_streams=400
    )
    attacker = Attacker(chosen, window=2**31 - 1)
    attacker.wire.read()
    attacker.protocol.pause_writing()
    for _ in range(800):
        attacker.clock.advance(0.05)
        attacker.send(ask(attacker))
    unread = attacker.wire.size + DELAYED_FRAME_BYTES * len(attacker.wire.buffer)
    assert unread < 50_000 + 200 * (DELAYED_FRAME_BYTES + 17) + 4096
    assert not attacker.connection.out
    assert len(attacker.connection.streams) <= 400
    assert unread > 10_000, "it was asked in vain"
    attacker.protocol.connection_lost(None)


async def test_calls_that_waited_until_their_peer_reads_are_answered_in_order(monkeypatch):
    monkeypatch.setattr("nativelink.transport.calls.MAX_DELAYED_BYTES", 10_000)
    attacker = Attacker()
    attacker.wire.read()
    attacker.protocol.pause_writing()
    for _ in range(500):
        attacker.send(not_found(attacker))
    waiting = len(attacker.connection.streams)
    assert 400 < waiting < 500
    answers = []
    while data := attacker.wire.read():
        answers += parse(data)
    assert [got.stream_id for got in answers] == list(range(1, 1001, 2))
    assert not attacker.connection.streams


async def test_credit_is_not_announced_to_a_peer_that_does_not_read():
    small = ServerSettings(
        send_timeout_s=0,
        http2_keep_alive_interval_s=0,
        http2_initial_stream_window_size=64,
        http2_initial_connection_window_size=64,
    )
    attacker = Attacker(small, window=2**31 - 1)
    upload = attacker.next_id
    attacker.send(attacker.call("Upload", b"x" * 20, end=False))
    await asyncio.sleep(0)
    attacker.wire.read()
    attacker.protocol.pause_writing()
    for _ in range(6):
        attacker.send(frame(DATA, 0, upload, message(b"x")))
        await asyncio.sleep(0)
    assert attacker.wire.read() == b""
    updates = {(got.kind, got.stream_id, got.payload) for got in parse(attacker.wire.read())}
    assert updates == {(WINDOW_UPDATE, 0, u32(61)), (WINDOW_UPDATE, upload, u32(61))}
    attacker.protocol.connection_lost(None)


def small(**more):
    return ServerSettings(max_decoding_message_size=2000, **more)


BOUND = 64 * 2000


async def test_whole_messages_that_await_their_end_are_bounded_too():
    attacker = Attacker(small())
    for _ in range(100):
        attacker.send(attacker.call("Unary", bytes(1990), end=False))
        assert attacker.calls.held <= BOUND
    assert len(attacker.connection.streams) == BOUND // 1990
    attacker.protocol.connection_lost(None)
    assert attacker.calls.held == 0


async def test_bodies_of_plain_http_are_bounded_for_a_whole_connection():
    attacker = Attacker(small())
    for _ in range(100):
        attacker.send(attacker.post(bytes(1990)))
        assert attacker.calls.held <= BOUND
    assert len(attacker.connection.streams) == BOUND // 1990
    decoder = hpack.Decoder()
    answers = [
        dict(decoder.decode(got.payload))[":status"]
        for got in parse(attacker.wire.read())
        if got.kind == HEADERS
    ]
    assert answers == (100 - BOUND // 1990) * ["413"]
    attacker.protocol.connection_lost(None)
    assert attacker.calls.held == 0


async def test_a_body_of_plain_http_is_counted_until_its_answer_and_once():
    gate = asyncio.Event()

    async def handler(request):
        await gate.wait()
        return HttpResponse(200, b"")

    attacker = Attacker(routes=[HttpRoute("/gate", handler)])

    def held() -> int:
        return attacker.calls.held

    attacker.send(attacker.post(b"1234", path="/gate"))
    assert held() == 4
    attacker.send(frame(DATA, END_STREAM, 1, b"56") + attacker.post(b"78", path="/gate", end=True))
    assert held() == 8
    attacker.send(attacker.post(b"9", path="/gate") + frame(RST_STREAM, 0, 3, u32(CANCEL)))
    assert held() == 7
    attacker.send(frame(RST_STREAM, 0, 5, u32(CANCEL)))
    assert held() == 6
    await asyncio.sleep(0)
    gate.set()
    await wait_until(lambda: not attacker.connection.streams)
    assert held() == 0
    attacker.send(attacker.post(b"0", path="/broken", end=True))
    assert held() == 0
    gate.clear()
    attacker.send(attacker.post(b"0", path="/gate", end=True))
    attacker.protocol.close()
    await wait_until(lambda: not held())
    attacker.protocol.connection_lost(None)
    assert held() == 0


async def test_compressed_messages_wait_as_they_came():
    """A handler that writes to a peer that reads nothing leaves the rest of a chunk as it is."""
    attacker = Attacker(ServerSettings(accept_gzip=True), window=0)
    bombs = 100 * [message(gzip.compress(bytes(100_000)), flag=1)]
    tracemalloc.start()
    for _ in range(10):
        attacker.send(attacker.call("Chat", bombs, end=False, grpc_encoding="gzip"))
        await asyncio.sleep(0)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # What each handler read and tries to write.
    assert held < 10 * 150_000
    attacker.protocol.connection_lost(None)
    await wait_until(lambda: not attacker.calls.running)


async def test_tiny_slices_of_a_large_piece_are_not_all_made_at_once():
    attacker = Attacker(window=0)
    attacker.send(attacker.call("Slices", b"100000,1"))
    await asyncio.sleep(0)
    outbox = attacker.connection.streams[1].outbox
    assert 100 < len(outbox) < 1000
    attacker.protocol.connection_lost(None)
    await wait_until(lambda: not attacker.calls.running)


async def test_a_call_lasts_from_its_arrival_to_its_end(monkeypatch):
    monkeypatch.setattr("nativelink.transport.calls.MAX_DELAYED_BYTES", 100)

    async def slow(request, context):
        attacker.clock.advance(2.0)
        return request

    attacker = Attacker(methods=[Method("/test.Echo/Slow", slow)])
    attacker.wire.read()
    attacker.send(attacker.call("Slow"))
    assert attacker.seconds == [2.0]
    attacker.protocol.pause_writing()
    attacker.send(not_found(attacker))
    attacker.send(attacker.call("Slow"))
    attacker.clock.advance(3.0)
    attacker.wire.read()
    attacker.wire.read()
    assert attacker.seconds == [2.0, 5.0]


async def test_a_call_that_is_answered_at_length_lasts_from_its_arrival_too(monkeypatch):
    monkeypatch.setattr("nativelink.transport.calls.MAX_DELAYED_BYTES", 100)

    async def long(request, context):
        return bytes(20_000)

    attacker = Attacker(methods=[Method("/test.Echo/Long", long)])
    attacker.wire.read()
    attacker.protocol.pause_writing()
    attacker.send(not_found(attacker))
    attacker.send(attacker.call("Long"))
    attacker.clock.advance(3.0)
    attacker.wire.read()
    attacker.wire.read()
    assert attacker.seconds == [3.0]


async def test_calls_that_arrive_together_are_told_together_and_last_until_the_last_is_answered():
    async def slow(request, context):
        attacker.clock.advance(2.0)
        return request

    attacker = Attacker(methods=[Method("/test.Echo/Slow", slow)])
    attacker.wire.read()
    calls = ["Slow", "Slow", "Unary", "Nothing", "Slow"]
    attacker.send(b"".join(attacker.call(name) for name in calls))
    assert attacker.told == [
        ("Slow", "OK", 2),
        ("Nothing", "UNIMPLEMENTED", 1),
        ("Unary", "OK", 1),
        ("Slow", "OK", 1),
    ]
    assert attacker.seconds[0] == 4.0
    assert attacker.seconds[-1] == 6.0
