"""Header blocks and trailers: what is a request, and what ends its stream."""

import pytest

from nativelink.transport.settings import ServerSettings
from tests.transport.wire import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GRPC_FIELDS,
    HEADERS,
    PADDED,
    PING,
    PRIORITY_FIELDS,
    PROTOCOL_ERROR,
    RST_STREAM,
    SETTINGS,
    Client,
    ends_with_goaway,
    frame,
    u32,
)


def test_a_block_may_come_in_continuations_with_padding_and_priority():
    client = Client()
    block = client.block(GRPC_FIELDS)
    payload = bytes((3,)) + u32(0) + b"\x10" + block[:5] + bytes(3)
    client.send(
        frame(HEADERS, PADDED | PRIORITY_FIELDS | END_STREAM, 1, payload)
        + frame(CONTINUATION, 0, 1, block[5:9])
        + frame(CONTINUATION, END_HEADERS, 1, block[9:])
    )
    (stream,) = client.news
    assert stream.ended
    assert stream.head.fields[0] == (b"content-type", b"application/grpc")


@pytest.mark.parametrize("kind", [DATA, HEADERS, PING, SETTINGS, 0xFA])
def test_nothing_may_come_between_the_frames_of_a_block(kind):
    client = Client()
    frames = client.send(frame(HEADERS, 0, 1, client.block(GRPC_FIELDS)) + frame(kind, 0, 1))
    assert ends_with_goaway(frames, PROTOCOL_ERROR)


def test_a_repeated_block_gives_the_same_head_until_the_table_changes():
    client = Client()
    client.open()
    second, third = client.open(), client.open()
    assert second.head is third.head
    other = client.open(x_new="1")
    assert other.head is not third.head
    again = client.open()
    assert again.head is not third.head, "an index now means another field"
    assert again.head.fields == third.head.fields


@pytest.mark.parametrize(
    "fields",
    [
        [(":method", "POST"), (":scheme", "http")],
        [(":method", "POST"), (":scheme", "http"), (":path", "")],
        [*GRPC_FIELDS, (":path", "/late")],
        [(":path", "/twice"), *GRPC_FIELDS],
        [(":status", "200"), *GRPC_FIELDS],
        [*GRPC_FIELDS, ("Upper", "x")],
        [*GRPC_FIELDS, ("connection", "close")],
        [*GRPC_FIELDS, ("transfer-encoding", "chunked")],
        [*GRPC_FIELDS, ("te", "gzip")],
        [*GRPC_FIELDS, ("content-length", "-1")],
        [*GRPC_FIELDS, ("content-length", "1"), ("content-length", "2")],
        [*GRPC_FIELDS, ("x", "a\r\nb")],
        [*GRPC_FIELDS, ("x", "\x00")],
        [*GRPC_FIELDS, ("sp ace", "x")],
        [(":method", "CONNECT"), (":scheme", "http"), (":authority", "x"), (":path", "/")],
    ],
)
def test_a_malformed_request_ends_its_stream_and_not_the_connection(fields):
    client = Client()
    # Twice: the second time every field comes out of the table.
    for stream_id in (1, 3):
        (reset,) = client.send(client.headers(fields, end=True))
        assert (reset.kind, reset.stream_id, reset.code) == (RST_STREAM, stream_id, PROTOCOL_ERROR)
        assert not client.news
    assert client.open().id == 5


def test_content_length_must_be_what_was_sent():
    for length, fits in ((5, True), (4, False), (6, False)):
        client = Client()
        stream = client.open(content_length=str(length))
        frames = client.send(frame(DATA, 0, 1, b"abc") + frame(DATA, END_STREAM, 1, b"de"))
        assert stream.ended is fits
        assert bool(frames) is not fits


def test_trailers_end_a_request():
    client = Client()
    stream = client.open()
    client.send(client.headers([("x-checksum", "1")], end=True, stream_id=1))
    assert stream.ended
    assert client.news == [stream]


@pytest.mark.parametrize(
    ("fields", "end"), [([("x", "1")], False), ([(":path", "/")], True), ([("A", "b")], True)]
)
def test_malformed_trailers_end_the_stream(fields, end):
    client = Client()
    stream = client.open()
    (reset,) = client.send(client.headers(fields, end=end, stream_id=1))
    assert reset.code == PROTOCOL_ERROR
    assert stream.reset == PROTOCOL_ERROR


def test_a_list_beyond_the_limit_is_marked_and_the_table_stays_right():
    client = Client(ServerSettings(http2_max_header_list_size=500))
    stream = client.open(x_long="y" * 600)
    assert stream.head.oversized
    fine = client.open()
    assert not fine.head.oversized
    assert fine.head.path == b"/test.Echo/Unary"


def test_a_broken_block_is_a_compression_error():
    client = Client()
    assert ends_with_goaway(client.send(frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff\xff")), 9)
