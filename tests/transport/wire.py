"""The other end of the wire: frames built and read by code that shares nothing with ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import hpack

from nativelink.transport.flow import header_block
from nativelink.transport.http2 import Http2Connection
from nativelink.transport.settings import ServerSettings
from nativelink.transport.streams import Stream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
(
    DATA,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    PUSH_PROMISE,
    PING,
    GOAWAY,
    WINDOW_UPDATE,
    CONTINUATION,
) = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FIELDS = 1, 1, 4, 8, 32

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT = range(5)
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = range(5, 10)
ENHANCE_YOUR_CALM = 11

GRPC_FIELDS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Echo/Unary"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return (
        len(payload).to_bytes(3, "big")
        + bytes((kind, flags))
        + stream_id.to_bytes(4, "big")
        + payload
    )


def settings(**values: int) -> bytes:
    numbers = {"window": 4, "max_frame": 5, "push": 2, "table": 1, "streams": 3}
    payload = b"".join(
        numbers[name].to_bytes(2, "big") + value.to_bytes(4, "big")
        for name, value in values.items()
    )
    return frame(SETTINGS, 0, 0, payload)


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, u32(increment))


def message(data: bytes, flag: int = 0) -> bytes:
    return bytes((flag,)) + u32(len(data)) + data


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        return int.from_bytes(self.payload[4:8] if self.kind == GOAWAY else self.payload, "big")


def parse(data: bytes) -> Iterator[Frame]:
    index = 0
    while index < len(data):
        length = int.from_bytes(data[index : index + 3], "big")
        payload = data[index + 9 : index + 9 + length]
        assert len(payload) == length, "a frame was cut off"
        yield Frame(
            data[index + 3],
            data[index + 4],
            int.from_bytes(data[index + 5 : index + 9], "big"),
            payload,
        )
        index += 9 + length


class Client:
    """A client in front of a connection machine, with no socket between them."""

    def __init__(
        self, settings_: ServerSettings | None = None, *, now: float = 0.0, greet: bool = True
    ) -> None:
        self.connection = Http2Connection(settings_ or ServerSettings(), now)
        self.now = now
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.next_id = 1
        self.news: list[Stream] = []
        if greet:
            self.greeting = self.send(PREFACE + settings())

    def send(self, data: bytes) -> list[Frame]:
        """Give bytes to the server; the frames that it answers at once."""
        self.news = self.connection.receive(data, self.now)
        return self.frames()

    def frames(self) -> list[Frame]:
        frames = list(parse(b"".join(self.connection.take_output())))
        self.connection.pump()
        return frames

    def block(self, fields: Iterable[tuple[str, str]]) -> bytes:
        return self.encoder.encode(list(fields))

    def headers(
        self,
        fields: Iterable[tuple[str, str]] = GRPC_FIELDS,
        *,
        end: bool = False,
        stream_id: int | None = None,
    ) -> bytes:
        if stream_id is None:
            stream_id = self.next_id
            self.next_id += 2
        return frame(
            HEADERS, END_HEADERS | (END_STREAM if end else 0), stream_id, self.block(fields)
        )

    def open(self, *, end: bool = False, **extra: str) -> Stream:
        """Open a stream, and take the server's view of it."""
        fields = [*GRPC_FIELDS, *((name.replace("_", "-"), text) for name, text in extra.items())]
        self.send(self.headers(fields, end=end))
        (stream,) = self.news
        return stream

    def tick(self, seconds: float) -> list[Frame]:
        self.now += seconds
        self.news = self.connection.tick(self.now)
        return self.frames()


def ends_with_goaway(frames: list[Frame], code: int) -> bool:
    return bool(frames) and frames[-1].kind == GOAWAY and frames[-1].code == code


def kinds(frames):
    return [frame.kind for frame in frames]


#: A successful answer's headers and trailers, and the prefix of an empty message.
HEAD = header_block([(b":status", b"200")])
TRAILERS = header_block([(b"grpc-status", b"0")], end_stream=True)
PREFIX = message(b"")
