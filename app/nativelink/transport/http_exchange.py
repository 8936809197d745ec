"""Plain HTTP requests over HTTP/2, and their answers over either version."""

from __future__ import annotations

from typing import Any

from nativelink.core.errors import NativeLinkError
from nativelink.core.rpc import HttpRequest, HttpResponse
from nativelink.transport.environment import CallEnvironment
from nativelink.transport.exchanges import Exchange
from nativelink.transport.fields import Field
from nativelink.transport.flow import header_block
from nativelink.transport.routing import HttpPlan
from nativelink.transport.status import http_status_of
from nativelink.transport.streams import Stream

__all__ = ["HttpExchange", "http_error", "http_fields"]


class HttpExchange(Exchange):
    """A plain HTTP request over HTTP/2."""

    def __init__(self, calls: CallEnvironment, stream: Stream, plan: HttpPlan) -> None:
        super().__init__(calls, stream, plan.path)
        self._plan = plan
        self._body: list[bytes] = []
        self._held = 0

    def on_news(self) -> None:
        stream = self.stream
        if stream.reset is not None:
            self.abandon()
            return
        if self._task is not None or self.ended:
            return
        calls = self.calls
        inbox, stream.inbox = stream.inbox, []
        for chunk in inbox:
            self._body.append(bytes(chunk))
            self._held += len(chunk)
            calls.held += len(chunk)
            calls.connection.credit(stream, len(chunk))
        if stream.received > calls.max_message or calls.held > calls.max_held:
            self._answer(HttpResponse(413))
        elif not stream.ended:
            stream.whole = True
        else:
            head = stream.head
            self.run(
                self._plan.route.handler(
                    HttpRequest(
                        head.method.decode("latin-1"),
                        self._plan.path,
                        self._plan.query,
                        ((b"host", head.authority), *head.fields)
                        if head.authority
                        else head.fields,
                        b"".join(self._body),
                        self.calls.peer,
                    )
                )
            )

    def succeed(self, result: Any) -> None:
        self._answer(result)

    def fail(self, error: NativeLinkError) -> None:
        self._answer(http_error(error))

    def _answer(self, response: HttpResponse) -> None:
        connection, stream = self.calls.connection, self.stream
        block = header_block(
            [(b":status", b"%d" % response.status), *http_fields(response)],
        )
        connection.send_head(stream, block)
        if response.body and stream.head.method != b"HEAD":
            connection.send_data(stream, [response.body], len(response.body))
        connection.finish(stream, None)
        self.over()

    def over(self) -> None:
        super().over()
        self.calls.held -= self._held
        self._held = 0
        self._body.clear()


def http_error(error: NativeLinkError) -> HttpResponse:
    """The plain HTTP answer that reports `error`."""
    return HttpResponse(http_status_of(error.code), f"{error.message}\n".encode())


def http_fields(response: HttpResponse) -> list[Field]:
    """The header fields of a plain HTTP answer."""
    return [
        (b"content-type", response.content_type.encode("latin-1")),
        (b"content-length", b"%d" % len(response.body)),
        *(
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in response.headers.items()
        ),
    ]
