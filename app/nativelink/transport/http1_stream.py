"""A request over HTTP/1.1 whose bodies are streamed: the source and the sink of its handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, cast

import h11

from nativelink.core.errors import Code, NativeLinkError, invalid_argument
from nativelink.core.rpc import HttpResponse
from nativelink.core.streams import Chunk
from nativelink.transport.fields import Field
from nativelink.transport.headers import content_length_of
from nativelink.transport.http_exchange import http_fields, incomplete

__all__ = ["Http1Stream", "response_head"]

_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
#: Shorter pieces of a body are put together: who keeps them needs an object for each, which takes
#: twenty times as much as two bytes.
_GATHERED_BYTES: Final = 16 * 1024
#: So many of them are read before others have a turn: each takes h11 some 20 us.
_STEP: Final = 64


class Http1Stream:
    """One such request. The protocol tells it of data and of room; it does the rest.

    In memory is what one read from the socket brings: the socket is not read while nobody waits
    for more.

    Args:
        http: the connection, whose last event was `request`.
        transport: where bytes go.
        request: the request.
        monotonic: seconds.
        closes: whether the connection shall close behind this answer.
        blocked: whether the peer does not read what it is sent.
    """

    def __init__(
        self,
        http: h11.Connection,
        transport: asyncio.Transport,
        request: h11.Request,
        *,
        monotonic: Callable[[], float],
        closes: Callable[[], bool],
        blocked: Callable[[], bool],
    ) -> None:
        self._http = http
        self._transport = transport
        self._request = request
        self._monotonic = monotonic
        self._closes = closes
        self._blocked = blocked
        #: `Source`: the request's Content-Length; None for a chunked body.
        self.size = _announced(request)
        #: Since when the handler waits for more of the body; None while it does not.
        self.waits_since: float | None = None
        self._awaits_body: asyncio.Future[None] | None = None
        self._awaits_room: asyncio.Future[None] | None = None

    @property
    def where(self) -> str:
        """The request, for the log."""
        return self._request.target.decode("latin-1")

    def on_data(self) -> None:
        """The connection received something, perhaps the end of the peer's input."""
        if self._awaits_body is None:
            self._transport.pause_reading()
        elif not self._awaits_body.done():
            self._awaits_body.set_result(None)

    def on_room(self) -> None:
        """The peer reads again."""
        if self._awaits_room is not None and not self._awaits_room.done():
            self._awaits_room.set_result(None)

    async def read(self) -> Chunk:
        """The next piece of the request's body (`Source`), short only if no more is here.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for a body that breaks off or is malformed.
        """
        http = self._http
        gathered = bytearray()
        count = 0
        while http.their_state is h11.SEND_BODY:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError as error:
                raise invalid_argument(f"malformed request body: {error}") from error
            if isinstance(event, h11.Data):
                if not gathered and len(event.data) >= _GATHERED_BYTES:
                    return bytes(event.data)
                gathered += event.data
                if len(gathered) >= _GATHERED_BYTES:
                    break
                count += 1
                if not count % _STEP:
                    await asyncio.sleep(0)
            elif event is not h11.NEED_DATA or gathered:
                break
            else:
                if http.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[]))
                await self._more()
        if http.their_state is h11.ERROR:
            raise invalid_argument("the request body broke off")
        return bytes(gathered)

    async def _more(self) -> None:
        self._awaits_body = asyncio.get_running_loop().create_future()
        self.waits_since = self._monotonic()
        self._transport.resume_reading()
        try:
            await self._awaits_body
        finally:
            self._awaits_body = None
            self.waits_since = None

    def begin(self, response: HttpResponse, length: int | None) -> None:
        """Send the head of the answer (`HttpSink`)."""
        fields = http_fields(response, length)
        if self._closes():
            fields.append((b"connection", b"close"))
        self._send(response_head(response.status, fields))

    async def write(self, chunk: Chunk, /) -> None:
        """Send a piece of the answer's body (`Sink`)."""
        if self._transport.is_closing():
            raise NativeLinkError(Code.CANCELLED, "the client went away")
        if self._request.method == b"HEAD":
            return
        try:
            # The piece itself comes back, between what frames it: it is not copied.
            parts = self._http.send_with_data_passthrough(h11.Data(data=cast("bytes", chunk)))
        except h11.LocalProtocolError as error:
            raise incomplete(len(chunk), "more") from error
        for part in parts or ():
            self._transport.write(part)
        if self._blocked():
            self._awaits_room = asyncio.get_running_loop().create_future()
            try:
                await self._awaits_room
            finally:
                self._awaits_room = None

    def finish(self) -> None:
        """End the answer.

        Raises:
            h11.LocalProtocolError: it is not as long as was announced, or never began.
        """
        self._send(h11.EndOfMessage())

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._transport.write(data)


def response_head(status: int, fields: list[Field]) -> h11.Response:
    """The head of an answer, with the words that older clients want behind the number."""
    return h11.Response(status_code=status, headers=fields, reason=_REASONS.get(status, b""))


def _announced(request: h11.Request) -> int | None:
    """The length of a request's body, if it says so; h11 refuses what is contradictory."""
    length: int | None = 0
    for name, value in request.headers:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            length = content_length_of(bytes(value))
    return length
