"""A small service that shows every shape of a call; run as a program, it serves on a port.

python echo_service.py [--address 127.0.0.1:0] [--tls CERT KEY [CA]] [--loop uvloop|asyncio]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nativelink.core.digest import Digest
from nativelink.core.errors import Code, MissingBlob, NativeLinkError, not_found
from nativelink.core.rpc import (
    CallContext,
    HttpRequest,
    HttpResponse,
    HttpRoute,
    MessageSink,
    MessageSource,
    Method,
)
from nativelink.transport.server import Server, ServerSettings, TlsSettings

PATH = "/test.Echo/"
_ZEROS = memoryview(bytes(1024 * 1024))


def _parse_download(request: bytes) -> tuple[int, int]:
    total, chunk = map(int, request.split(b","))
    return total, chunk


def counted(size: int) -> bytes:
    """Bytes of which no two neighbouring pages are equal."""
    return b"".join(number.to_bytes(4, "big") for number in range(-(-size // 4)))[:size]


class EchoService:
    """Counts what happens to its handlers, for tests."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.gate = asyncio.Event()

    async def unary(self, request: bytes, context: CallContext) -> bytes:
        return request

    async def suspended(self, request: bytes, context: CallContext) -> bytes:
        await asyncio.sleep(0)
        return request

    async def wait(self, request: bytes, context: CallContext) -> bytes:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request

    async def fail(self, request: bytes, context: CallContext) -> bytes:
        raise not_found(f"no {request.decode(errors='replace')} here: 100% gone, ä")

    async def bug(self, request: bytes, context: CallContext) -> bytes:
        raise KeyError("secret")

    async def missing(self, request: bytes, context: CallContext) -> bytes:
        raise NativeLinkError(
            Code.FAILED_PRECONDITION,
            "a blob is missing",
            details=[MissingBlob(Digest("ab" * 32, 7))],
        )

    async def trailing(self, request: bytes, context: CallContext) -> bytes:
        context.trailing_metadata = ((b"x-text", b"plain"), (b"x-bytes-bin", b"\x00\xff"))
        return request

    async def peer(self, request: bytes, context: CallContext) -> bytes:
        return json.dumps([context.peer.subject, list(context.peer.sans)]).encode()

    async def download(
        self, request: tuple[int, int], context: CallContext, sink: MessageSink
    ) -> None:
        """`total,chunk` bytes of zeros."""
        total, chunk = request
        while total > 0:
            size = min(total, chunk)
            await sink.write(_ZEROS[:size])
            total -= size

    async def slices(
        self, request: tuple[int, int], context: CallContext, sink: MessageSink
    ) -> None:
        """At most `total` counted bytes, `step` of them behind an "s" in each message."""
        total, step = request
        await sink.write_slices(b"s", memoryview(counted(total - total % step)), step)

    async def upload(self, source: MessageSource, context: CallContext) -> bytes:
        size = 0
        while (message := await source.read()) is not None:
            size += len(message)
        return str(size).encode()

    async def early(self, source: MessageSource, context: CallContext) -> bytes:
        """Answers after the first message, whatever else comes."""
        await source.read()
        return b"early"

    async def chat(self, source: MessageSource, context: CallContext, sink: MessageSink) -> None:
        while (message := await source.read()) is not None:
            await sink.write(message)

    def methods(self) -> Sequence[Method]:
        return (
            Method(PATH + "Unary", self.unary),
            Method(PATH + "Suspended", self.suspended),
            Method(PATH + "Wait", self.wait),
            Method(PATH + "Fail", self.fail),
            Method(PATH + "Bug", self.bug),
            Method(PATH + "Missing", self.missing),
            Method(PATH + "Trailing", self.trailing),
            Method(PATH + "Peer", self.peer),
            Method(PATH + "Download", self.download, parse=_parse_download, server_streaming=True),
            Method(PATH + "Slices", self.slices, parse=_parse_download, server_streaming=True),
            Method(PATH + "Upload", self.upload, client_streaming=True),
            Method(PATH + "Early", self.early, client_streaming=True),
            Method(PATH + "Chat", self.chat, client_streaming=True, server_streaming=True),
        )

    async def status(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, b'{"ok": true}\n', "application/json")

    async def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, f"{request.method} {len(request.body)} {request.query}".encode())

    async def broken(self, request: HttpRequest) -> HttpResponse:
        raise KeyError("secret")

    def routes(self) -> Sequence[HttpRoute]:
        return (
            HttpRoute("/", self.status),
            HttpRoute("/status", self.status),
            HttpRoute("/post", self.post, prefix=True),
            HttpRoute("/broken", self.broken),
        )


async def main(arguments: argparse.Namespace) -> None:
    service = EchoService()
    tls = None
    if arguments.tls:
        files = [Path(name) for name in arguments.tls]
        tls = TlsSettings(files[0], files[1], files[2] if len(files) > 2 else None)
    server = Server(
        service.methods(),
        service.routes(),
        settings=ServerSettings(address=arguments.address, accept_gzip=True),
        tls=tls,
    )
    await server.start()
    print(f"listening on {server.address[0]}:{server.address[1]}", flush=True)  # noqa: T201 - for who started it
    try:
        await asyncio.Event().wait()
    finally:
        await server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", default="127.0.0.1:0")
    parser.add_argument("--tls", nargs="+")
    parser.add_argument("--loop", default="uvloop")
    options = parser.parse_args()
    factory = None
    if options.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            runner.run(main(options))
        except KeyboardInterrupt:
            sys.exit(0)
