"""A web site on the loopback interface that answers as a test tells it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Answer", "Request", "Site", "answer", "open_site", "redirect"]


@dataclass(frozen=True)
class Request:
    """What was asked.

    Attributes:
        target: path and query.
        headers: by lower-case name.
    """

    target: str
    headers: dict[str, str]


#: Writes what the client gets; the connection is closed behind it.
Answer: TypeAlias = Callable[[asyncio.StreamWriter], Coroutine[None, None, None]]


def answer(body: bytes = b"", status: str = "200 OK", **headers: str) -> Answer:
    """A whole answer; header names are written with underscores, a length is added."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    fields.setdefault("Content-Length", str(len(body)))

    async def write(writer: asyncio.StreamWriter) -> None:
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)

    return write


def redirect(location: str, status: str = "302 Found") -> Answer:
    """An answer that leads elsewhere."""
    return answer(b"", status, Location=location)


@dataclass
class Site:
    """A running site.

    Attributes:
        pages: answers by target; one that is a list is used up from its front.
        asked: every request, in order.
    """

    port: int = 0
    scheme: str = "http"
    pages: dict[str, Answer | list[Answer]] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)

    def url(self, target: str, host: str = "127.0.0.1") -> str:
        """The address of a page."""
        return f"{self.scheme}://{host}:{self.port}{target}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = head[0].split(" ")
            assert method == "GET"
            fields = [line.split(": ", 1) for line in head[1:] if line]
            self.asked.append(Request(target, {name.lower(): value for name, value in fields}))
            page = self.pages.get(target, answer(b"nothing here", "404 Not Found"))
            await (page.pop(0) if isinstance(page, list) else page)(writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def open_site(tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    """A site on a port of its own."""
    site = Site(scheme="http" if tls is None else "https")
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        await server.wait_closed()
