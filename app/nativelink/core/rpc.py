"""What a service sees of a call: its context, and the shapes of its methods.

Services are written against these types alone; the transport implements them. A handler is an
async function. It never sets a status: it returns, or raises `NativeLinkError`. A peer that goes
away, a deadline or a drain cancels the handler's task, and nothing else signals it.

Bodies are bytes at this border. A method names the function that parses its request
(`Message.FromString`, or `bytes` to get it as it came) and may answer with a message or with
bytes already encoded, so that a stored ActionResult travels without being parsed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from nativelink.core.streams import Chunk, Sink, Source

__all__ = [
    "CallContext",
    "HttpHandler",
    "HttpRequest",
    "HttpResponse",
    "HttpRoute",
    "HttpSink",
    "HttpStreamHandler",
    "HttpStreamRoute",
    "MessageSink",
    "MessageSource",
    "Method",
    "Peer",
    "Reply",
    "SupportsSerialize",
    "current_call",
]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection.

    Attributes:
        address: `host:port`, or the path of a Unix socket.
        subject: RFC 4514 distinguished name of a verified client certificate, else empty.
        sans: its subject alternative names as `DNS:x`, `URI:x`, `IP:x`, `email:x`.
    """

    address: str
    subject: str = ""
    sans: tuple[str, ...] = ()


class CallContext:
    """One call, as its handler sees it.

    Attributes:
        method: full gRPC path, `/package.Service/Method`.
        metadata: request headers as the peer sent them, names lower case, in order, values as
            bytes and `-bin` values still in base64. Decode what is needed, when it is needed.
        peer: the connection's other end.
        deadline: monotonic seconds (the loop's clock) at which the call is cancelled, or None.
    """

    __slots__ = ("deadline", "metadata", "method", "peer", "trailing_metadata")

    def __init__(
        self,
        method: str,
        metadata: Sequence[tuple[bytes, bytes]],
        peer: Peer,
        deadline: float | None = None,
    ) -> None:
        self.method = method
        self.metadata = metadata
        self.peer = peer
        self.deadline = deadline
        #: Sent after the answer, names lower case; ASCII values, or `-bin` names with raw bytes.
        self.trailing_metadata: Sequence[tuple[bytes, bytes]] = ()

    def header(self, name: bytes) -> bytes | None:
        """The first value of a request header, or None. `name` is lower case."""
        for key, value in self.metadata:
            if key == name:
                return value
        return None


#: The call under way, for what cannot be passed through the store contract: log fields, traces,
#: headers that a grpc store forwards. None outside of calls.
current_call: ContextVar[CallContext | None] = ContextVar("current_call", default=None)


class SupportsSerialize(Protocol):
    """A protobuf message."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


#: An answer: a message, or its bytes.
Reply: TypeAlias = SupportsSerialize | bytes


class MessageSource(Protocol):
    """The requests of a client-streaming call, each as its bytes."""

    async def read(self) -> Chunk | None:
        """The next message, or None when the client half-closed. An empty message is `b""`."""
        ...


class MessageSink(Protocol):
    """The responses of a server-streaming call; awaiting `write` is HTTP/2 flow control."""

    async def write(self, *parts: Chunk) -> None:
        """Send one message made of `parts`, joined on the wire and never copied together here."""
        ...

    async def write_slices(self, head: bytes, data: memoryview, step: int) -> None:
        """Send messages of `head` and the next `step` bytes of `data` each, until there are none.

        A transport does this for less than as many `write`s cost.

        Args:
            head: what each message begins with.
            data: bytes, a multiple of `step` of them.
            step: at least 1.
        """
        for start in range(0, len(data), step):
            await self.write(head, data[start : start + step])


Parse: TypeAlias = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Method:
    """One gRPC method of a service.

    The handler's shape follows from the two streaming flags:

    ===============  ===============  ==================================================
    client_streaming server_streaming handler
    ===============  ===============  ==================================================
    no               no               `async (request, context) -> Reply`
    no               yes              `async (request, context, sink) -> None`
    yes              no               `async (source, context) -> Reply`
    yes              yes              `async (source, context, sink) -> None`
    ===============  ===============  ==================================================

    Attributes:
        path: `/package.Service/Method`.
        handler: the function; started at once, made a task only if it suspends.
        parse: turns the bytes of a non-streamed request into what the handler takes. Its
            failures answer INVALID_ARGUMENT.
        min_message_bytes: request messages of this length are taken even if the listener takes
            only shorter ones.
    """

    path: str
    handler: Callable[..., Awaitable[Any]]
    parse: Parse = bytes
    client_streaming: bool = False
    server_streaming: bool = False
    min_message_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A plain HTTP request, over HTTP/1.1 or HTTP/2."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    peer: Peer


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A plain HTTP answer."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


HttpHandler: TypeAlias = Callable[[HttpRequest], Awaitable[HttpResponse]]


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """A plain HTTP route: every path that equals `path`, or lies below it if `prefix`."""

    path: str
    handler: HttpHandler
    prefix: bool = False


class HttpSink(Sink, Protocol):
    """An answer of plain HTTP whose body comes in pieces; awaiting `write` is the backpressure."""

    def begin(self, response: HttpResponse, length: int | None) -> None:
        """Send the head of the answer; the body follows by `write`, and `response.body` is unused.

        A handler that raises after this, or ends before `length` bytes, cuts the answer off, which
        the client notices.

        Args:
            response: status, type and fields.
            length: bytes that will be written (none to a HEAD request, which is told the same
                length); None where that is not known.
        """
        ...


#: Takes a request whose `body` is empty, what it really sends, and where the answer goes. It
#: returns a whole answer, or None if it began one itself.
HttpStreamHandler: TypeAlias = Callable[
    [HttpRequest, Source, HttpSink], Awaitable["HttpResponse | None"]
]


@dataclass(frozen=True, slots=True)
class HttpStreamRoute:
    """A plain HTTP route whose bodies are streamed both ways, whatever their size.

    The handler begins as soon as the head of a request is there. `100 Continue` is sent when it
    first reads, so a refusal reaches the client before the body that nobody wants. The source's
    `size` is the request's Content-Length, which the transport enforces.
    """

    path: str
    handler: HttpStreamHandler
    prefix: bool = False
