"""Random bytes against the machine, deterministic and bounded by count.

The invariant: any bytes either parse or end that one connection with a protocol error, and memory
stays bounded by the settings, whatever the driver does meanwhile.
"""

import asyncio
import random
from collections import Counter

import hpack
import pytest

from nativelink.core.rpc import Peer
from nativelink.transport.connection import Http2Protocol
from nativelink.transport.flow import header_block
from nativelink.transport.frames import ErrorCode
from nativelink.transport.http2 import Http2Connection
from nativelink.transport.limits import MAX_PARKED_BYTES
from nativelink.transport.server import Server
from nativelink.transport.settings import ServerSettings
from tests.transport.echo_service import EchoService
from tests.transport.wire import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    GRPC_FIELDS,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FIELDS,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    message,
    parse,
    settings,
    u32,
    window_update,
)

HEAD = header_block([(b":status", b"200")])
TRAILERS = header_block([(b"grpc-status", b"0")], end_stream=True)
CONNECTION_WINDOW = 200_000
SETTINGS_OF_SERVER = ServerSettings(
    http2_max_concurrent_streams=20,
    http2_initial_stream_window_size=70_000,
    http2_initial_connection_window_size=CONNECTION_WINDOW,
    http2_max_header_list_size=2000,
    http2_max_send_buf_size=40_000,
)


class Frames:
    """Makes frames; now and then one that no client may send, and now and then a damaged one.

    How often depends on the seed, so that some runs die young and some grow old.
    """

    def __init__(self, seed, methods=("Unary",)):
        self.methods = methods
        self.random = random.Random(seed)
        self.wild = (0.0, 0.002, 0.02, 0.2)[seed % 4]
        self.encoder = hpack.Encoder()
        self.next_id = 1
        self.open = []

    def is_wild(self):
        return self.random.random() < self.wild

    def some_id(self):
        if self.is_wild() or not self.open:
            past = self.random.randrange(1, self.next_id + 2, 2)
            return self.random.choice([0, 2, past, past, past, self.next_id + 2, 2**31 - 1])
        return self.random.choice(self.open[-30:])

    def one(self):
        pick = self.random
        kinds = [self.request, self.data, self.window, self.reset, self.setting, self.small]
        (make,) = pick.choices(kinds, [9, 9, 3, 1, 1, 1])
        data = make() if self.open else self.request()
        return self.damaged(data) if self.is_wild() else data

    def request(self):
        pick = self.random
        path = f"/test.Echo/{pick.choice(self.methods)}"
        fields = [(name, path if name == ":path" else value) for name, value in GRPC_FIELDS]
        if pick.random() < 0.5:
            fields.append((f"x-{pick.randrange(40)}", "v" * pick.randrange(80)))
        if self.is_wild():
            fields.append(pick.choice([("x-long", "y" * 3000), ("UPPER", ""), (":path", "/")]))
        block = self.encoder.encode(fields)
        stream_id, self.next_id = self.next_id, self.next_id + 2
        if pick.random() < 0.2:
            cut = pick.randrange(len(block) + 1)
            self.open.append(stream_id)
            return frame(HEADERS, 0, stream_id, block[:cut]) + frame(
                CONTINUATION, END_HEADERS, stream_id, block[cut:]
            )
        flags = END_HEADERS | pick.choice([0, 0, END_STREAM])
        if pick.random() < 0.1:
            flags |= PRIORITY_FIELDS
            block = bytes(5) + block
        data = frame(HEADERS, flags, stream_id, block)
        if not flags & END_STREAM:
            if pick.random() < 0.5:
                return data + frame(
                    DATA,
                    END_STREAM,
                    stream_id,
                    message(pick.choice([pick.randbytes(40), b"90000,7000"])),
                )
            self.open.append(stream_id)
        return data

    def data(self):
        pick = self.random
        payload = pick.randbytes(pick.choice([0, 1, 2, 5, 100, 600, 2000, 16384]))
        flags = pick.choice([0, 0, 0, END_STREAM, PADDED])
        stream_id = self.some_id()
        if flags & END_STREAM and stream_id in self.open:
            self.open.remove(stream_id)
        if flags & PADDED:
            padding = 0 if self.is_wild() else pick.randrange(200)
            payload = (
                bytes((200,)) + payload
                if self.is_wild()
                else (bytes((padding,)) + payload[:16000] + bytes(padding))
            )
        # In plenty, it passes the windows.
        return frame(DATA, flags, stream_id, payload) * (30 if self.is_wild() else 1)

    def window(self):
        increment = self.random.choice([0, 2**31 - 1] if self.is_wild() else [1, 100, 10**4])
        return window_update(self.random.choice([0, self.some_id()]), increment)

    def reset(self):
        stream_id = self.some_id()
        if stream_id in self.open:
            self.open.remove(stream_id)
        return frame(RST_STREAM, 0, stream_id, u32(self.random.randrange(16)))

    def setting(self):
        name = self.random.choice(["window", "max_frame", "table"])
        value = self.random.choice([0, 2**31] if self.is_wild() else [16_384, 20_000, 65_535])
        return settings(**{name: value})

    def small(self):
        pick = self.random
        if self.is_wild():
            return frame(
                pick.randrange(256), pick.randrange(256), self.some_id(), pick.randbytes(12)
            )
        return pick.choice(
            [
                frame(PING, pick.randrange(2), 0, pick.randbytes(8)),
                frame(PRIORITY, 0, self.some_id() or 1, bytes(5)),
                frame(GOAWAY, 0, 0, bytes(8)),
                frame(pick.randrange(10, 256), pick.randrange(256), 0, pick.randbytes(12)),
            ]
        )

    def damaged(self, data):
        pick = self.random
        out = bytearray(data)
        for _ in range(pick.choice([1, 2, 5])):
            where = pick.randrange(len(out) or 1)
            kind = pick.randrange(3)
            if kind == 0 and out:
                out[where] = pick.randrange(256)
            elif kind == 1:
                del out[where : where + pick.randrange(1, 9)]
            else:
                out[where:where] = pick.randbytes(pick.randrange(1, 9))
        return bytes(out)


