"""A server on loopback, and a raw client in the same event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import hpack

from nativelink.core.rpc import Method
from nativelink.testing.fakes import FakeClock
from nativelink.transport.server import Server, ServerSettings, TlsSettings
from tests.transport.echo_service import EchoService
from tests.transport.wire import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GRPC_FIELDS,
    HEADERS,
    PREFACE,
    RST_STREAM,
    Frame,
    frame,
    message,
    settings,
    window_update,
)


class Observed:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def call_ended(self, method_path: str, code: object, seconds: float, count: int = 1, /) -> None:
        assert seconds >= 0
        self.calls += count * [(method_path.rpartition("/")[2], code.name)]


class Live:
    """A running server with its service, its clock and its observer."""

    def __init__(
        self,
        settings_: ServerSettings | None,
        tls: TlsSettings | None,
        methods: Sequence[Method] = (),
    ) -> None:
        self.service = EchoService()
        self.clock = FakeClock()
        self.observed = Observed()
        self.server = Server(
            [*self.service.methods(), *methods],
            self.service.routes(),
            settings=settings_,
            tls=tls,
            observer=self.observed,
            clock=self.clock,
        )

    @property
    def port(self) -> int:
        return self.server.address[1]

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.server.tick()

    @asynccontextmanager
    async def connect(self, context: ssl.SSLContext | None = None) -> AsyncIterator[RawClient]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname="localhost" if context else None
        )
        try:
            yield RawClient(reader, writer)
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                pass


@asynccontextmanager
async def live(
    settings_: ServerSettings | None = None,
    tls: TlsSettings | None = None,
    methods: Sequence[Method] = (),
) -> AsyncIterator[Live]:
    running = Live(settings_, tls, methods)
    await running.server.start()
    try:
        yield running
    finally:
        await running.server.close()


class RawClient:
    """Writes whatever it is told, reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.next_id = 1

    def greet(self, **values: int) -> None:
        self.writer.write(PREFACE + settings(**values) + window_update(0, 2**30))

    def open(
        self, method: str, body: bytes | None = None, *, end: bool = True, **extra: str
    ) -> int:
        """Begin a gRPC call, with one request message or none."""
        stream_id = self.next_id
        self.next_id += 2
        fields = [
            (name, f"/test.Echo/{method}" if name == ":path" else value)
            for name, value in GRPC_FIELDS
        ]
        fields += [(name.replace("_", "-"), value) for name, value in extra.items()]
        data = frame(HEADERS, END_HEADERS, stream_id, self.encoder.encode(fields))
        if body is not None:
            data += frame(DATA, END_STREAM if end else 0, stream_id, message(body))
        self.writer.write(data)
        return stream_id

    def reset(self) -> None:
        """Vanish with a reset; a mere end may also mean that nothing more is to be said."""
        at_once = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, at_once
        )
        self.writer.transport.abort()

    async def frame(self) -> Frame:
        head = await self.reader.readexactly(9)
        payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        return Frame(head[3], head[4], int.from_bytes(head[5:], "big"), payload)

    async def until(self, kind: int, stream_id: int | None = None) -> Frame:
        """The next frame of a kind; what comes before it is read over."""
        while True:
            got = await self.frame()
            if got.kind == HEADERS and kind != HEADERS:
                self.decoder.decode(got.payload)
            if got.kind == kind and stream_id in {None, got.stream_id}:
                return got

    async def answer(self, stream_id: int) -> tuple[bytes, dict[str, str]]:
        """The body and all fields of one answer; it must be the next thing on the wire."""
        body = b""
        fields: dict[str, str] = {}
        while True:
            got = await self.frame()
            if got.kind == HEADERS:
                decoded = dict(self.decoder.decode(got.payload))
                if got.stream_id == stream_id:
                    fields |= decoded
            elif got.kind == DATA and got.stream_id == stream_id:
                body += got.payload
            elif got.kind == RST_STREAM and got.stream_id == stream_id:
                return body, {**fields, "reset": str(got.code)}
            if got.stream_id == stream_id and got.kind in {DATA, HEADERS} and got.flags & 1:
                return body, fields

    async def closed(self) -> bytes:
        """Everything up to the end of the connection."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""
