"""Routes that stream, and what became of their calls."""

from __future__ import annotations

import asyncio

from nativelink.core.errors import permission_denied, unavailable
from nativelink.core.rpc import HttpResponse, HttpRoute, HttpStreamRoute
from nativelink.testing.fakes import FakeClock
from nativelink.transport.server import Server, ServerSettings
from tests.transport.live import RawClient
from tests.transport.wire import DATA, END_HEADERS, END_STREAM, HEADERS, frame

PIECE = bytes(range(256)) * 256
#: More than the buffers of a loopback connection and of the server hold together.
PIECES = 256


class Streams:
    """A server whose routes show what the transport gives them."""

    def __init__(self, settings: ServerSettings | None = None):
        self.clock = FakeClock()
        self.read = 0
        self.written = 0
        self.sizes = []
        self.cancelled = False
        self.gate = asyncio.Event()
        routes = {
            "/sum": self.sum,
            "/big": self.big,
            "/short": self.short,
            "/long": self.long,
            "/breaks": self.breaks,
            "/forbidden": self.forbidden,
            "/silent": self.silent,
            "/gated": self.gated,
            "/known": self.known,
            "/unchanged": self.unchanged,
        }
        self.server = Server(
            [],
            [
                *(HttpStreamRoute(path, handler) for path, handler in routes.items()),
                HttpRoute("/plain", self.plain),
            ],
            settings=settings,
            clock=self.clock,
        )

    def pass_time(self, seconds):
        self.clock.advance(seconds)
        self.server.tick()

    async def plain(self, request):
        return HttpResponse(200, b"plain")

    async def sum(self, request, body, sink):
        self.sizes.append(body.size)
        self.read = 0
        try:
            while chunk := await body.read():
                self.read += len(chunk)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        assert await body.read() == b""
        return HttpResponse(200, b"%d" % self.read)

    async def big(self, request, body, sink):
        sink.begin(HttpResponse(200, headers={"x-what": "big"}), PIECES * len(PIECE))
        for _ in range(PIECES):
            await sink.write(PIECE)
            self.written += len(PIECE)

    async def known(self, request, body, sink):
        sink.begin(HttpResponse(200), 5)
        await sink.write(b"abc")
        await sink.write(memoryview(b"de"))

    async def unchanged(self, request, body, sink):
        sink.begin(HttpResponse(304, headers={"etag": '"x"'}), 5)

    async def short(self, request, body, sink):
        sink.begin(HttpResponse(200), 10)
        await sink.write(b"abc")

    async def long(self, request, body, sink):
        sink.begin(HttpResponse(200), 2)
        await sink.write(b"abc")

    async def breaks(self, request, body, sink):
        sink.begin(HttpResponse(200), None)
        await sink.write(b"abc")
        await asyncio.sleep(0)
        raise unavailable("later")

    async def forbidden(self, request, body, sink):
        raise permission_denied("not here")

    async def silent(self, request, body, sink):
        return None

    async def gated(self, request, body, sink):
        await self.gate.wait()
        while chunk := await body.read():
            self.read += len(chunk)
        return HttpResponse(200, b"%d" % self.read)

    async def __aenter__(self):
        await self.server.start()
        reader, writer = await asyncio.open_connection(*self.server.address)
        self.client = RawClient(reader, writer)
        return self

    async def __aexit__(self, *_error):
        self.client.writer.close()
        try:
            await self.client.writer.wait_closed()
        except OSError:
            pass
        await self.server.close()

    # HTTP/1.1

    async def head(self):
        return await self.client.reader.readuntil(b"\r\n\r\n")

    def put(self, path, *headers, body=b"", method="PUT"):
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]
        self.client.writer.write("\r\n".join(lines).encode() + body)

    # HTTP/2

    def open(self, path, *, method="PUT", end=False, **extra):
        client = self.client
        stream_id = client.next_id
        client.next_id += 2
        fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "x")]
        fields += [(name.replace("_", "-"), value) for name, value in extra.items()]
        flags = END_HEADERS | (END_STREAM if end else 0)
        client.writer.write(frame(HEADERS, flags, stream_id, client.encoder.encode(fields)))
        return stream_id

    def send(self, stream_id, data, *, end=False):
        self.client.writer.write(frame(DATA, END_STREAM if end else 0, stream_id, data))