class Driver:
    """Does at random what a driver may do with the streams that it is told of."""

    def __init__(self, connection, pick):
        self.connection = connection
        self.random = pick
        self.alive = {}

    def act(self, news):
        connection, pick = self.connection, self.random
        for stream in news:
            assert not stream.noted
            if stream.reset is None:
                self.alive[stream.id] = stream
            else:
                self.alive.pop(stream.id, None)
        for stream in list(self.alive.values()):
            if stream.reset is not None or stream.finished:
                self.alive.pop(stream.id, None)
                continue
            choice = pick.random()
            if choice < 0.3 and stream.inbox:
                chunk = stream.inbox.pop(0)
                connection.credit(stream, len(chunk))
            elif choice < 0.45 and not stream.head_sent and connection.parked_bytes < 10**5:
                connection.respond(
                    stream, HEAD, message(b""), bytes(pick.choice([0, 100, 30_000])), TRAILERS
                )
                self.alive.pop(stream.id, None)
            elif choice < 0.55 and stream.outbox is None:
                if not stream.head_sent:
                    connection.send_head(stream, HEAD)
                size = pick.choice([1, 500, 50_000])
                connection.send_data(stream, [bytes(size)], size)
            elif choice < 0.6 and stream.head_sent:
                connection.finish(stream, pick.choice([None, TRAILERS]))
                self.alive.pop(stream.id, None)
            elif choice < 0.62:
                connection.reset(stream, ErrorCode.CANCEL)
                self.alive.pop(stream.id, None)


def check(connection):
    """What must hold between any two steps."""
    streams = connection.streams
    limits = connection.settings
    assert len(streams) <= limits.http2_max_concurrent_streams
    assert sum(stream.buffered for stream in streams.values()) <= CONNECTION_WINDOW
    for stream in streams.values():
        assert stream.reset is None
        assert stream.receive_window <= limits.http2_initial_stream_window_size
        assert sum(map(len, stream.inbox)) <= stream.buffered
        waiting = sum(map(len, stream.outbox)) if stream.outbox is not None else 0
        assert waiting == stream.outbox_bytes
    assert connection.parked_bytes == sum(s.outbox_bytes for s in streams.values() if s.finished)
    assert 0 <= connection.parked_bytes <= MAX_PARKED_BYTES
    assert connection._receive_window <= CONNECTION_WINDOW
    assert len(connection._tail) <= 9 + limits.http2_max_frame_size
    assert len(connection._block or b"") <= 2000 + limits.http2_max_frame_size
    assert len(connection._forgotten) <= 4 * limits.http2_max_concurrent_streams + 64
    assert len(connection._headers.cache) <= 128
    assert set(connection._blocked) <= set(streams)


