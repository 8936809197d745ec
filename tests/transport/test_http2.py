"""The HTTP/2 machine: frames in, frames out, no sockets."""

import struct

import pytest

from nativelink.transport.settings import ServerSettings
from tests.transport.wire import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    GRPC_FIELDS,
    HEAD,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PREFIX,
    PRIORITY,
    PRIORITY_FIELDS,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    TRAILERS,
    WINDOW_UPDATE,
    Client,
    ends_with_goaway,
    frame,
    kinds,
    message,
    settings,
    u32,
)

# -- beginnings ---------------------------------------------------------------------------------


def test_the_greeting_is_settings_a_connection_window_and_the_acknowledgement():
    client = Client()
    assert kinds(client.greeting) == [SETTINGS, WINDOW_UPDATE, SETTINGS]
    assert client.greeting[2].flags == ACK


def test_the_greeting_tells_what_the_settings_allow():
    client = Client(
        ServerSettings(
            http2_max_concurrent_streams=11,
            http2_max_frame_size=20_000,
            http2_max_header_list_size=12_000,
            http2_initial_stream_window_size=70_000,
            http2_enable_connect_protocol=True,
        )
    )
    told = dict(struct.iter_unpack(">HI", client.greeting[0].payload))
    # RFC 9113, 6.5.2, and RFC 8441, 3.
    assert (told[3], told[4], told[5], told[6], told[8]) == (11, 70_000, 20_000, 12_000, 1)


@pytest.mark.parametrize("bad", [b"GET / HTTP/1.1\r\n", PREFACE[:-1] + b"x", b"\x00"])
def test_anything_but_the_preface_is_a_protocol_error(bad):
    assert ends_with_goaway(Client(greet=False).send(bad), PROTOCOL_ERROR)


def test_the_first_frame_must_be_settings():
    client = Client(greet=False)
    assert ends_with_goaway(client.send(PREFACE + frame(PING, 0, 0, b"8 octets")), PROTOCOL_ERROR)


def test_a_request_is_the_same_however_its_bytes_are_cut():
    def run(cut):
        client = Client(greet=False)
        data = (
            PREFACE
            + settings()
            + client.headers()
            + frame(DATA, 0, 1, message(b"x" * 3000)[:1000])
            + frame(DATA, END_STREAM, 1, message(b"x" * 3000)[1000:])
            + client.headers(end=True)
        )
        streams = {}
        for start in range(0, len(data), cut):
            for stream in client.connection.receive(data[start : start + cut], 0.0):
                streams[stream.id] = stream
        return [
            (s.id, s.head.path, b"".join(bytes(c) for c in s.inbox), s.ended)
            for s in streams.values()
        ], client.frames()

    whole = run(10**6)
    assert whole[0] == [
        (1, b"/test.Echo/Unary", message(b"x" * 3000), True),
        (3, b"/test.Echo/Unary", b"", True),
    ]
    for cut in (1, 2, 3, 7, 9, 10, 100, 1001):
        assert run(cut) == whole


def test_a_stream_is_in_the_news_once_however_many_frames_it_got():
    client = Client()
    client.send(client.headers() + 3 * frame(DATA, 0, 1, b"abc"))
    assert [stream.id for stream in client.news] == [1]
    client.send(2 * frame(DATA, 0, 1, b"abc"))
    assert [stream.id for stream in client.news] == [1]
    assert client.news[0].received == 15


# -- states -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
        (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        (frame(HEADERS, 5, 0, b"\x82"), PROTOCOL_ERROR),
        (frame(HEADERS, 5, 2, b"\x82"), PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 1, u32(8)), PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 1, b"x"), FRAME_SIZE_ERROR),
        (frame(WINDOW_UPDATE, 0, 1, u32(8)), PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, u32(0)), PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, u32(2**31 - 1)), FLOW_CONTROL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, b"x"), FRAME_SIZE_ERROR),
        (frame(CONTINUATION, 4, 1, b""), PROTOCOL_ERROR),
        (frame(PUSH_PROMISE, 4, 1, u32(2)), PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
        (frame(SETTINGS, ACK, 0, b"x" * 6), FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 0, b"x" * 5), FRAME_SIZE_ERROR),
        (settings(push=2), PROTOCOL_ERROR),
        (settings(window=2**31), FLOW_CONTROL_ERROR),
        (settings(max_frame=16383), PROTOCOL_ERROR),
        (frame(PING, 0, 1, b"8 octets"), PROTOCOL_ERROR),
        (frame(PING, 0, 0, b"7 octet"), FRAME_SIZE_ERROR),
        (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
        (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
        (frame(DATA, 0, 1, bytes(16385)), FRAME_SIZE_ERROR),
        (frame(HEADERS, PADDED | 4, 1, b"\x05abc"), PROTOCOL_ERROR),
        (frame(HEADERS, PRIORITY_FIELDS | 4, 1, b"abc"), FRAME_SIZE_ERROR),
    ],
)
def test_a_violation_ends_the_connection_with_its_code(data, code):
    client = Client()
    frames = client.send(data)
    assert ends_with_goaway(frames, code)
    assert client.connection.done
    assert client.send(client.headers(end=True)) == []
    assert not client.news


def test_an_unknown_frame_and_a_goaway_are_ignored():
    client = Client()
    assert client.send(frame(0xEE, 0xFF, 7, b"?") + frame(GOAWAY, 0, 0, bytes(8))) == []
    assert client.open().id == 1


def test_the_reserved_bit_is_ignored():
    client = Client()
    client.send(
        frame(HEADERS, 4, 2**31 + 1, client.block(GRPC_FIELDS))
        + frame(DATA, END_STREAM, 2**31 + 1, b"abc")
    )
    (stream,) = client.news
    assert (stream.id, stream.ended, stream.received) == (1, True, 3)


def test_ping_is_answered_with_its_octets():
    (pong,) = Client().send(frame(PING, 0, 0, b"8 octets"))
    assert (pong.kind, pong.flags, pong.payload) == (PING, ACK, b"8 octets")


def test_data_after_the_end_of_a_request_is_stream_closed():
    client = Client()
    stream = client.open(end=True)
    (reset,) = client.send(frame(DATA, 0, 1, b"x"))
    assert (reset.kind, reset.code) == (RST_STREAM, STREAM_CLOSED)
    assert client.news == [stream]


def test_data_on_a_stream_that_both_sides_ended_ends_the_connection():
    client = Client()
    client.connection.respond(client.open(end=True), HEAD, PREFIX, b"", TRAILERS)
    assert ends_with_goaway(client.send(frame(DATA, 0, 1, b"x")), STREAM_CLOSED)


def test_a_reset_by_the_peer_is_news_and_what_it_sent_is_given_back():
    client = Client(ServerSettings(http2_initial_connection_window_size=65535))
    stream = client.open()
    client.send(3 * frame(DATA, 0, 1, bytes(16384)))
    frames = client.send(frame(RST_STREAM, 0, 1, u32(CANCEL)))
    assert client.news == [stream]
    assert stream.reset == CANCEL
    assert kinds(frames) == [WINDOW_UPDATE]
    assert not client.connection.streams


def test_more_streams_than_allowed_are_refused_and_do_no_harm():
    client = Client(ServerSettings(http2_max_concurrent_streams=2))
    client.open()
    client.open()
    frames = client.send(client.headers() + frame(DATA, 0, 5, b"late") + client.headers())
    assert [(f.kind, f.stream_id, f.code) for f in frames] == [
        (RST_STREAM, 5, REFUSED_STREAM),
        (RST_STREAM, 7, REFUSED_STREAM),
    ]
    assert client.connection.refused == 2
