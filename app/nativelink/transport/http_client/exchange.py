"""One GET over a connection of its own, to an address that was chosen before.

HTTP/1.1 by h11, as every origin speaks it. The connection is closed behind the answer: what is
downloaded once and kept needs none to be kept open, and none can be mixed up with another.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import h11

from nativelink.core.errors import NativeLinkError, unavailable
from nativelink.transport.http_client.urls import HttpUrl

__all__ = ["Exchange", "Header", "open_exchange"]

#: Name and value of a header field.
Header: TypeAlias = tuple[str, str]

#: A read that is served by the socket at once; h11 hands on what it gets.
_READ_BYTES: Final = 256 * 1024
#: A status line with all header fields; twice what servers accept of requests.
_MAX_HEAD_BYTES: Final = 64 * 1024
#: Interim answers (1xx) before the answer; none is expected.
_MAX_INTERIM: Final = 8
#: Chunks of the body until others have a turn: each takes h11 some 20 us, and what one read brings
#: may be 40,000 of a byte each.
_STEP: Final = 64


class Exchange:
    """An answer whose head was read.

    Attributes:
        status: of the answer.
        reason: the words behind it, as far as they are printable.
    """

    def __init__(
        self,
        http: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        idle_timeout_s: float,
    ) -> None:
        self._http = http
        self._reader = reader
        self._writer = writer
        self._idle_timeout_s = idle_timeout_s
        self._events = 0
        self._fields: dict[str, list[str]] = {}
        self.status = 0
        self.reason = ""

    def field(self, name: str) -> str | None:
        """The values of a header field, joined by commas; None if there is none. Lower case."""
        values = self._fields.get(name)
        return None if values is None else ", ".join(values)

    async def ask(self, url: HttpUrl, headers: Sequence[Header]) -> None:
        """Send the request and read the head of the answer."""
        # h11 checks names and values: no line break gets through.
        request = h11.Request(
            method="GET",
            target=url.target,
            headers=[("Host", url.authority), *headers, ("Connection", "close")],
        )
        self._writer.write(self._http.send(request) or b"")
        self._writer.write(self._http.send(h11.EndOfMessage()) or b"")
        interim = 0
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                break
            interim += 1
            if not isinstance(event, h11.InformationalResponse) or interim > _MAX_INTERIM:
                raise unavailable("the server does not answer, but says something else")
        self.status = event.status_code
        self.reason = event.reason.decode("ascii", "replace")[:100]
        for name, value in event.headers:
            text = value.decode("latin-1")
            self._fields.setdefault(name.decode("ascii").lower(), []).append(text)

    async def read(self) -> bytes:
        """The next piece of the body, which is exactly as long as the answer says; `b""`: its end.

        Raises:
            NativeLinkError: UNAVAILABLE if it ends early, breaks, or stalls.
        """
        while True:
            event = await self._next()
            if isinstance(event, h11.EndOfMessage):
                return b""
            if not isinstance(event, h11.Data):
                raise unavailable("the answer ended before its end")
            if event.data:
                return bytes(event.data)

    async def _next(self) -> object:
        """The next event of HTTP."""
        self._events += 1
        if not self._events % _STEP:
            await asyncio.sleep(0)
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                async with asyncio.timeout(self._idle_timeout_s):
                    data = await self._reader.read(_READ_BYTES)
                self._http.receive_data(data)
        except h11.RemoteProtocolError as error:
            if self._reader.at_eof():
                raise unavailable("the connection ended before the answer did") from error
            raise unavailable(f"the answer is not HTTP/1.1: {error}") from error
        except TimeoutError as error:
            raise unavailable(f"nothing came for {self._idle_timeout_s:g} s") from error
        except OSError as error:
            raise unavailable(f"the connection broke: {error}") from error
        return event


@asynccontextmanager
async def open_exchange(
    url: HttpUrl,
    addresses: Sequence[str],
    headers: Sequence[Header],
    *,
    tls: ssl.SSLContext,
    connect_timeout_s: float,
    idle_timeout_s: float,
) -> AsyncGenerator[Exchange]:
    """Ask for a URL at the first address that takes a connection.

    Args:
        url: what to ask for; the certificate must be of its host.
        addresses: IP addresses; nothing is looked up any more.
        headers: of the request, beside Host and Connection.
        tls: for https.
        connect_timeout_s: for each address, with its TLS handshake.
        idle_timeout_s: between two pieces of the answer.

    Raises:
        NativeLinkError: UNAVAILABLE. `retryable` is False for a certificate that is not valid.
    """
    reader, writer = await _connect(url, addresses, tls, connect_timeout_s)
    try:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        exchange = Exchange(http, reader, writer, idle_timeout_s)
        await exchange.ask(url, headers)
        yield exchange
    finally:
        # Nothing is left to be said. A TLS farewell could be waited for at length.
        writer.transport.abort()


async def _connect(
    url: HttpUrl, addresses: Sequence[str], tls: ssl.SSLContext, timeout_s: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    failures: list[NativeLinkError] = []
    secure = url.scheme == "https"
    for address in addresses:
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.open_connection(
                    address,
                    url.port,
                    limit=_READ_BYTES,
                    ssl=tls if secure else None,
                    server_hostname=url.host if secure else None,
                )
        except TimeoutError:
            failures.append(unavailable(f"{address} takes no connection within {timeout_s:g} s"))
        except ssl.SSLCertVerificationError as error:
            failure = unavailable(
                f"the certificate of {url.host} is not valid: {error.verify_message}"
            )
            failure.retryable = False
            failures.append(failure)
        except OSError as error:
            failures.append(unavailable(f"no connection to {address}: {error}"))
    raise failures[0]
