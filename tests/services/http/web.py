"""A server with HTTP caches, and a client of HTTP/1.1 that shares nothing with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from nativelink.services.http.instance import HttpCacheInstance
from nativelink.services.http.routes import http_cache_routes
from nativelink.testing.fakes import DictStore
from nativelink.transport.server import Server


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Web:
    """One connection after the other to one server."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, **headers)

    async def head(self, path: str, **headers: str) -> Answer:
        return await self.ask("HEAD", path, **headers)

    async def put(self, path: str, body: bytes, **headers: str) -> Answer:
        return await self.ask("PUT", path, body, **headers)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        chunks: Iterable[bytes] | None = None,
        **headers: str,
    ) -> Answer:
        """A request of its own; `chunks` are sent in chunked encoding."""
        lines = [f"{method} {path} HTTP/1.1", "host: elsewhere", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        sent = b"" if body is None else body
        if chunks is not None:
            lines.append("transfer-encoding: chunked")
            sent = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"
        elif body is not None:
            lines.append(f"content-length: {len(body)}")
        return await self.raw("\r\n".join([*lines, "", ""]).encode() + sent, method)

    async def raw(self, data: bytes, method: str = "GET") -> Answer:
        """What is answered to these bytes."""
        async with self.connected() as (reader, writer):
            writer.write(data)
            return parse(await reader.read(), method)

    @asynccontextmanager
    async def connected(
        self,
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection, to be used by hand."""
        reader, writer = await asyncio.open_connection(*self.server.address)
        try:
            yield reader, writer
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                pass


def parse(data: bytes, method: str = "GET") -> Answer:
    """The one answer in what a connection brought; its body must be whole."""
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    status = int(first.split()[1])
    if method == "HEAD" or status in {204, 304}:
        assert not rest
    elif headers.get("transfer-encoding") == "chunked":
        rest = _unchunked(rest)
    else:
        assert int(headers["content-length"]) == len(rest)
    return Answer(status, headers, rest)


def _unchunked(data: bytes) -> bytes:
    out = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            assert data == b"\r\n"
            return out
        out += data[:length]
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]


class Cache:
    """Stores that do not know their keys by the hash, behind HTTP."""

    def __init__(self, ask: Web, cas: DictStore, ac: DictStore) -> None:
        self.ask = ask
        self.cas = cas
        self.ac = ac


@asynccontextmanager
async def web(
    instances: Mapping[str, HttpCacheInstance], *, requires_identity: bool = False
) -> AsyncIterator[Web]:
    """A server for instances."""
    server = Server([], http_cache_routes(instances, requires_identity=requires_identity))
    await server.start()
    try:
        yield Web(server)
    finally:
        await server.close()
