"""A load generator for requests that differ from each other, which `h2load` cannot send.

One thread, raw HTTP/2 over non-blocking sockets. All that can be made before the clock starts is
made before: bodies are cut into DATA frames, header blocks encoded. We tell the server to use no
dynamic HPACK table, so equal header blocks have equal bytes and each is decoded once; our own
blocks change no table either, as those of clients that repeat themselves do not after the first.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hpack import Decoder, Encoder, NeverIndexedHeaderTuple

#: DATA frames carry at most what every peer must take (RFC 9113, 4.2).
FRAME_BYTES = 16 * 1024
#: Our receive windows: never what limits the peer.
STREAM_WINDOW_BYTES = 64 * 1024 * 1024
CONNECTION_WINDOW_BYTES = 1 << 30

_FRAME = struct.Struct(">IBI")  # length << 8 | type, flags, stream: 9 bytes
_U32 = struct.Struct(">I")
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_MAX_BUFFERS = 512


class LoadError(Exception):
    """The server broke off, or answered a call with an error."""


@dataclass(slots=True)
class Request:
    """A request, ready to be sent on any stream.

    Attributes:
        path: full gRPC method path.
        frames: payloads of its DATA frames, each as its length and the buffers it is made of.
    """

    path: str
    frames: list[tuple[int, tuple[bytes | memoryview, ...]]]

    @classmethod
    def of(cls, path: str, *messages: Sequence[bytes | memoryview]) -> Request:
        """Frame gRPC messages, each given as the buffers it is made of."""
        buffers: list[memoryview] = []
        for message in messages:
            size = sum(len(part) for part in message)
            buffers.append(memoryview(b"\x00" + _U32.pack(size)))
            buffers.extend(memoryview(part) for part in message)
        return cls(path, list(_cut(buffers)))


def _cut(buffers: list[memoryview]) -> Iterator[tuple[int, tuple[bytes | memoryview, ...]]]:
    """Cut buffers into frame payloads; small neighbours are joined to spare system calls."""
    parts: list[memoryview] = []
    length = 0
    for buffer in buffers:
        rest = buffer
        while len(rest):
            piece = rest[: FRAME_BYTES - length]
            parts.append(piece)
            length += len(piece)
            rest = rest[len(piece) :]
            if length == FRAME_BYTES:
                yield length, _joined(parts)
                parts, length = [], 0
    if parts:
        yield length, _joined(parts)


def _joined(parts: list[memoryview]) -> tuple[bytes | memoryview, ...]:
    if len(parts) > 1 and sum(len(part) for part in parts) <= 1024:
        return (b"".join(parts),)
    out: list[bytes | memoryview] = []
    small = b""
    for part in parts:
        if len(part) <= 512:
            small += part
            continue
        if small:
            out.append(small)
            small = b""
        out.append(part)
    if small:
        out.append(small)
    return tuple(out)


@dataclass(slots=True)
class Outcome:
    """What a run measured.

    Attributes:
        calls: calls answered with grpc-status 0.
        seconds: from the first byte sent to the last answer.
        latencies_us: of each call, unordered.
        first_byte_us: from sending a call's headers to the first DATA frame of its answer.
        answers: DATA payload of each call that ended, if answers are kept.
    """

    calls: int = 0
    seconds: float = 0.0
    latencies_us: list[float] = field(default_factory=list)
    first_byte_us: list[float] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds if self.seconds else 0.0


class _Stream:
    __slots__ = (
        "data",
        "frames",
        "got_data",
        "next",
        "rest",
        "started",
        "unacknowledged",
        "window",
    )

    def __init__(self, request: Request, window: int, started: float) -> None:
        self.frames = request.frames
        self.next = 0
        self.rest: tuple[int, tuple[bytes | memoryview, ...]] | None = None
        self.window = window
        self.started = started
        self.got_data = False
        self.unacknowledged = 0
        self.data: list[bytes] = []


class _Connection:
    """One socket: sends what windows allow, takes answers apart."""

    def __init__(
        self,
        address: tuple[str, int],
        load: _Load,
        concurrency: int,
        tls: ssl.SSLContext | None,
    ) -> None:
        sock = socket.create_connection(address, timeout=30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname=address[0])
        self.sock = sock
        self.tls = tls is not None
        self.load = load
        self.concurrency = concurrency
        self.streams: dict[int, _Stream] = {}
        self.blocked: deque[int] = deque()
        self.next_id = 1
        self.window = 65535
        self.initial_window = 65535
        self.unacknowledged = 0
        self.inbox = b""
        self.out: list[bytes | memoryview] = []
        self.waiting_to_write = False
        self.settled = False
        self.headers: dict[str, bytes] = {}
        self.statuses: dict[bytes, str | None] = {}
        self.decoder = Decoder()
        self.authority = f"{address[0]}:{address[1]}"
        settings = struct.pack(">HIHI", 1, 0, 4, STREAM_WINDOW_BYTES)
        self.out.append(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.out.append(_FRAME.pack(len(settings) << 8 | _SETTINGS, 0, 0) + settings)
        self.credit(0, CONNECTION_WINDOW_BYTES)
        self.flush()
        sock.setblocking(False)

    def credit(self, number: int, size: int) -> None:
        """Let the server send `size` bytes more on a stream, or on the connection (0)."""
        self.out.append(_FRAME.pack(4 << 8 | _WINDOW, 0, number) + _U32.pack(size))

    def header_block(self, path: str) -> bytes:
        block = self.headers.get(path)
        if block is None:
            names = {
                ":method": "POST",
                ":scheme": "https" if self.tls else "http",
                ":path": path,
                ":authority": self.authority,
                "te": "trailers",
                "content-type": "application/grpc",
            }
            fields = [NeverIndexedHeaderTuple(*field) for field in names.items()]
            block = self.headers[path] = Encoder().encode(fields, huffman=False)
        return block

    def fill(self) -> None:
        """Start calls until the wanted number is in flight."""
        streams, load = self.streams, self.load
        while len(streams) < self.concurrency:
            request = load.take()
            if request is None:
                return
            number = self.next_id
            self.next_id += 2
            block = self.header_block(request.path)
            self.out.append(_FRAME.pack(len(block) << 8 | _HEADERS, 4, number) + block)
            streams[number] = _Stream(request, self.initial_window, time.perf_counter())
            self.push(number)

    def push(self, number: int) -> None:
        """Send of one request what its windows allow; the rest waits in `blocked`."""
        stream = self.streams[number]
        frames, out = stream.frames, self.out
        last = len(frames) - 1
        while stream.next <= last:
            length, parts = stream.rest or frames[stream.next]
            allowed = min(self.window, stream.window)
            if length > allowed:
                # A peer may wait for the last byte that it allowed before it allows more.
                if allowed > 0:
                    joined = memoryview(b"".join(parts))
                    stream.rest = (length - allowed, (joined[allowed:],))
                    out += (_FRAME.pack(allowed << 8, 0, number), joined[:allowed])
                    self.window -= allowed
                    stream.window -= allowed
                self.blocked.append(number)
                return
            self.window -= length
            stream.window -= length
            out.append(_FRAME.pack(length << 8, 1 if stream.next == last else 0, number))
            out.extend(parts)
            stream.rest = None
            stream.next += 1

    def unblock(self) -> None:
        for _ in range(len(self.blocked)):
            number = self.blocked.popleft()
            if number in self.streams:
                self.push(number)

    def flush(self) -> bool:
        """Write what is queued; False if the socket does not take it all now."""
        out = self.out
        try:
            if self.tls:
                while out:
                    data = b"".join(out[:_MAX_BUFFERS])
                    sent = self.sock.send(data)
                    del out[:_MAX_BUFFERS]
                    if sent < len(data):
                        out.insert(0, data[sent:])
                return True
            while out:
                sent = self.sock.sendmsg(out[:_MAX_BUFFERS])
                done = 0
                for part in out:
                    if sent < len(part):
                        break
                    sent -= len(part)
                    done += 1
                del out[:done]
                if sent:
                    out[0] = memoryview(out[0])[sent:]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return False
        return True

    def receive(self) -> None:
        """Read what is there and act on it."""
        try:
            data = self.sock.recv(1 << 20)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        if not data:
            raise LoadError("the server closed a connection")
        self.feed(data)
        while self.tls and self.sock.pending():
            self.feed(self.sock.recv(1 << 20))

    def feed(self, data: bytes) -> None:
        buffer = self.inbox + data if self.inbox else data
        at, end = 0, len(buffer)
        unpack = _FRAME.unpack_from
        load, streams = self.load, self.streams
        while end - at >= 9:
            head, flags, number = unpack(buffer, at)
            length = head >> 8
            kind = head & 255
            start = at + 9
            stop = start + length
            if stop > end:
                break
            at = stop
            if kind == _HEADERS:
                if flags & 1:
                    self.finish(number, buffer[start:stop])
                elif (block := buffer[start:stop]) not in self.statuses:
                    self.status(block)
            elif kind == _DATA:
                self.unacknowledged += length
                stream = streams.get(number)
                if stream is not None and not stream.got_data and length:
                    stream.got_data = True
                    if load.first_bytes:
                        took = time.perf_counter() - stream.started
                        load.outcome.first_byte_us.append(took * 1e6)
                if stream is not None:
                    if load.keep_answers:
                        stream.data.append(buffer[start:stop])
                    stream.unacknowledged += length
                    if stream.unacknowledged > STREAM_WINDOW_BYTES // 4:
                        self.credit(number, stream.unacknowledged)
                        stream.unacknowledged = 0
            elif kind == _WINDOW:
                credit_bytes = _U32.unpack_from(buffer, start)[0]
                if number == 0:
                    self.window += credit_bytes
                elif number in streams:
                    streams[number].window += credit_bytes
            elif kind == _SETTINGS:
                if not flags & 1:
                    self.settings(buffer[start:stop])
            elif kind == _PING:
                if not flags & 1:
                    self.out.append(_FRAME.pack(8 << 8 | _PING, 1, 0) + buffer[start:stop])
            elif kind == _RST:
                raise LoadError(f"stream reset, code {_U32.unpack_from(buffer, start)[0]}")
            elif kind == _GOAWAY:
                raise LoadError(f"GOAWAY {buffer[start + 4 : stop]!r}")
        self.inbox = buffer[at:]
        if self.unacknowledged > CONNECTION_WINDOW_BYTES // 4:
            self.credit(0, self.unacknowledged)
            self.unacknowledged = 0
        if self.blocked and self.window:
            self.unblock()
        if self.settled:
            self.fill()

    def settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            name, value = struct.unpack_from(">HI", payload, at)
            if name == 4:
                for stream in self.streams.values():
                    stream.window += value - self.initial_window
                self.initial_window = value
        self.out.append(_FRAME.pack(_SETTINGS, 1, 0))
        self.settled = True

    def status(self, block: bytes) -> str | None:
        headers: dict[str, str] = {
            str(name): str(value) for name, value in self.decoder.decode(block)
        }
        status = headers.get("grpc-status")
        if status not in (None, "0"):
            raise LoadError(f"grpc-status {status}: {headers.get('grpc-message', '')}")
        self.statuses[block] = status
        return status

    def finish(self, number: int, block: bytes) -> None:
        if block in self.statuses:
            status = self.statuses[block]
        else:
            status = self.status(block)
        if status is None:
            raise LoadError("an answer ended without grpc-status")
        stream = self.streams.pop(number)
        outcome = self.load.outcome
        outcome.calls += 1
        outcome.latencies_us.append((time.perf_counter() - stream.started) * 1e6)
        if self.load.keep_answers:
            outcome.answers.append(b"".join(stream.data))


class _Load:
    def __init__(
        self, requests: Sequence[Request], *, first_bytes: bool, keep_answers: bool
    ) -> None:
        self.requests = iter(requests)
        self.total = len(requests)
        self.first_bytes = first_bytes
        self.keep_answers = keep_answers
        self.outcome = Outcome()

    def take(self) -> Request | None:
        return next(self.requests, None)


def run(
    address: tuple[str, int],
    requests: Sequence[Request],
    *,
    connections: int = 4,
    concurrency: int = 8,
    tls: ssl.SSLContext | None = None,
    first_bytes: bool = False,
    keep_answers: bool = False,
    stall_s: float = 30,
) -> Outcome:
    """Send every request once, `connections * concurrency` at a time, and wait for all answers.

    Raises:
        LoadError: an answer had a status other than OK, a connection broke, or nothing happened
            for `stall_s` seconds.
    """
    load = _Load(requests, first_bytes=first_bytes, keep_answers=keep_answers)
    opened = [_Connection(address, load, concurrency, tls) for _ in range(connections)]
    selector = selectors.DefaultSelector()
    for connection in opened:
        selector.register(connection.sock, selectors.EVENT_READ, connection)
    try:
        _settle(selector, opened, stall_s)
        started = time.perf_counter()
        for connection in opened:
            connection.fill()
            _write(selector, connection)
        while load.outcome.calls < load.total:
            _turn(selector, stall_s)
        load.outcome.seconds = time.perf_counter() - started
    finally:
        selector.close()
        for connection in opened:
            connection.sock.close()
    return load.outcome


def _settle(
    selector: selectors.BaseSelector, opened: Sequence[_Connection], stall_s: float
) -> None:
    """Exchange SETTINGS before the clock starts; the first calls would wait for it."""
    held, requests = opened[0].load.requests, iter(())
    opened[0].load.requests = requests
    while not all(connection.settled for connection in opened):
        _turn(selector, stall_s)
    opened[0].load.requests = held


def _turn(selector: selectors.BaseSelector, stall_s: float) -> None:
    events = selector.select(stall_s)
    if not events:
        raise LoadError(f"no answer for {stall_s} s")
    for key, _ in events:
        connection: _Connection = key.data
        connection.receive()
        _write(selector, connection)


def _write(selector: selectors.BaseSelector, connection: _Connection) -> None:
    complete = connection.flush()
    if complete == connection.waiting_to_write:
        connection.waiting_to_write = not complete
        mask = selectors.EVENT_READ | (0 if complete else selectors.EVENT_WRITE)
        selector.modify(connection.sock, mask, connection)