@pytest.mark.parametrize("seed", range(80))
def test_any_bytes_parse_or_end_the_connection(seed):
    frames = Frames(seed)
    pick = frames.random
    connection = Http2Connection(SETTINGS_OF_SERVER, 0.0)
    driver = Driver(connection, pick)
    data = PREFACE + settings()
    now = 0.0
    written = b""
    for _ in range(150):
        while data:
            cut = pick.choice([1, 9, 100, len(data)])
            driver.act(connection.receive(data[:cut], now))
            data = data[cut:]
            check(connection)
        if connection.error is not None:
            break
        now += pick.random()
        if pick.random() < 0.1:
            connection.set_writable(pick.random() < 0.7, now)
        if pick.random() < 0.1:
            driver.act(connection.tick(now))
        driver.act([])
        written += b"".join(connection.take_output())
        connection.pump()
        connection.drained.clear()
        check(connection)
        data = frames.one()
    # However it ended, what we wrote are whole frames, and an error is the last of them.
    written += b"".join(connection.take_output())
    out = list(parse(written))
    assert out[0].kind == SETTINGS
    if connection.error is not None:
        assert out[-1].kind == GOAWAY
        assert out[-1].code == connection.error.code
        assert not connection.streams
        assert connection.done
    for item in out:
        assert item.kind in {DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE}


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and is full now and then."""

    def __init__(self, pick):
        super().__init__()
        self.random = pick
        self.written = bytearray()
        self.closing = False
        self.protocol = None

    def write(self, data):
        self.written += data
        if self.random.random() < 0.02:
            self.protocol.pause_writing()

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    abort = close

    def can_write_eof(self):
        return False


METHODS = [
    "Unary",
    "Suspended",
    "Fail",
    "Wait",
    "Download",
    "Slices",
    "Upload",
    "Early",
    "Chat",
    "Nothing",
]


@pytest.mark.parametrize("seed", range(40))
async def test_any_bytes_leave_the_driver_and_its_handlers_whole(seed, caplog):
    """The same invariant one layer up: nothing raises, and no handler outlives its connection."""
    frames = Frames(seed, METHODS)
    pick = frames.random
    service = EchoService()
    server = Server(service.methods(), service.routes(), settings=SETTINGS_OF_SERVER)
    protocol = Http2Protocol(server, Peer("fuzz"))
    wire = Wire(pick)
    wire.protocol = protocol
    protocol.connection_made(wire)
    loop = asyncio.get_running_loop()
    failures = []
    loop.set_exception_handler(lambda _, story: failures.append(story))
    data = PREFACE + settings()
    for _ in range(80):
        while data:
            cut = pick.choice([9, 100, len(data)])
            # As a callback of the loop, like the real one: outside of any task.
            loop.call_soon(protocol.data_received, data[:cut])
            await asyncio.sleep(0)
            data = data[cut:]
        if pick.random() < 0.2 and not protocol.connection.writable:
            protocol.resume_writing()
        check(protocol.connection)
        data = frames.one()
    if protocol.connection.error is not None:
        *_, last = parse(bytes(wire.written))
        assert (last.kind, last.code) == (GOAWAY, protocol.connection.error.code)
    protocol.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not failures
    assert not protocol.tasks
    assert protocol.calls.held == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("seed", range(40))
def test_noise_is_no_connection(seed):
    pick = random.Random(seed)
    connection = Http2Connection(SETTINGS_OF_SERVER, 0.0)
    begin = pick.choice([b"", PREFACE[:12], PREFACE, PREFACE + settings()])
    connection.receive(begin + pick.randbytes(3000), 0.0)
    check(connection)
    assert connection.error is not None or connection._tail


def test_the_fuzzer_reaches_deep_and_every_kind_of_end():
    """It would prove little if every run died at once, and of the same error."""
    ends = Counter()
    answered = 0
    for seed in range(80):
        frames = Frames(seed)
        connection = Http2Connection(SETTINGS_OF_SERVER, 0.0)
        driver = Driver(connection, frames.random)
        connection.receive(PREFACE + settings(), 0.0)
        for step in range(120):
            driver.act(connection.receive(frames.one(), step / 2))
            connection.take_output()
            connection.pump()
        answered += connection.opened
        ends[None if connection.error is None else connection.error.code] += 1
    assert len(ends) >= 5
    assert ends[None] >= 20, "some live to the end"
    assert answered > 800
