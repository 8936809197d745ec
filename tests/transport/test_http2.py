"""The HTTP/2 machine: frames in, frames out, no sockets."""

import struct

import pytest

from nativelink.transport.flow import header_block
from nativelink.transport.frames import ErrorCode
from nativelink.transport.settings import ServerSettings
from tests.transport.wire import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    GRPC_FIELDS,
    HEADERS,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FIELDS,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Client,
    ends_with_goaway,
    frame,
    message,
    settings,
    u32,
    window_update,
)

HEAD = header_block([(b":status", b"200")])
TRAILERS = header_block([(b"grpc-status", b"0")], end_stream=True)
PREFIX = message(b"")


def kinds(frames):
    return [frame.kind for frame in frames]


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


# -- header blocks ------------------------------------------------------------------------------


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


# -- receiving under flow control ---------------------------------------------------------------


def test_credit_is_given_for_what_was_consumed_and_not_before():
    client = Client(
        ServerSettings(
            http2_initial_stream_window_size=40_000, http2_initial_connection_window_size=80_000
        )
    )
    stream = client.open()
    assert client.send(2 * frame(DATA, 0, 1, bytes(16384))) == []
    client.connection.credit(stream, 16384)
    assert client.frames() == []
    client.connection.credit(stream, 16384)
    (update,) = client.frames()
    assert (update.stream_id, update.payload) == (1, u32(32768))
    client.send(frame(DATA, 0, 1, bytes(8000)))
    client.connection.credit(stream, 8000)
    (update,) = client.frames()
    assert (update.stream_id, update.payload) == (0, u32(40768))


def test_what_a_reader_holds_is_given_back_when_the_last_frame_overtakes_its_credit():
    client = Client(ServerSettings(http2_initial_connection_window_size=80_000))
    stream = client.open()
    client.send(frame(DATA, 0, 1, bytes(16_000)))
    # The reader has the first chunk in its hands; the rest arrives meanwhile.
    stream.inbox.clear()
    client.send(frame(DATA, END_STREAM, 1, bytes(100)))
    client.connection.credit(stream, 16_000)
    client.connection.credit(stream, 100)
    assert stream.buffered == 0
    # Nothing was lost: the rest of half a window makes the update due.
    other = client.open()
    client.send(2 * frame(DATA, 0, 3, bytes(12_000)))
    client.connection.credit(other, 24_000)
    (update,) = client.frames()
    assert (update.stream_id, update.payload) == (0, u32(40_100))


def test_more_data_than_the_streams_window_ends_the_stream():
    client = Client(ServerSettings(http2_initial_stream_window_size=20_000))
    stream = client.open()
    frames = client.send(2 * frame(DATA, 0, 1, bytes(16384)))
    assert (frames[-1].kind, frames[-1].code) == (RST_STREAM, FLOW_CONTROL_ERROR)
    assert stream.reset == FLOW_CONTROL_ERROR


def test_more_data_than_the_connections_window_ends_the_connection():
    client = Client(ServerSettings(http2_initial_connection_window_size=65_535))
    client.open()
    frames = client.send(4 * frame(DATA, 0, 1, bytes(16384)))
    assert ends_with_goaway(frames, FLOW_CONTROL_ERROR)


def test_padding_counts_against_the_windows_and_is_given_back_at_once():
    client = Client(ServerSettings(http2_initial_stream_window_size=1000))
    stream = client.open()
    frames = client.send(3 * frame(DATA, PADDED, 1, bytes((200,)) + b"data" + bytes(200)))
    assert b"".join(map(bytes, stream.inbox)) == b"data" * 3
    assert [(f.kind, f.stream_id) for f in frames] == [(WINDOW_UPDATE, 1)]
    assert int.from_bytes(frames[0].payload, "big") == 603


def test_a_window_that_a_reader_keeps_empty_grows_if_it_may():
    client = Client(
        ServerSettings(http2_initial_stream_window_size=65_536, http2_adaptive_window=True)
    )
    stream = client.open()
    grants = 0
    for _ in range(64):
        client.send(2 * frame(DATA, 0, 1, bytes(16384)))
        client.connection.credit(stream, 32768)
        grants += sum(int.from_bytes(f.payload, "big") for f in client.frames() if f.stream_id == 1)
    assert stream.receive_window > 8 * 65_536
    assert stream.receive_window <= 16 * 1024 * 1024


# -- sending under flow control -----------------------------------------------------------------


def body_of(frames, stream_id=1):
    return b"".join(f.payload for f in frames if f.kind == DATA and f.stream_id == stream_id)


def test_an_answer_is_headers_one_message_and_trailers():
    client = Client()
    client.connection.respond(client.open(end=True), HEAD, PREFIX, b"hello", TRAILERS)
    frames = client.frames()
    assert kinds(frames) == [HEADERS, DATA, HEADERS]
    assert frames[1].payload == PREFIX + b"hello"
    assert frames[2].flags == END_STREAM | END_HEADERS
    assert client.decoder.decode(frames[2].payload) == [("grpc-status", "0")]
    assert not client.connection.streams


def test_an_early_answer_is_followed_by_a_reset_without_error():
    client = Client()
    stream = client.open()
    client.connection.respond(stream, HEAD, PREFIX, b"", TRAILERS)
    *_, trailers, reset = client.frames()
    assert trailers.kind == HEADERS
    assert (reset.kind, reset.code) == (RST_STREAM, NO_ERROR)
    # What the client had sent by then is discarded, and given back to the connection.
    frames = []
    for _ in range(300):
        frames += client.send(frame(DATA, 0, 1, bytes(16384)))
    assert client.connection.error is None
    assert {f.stream_id for f in frames} == {0}
    returned = sum(int.from_bytes(f.payload, "big") for f in frames)
    assert returned >= 300 * 16384 - 4 * 1024 * 1024


def test_an_answer_waits_for_the_streams_window():
    client = Client(greet=False)
    client.send(PREFACE + settings(window=10))
    client.connection.respond(client.open(end=True), HEAD, PREFIX, b"x" * 20, TRAILERS)
    frames = client.frames()
    assert kinds(frames) == [HEADERS, DATA]
    frames += client.send(window_update(1, 10))
    frames += client.send(window_update(1, 100))
    assert body_of(frames) == PREFIX + b"x" * 20
    assert kinds(frames) == [HEADERS, DATA, DATA, DATA, HEADERS]


def test_a_new_initial_window_moves_streams_that_are_open_even_below_zero():
    client = Client()
    stream = client.open()
    connection = client.connection
    connection.send_head(stream, HEAD)
    assert connection.send_data(stream, [b"x" * 60_000], 60_000)
    assert not connection.send_data(stream, [b"y" * 10_000], 10_000)
    assert len(body_of(client.frames())) == 65_535
    assert kinds(client.send(settings(window=100))) == [SETTINGS]
    client.send(window_update(0, 100_000))
    assert client.send(window_update(1, 65_435)) == [], "the window is only back at zero"
    assert len(body_of(client.send(window_update(1, 100)))) == 100
    frames = client.send(settings(window=1_000_000))
    assert len(body_of(frames)) == 70_000 - 65_635
    assert connection.drained == [stream]


def test_frames_are_as_long_as_the_peer_takes_and_cut_across_parts():
    client = Client(ServerSettings(http2_max_send_buf_size=10**9), greet=False)
    client.send(PREFACE + settings(window=10**9, max_frame=20_000) + window_update(0, 10**9))
    stream = client.open(end=True)
    parts = [bytes([index % 251]) * (index * 997 % 30_011) for index in range(40)]
    size = sum(map(len, parts))
    assert client.connection.send_data(stream, [memoryview(part) for part in parts], size)
    frames = client.frames()
    assert body_of(frames) == b"".join(parts)
    assert {len(f.payload) for f in frames[:-1]} == {20_000}


def test_streams_share_the_connections_window_in_turns():
    client = Client(greet=False)
    client.send(PREFACE + settings(window=10**6))
    one, two = client.open(end=True), client.open(end=True)
    for stream in (one, two):
        client.connection.send_data(stream, [bytes(100_000)], 100_000)
    client.frames()
    first = client.send(window_update(0, 20_000))
    second = client.send(window_update(0, 20_000))
    assert {f.stream_id for f in first} != {f.stream_id for f in second}


def test_nothing_is_sent_while_the_socket_is_full():
    client = Client()
    stream = client.open(end=True)
    client.connection.set_writable(False, 0.0)
    client.connection.respond(stream, HEAD, PREFIX, b"hello", TRAILERS)
    assert kinds(client.frames()) == [HEADERS]
    assert client.connection.parked_bytes == 10
    client.connection.set_writable(True, 0.0)
    assert kinds(client.frames()) == [DATA, HEADERS]
    assert client.connection.parked_bytes == 0


def test_no_more_is_queued_than_the_send_buffer_takes():
    client = Client(ServerSettings(http2_max_send_buf_size=50_000), greet=False)
    client.send(PREFACE + settings(window=10**9) + window_update(0, 10**9))
    stream = client.open(end=True)
    assert not client.connection.send_data(stream, [bytes(10**6)], 10**6)
    assert client.connection.out_bytes == 50_000
    total = 0
    while frames := client.frames():
        assert sum(len(f.payload) for f in frames) <= 50_000
        total += len(body_of(frames))
    assert total == 10**6
    assert client.connection.drained == [stream]


def test_a_window_beyond_31_bits_ends_the_stream():
    client = Client()
    stream = client.open()
    (reset,) = client.send(window_update(1, 2**31 - 1))
    assert (reset.kind, reset.code) == (RST_STREAM, FLOW_CONTROL_ERROR)
    assert stream.reset == FLOW_CONTROL_ERROR


# -- ends ---------------------------------------------------------------------------------------


def test_a_drain_serves_what_is_on_its_way_and_then_ends():
    client = Client()
    first = client.open(end=True)
    client.connection.drain(0.0)
    goaway, ping = client.frames()
    assert (goaway.kind, goaway.payload[:4]) == (GOAWAY, u32(2**31 - 1))
    second = client.open(end=True)
    (last,) = client.send(frame(PING, ACK, 0, ping.payload))
    assert (last.kind, last.payload) == (GOAWAY, u32(3) + u32(NO_ERROR))
    client.send(client.headers() + frame(DATA, END_STREAM, 5, b"too late"))
    assert not client.news
    assert not client.connection.done
    for stream in (first, second):
        client.connection.respond(stream, HEAD, PREFIX, b"", TRAILERS)
    assert client.connection.done
    assert client.connection.error is None


def test_an_error_after_a_drain_claims_no_stream_that_was_disclaimed():
    """RFC 9113 section 6.8: the last stream never grows from one GOAWAY to the next."""
    client = Client()
    client.open()
    client.connection.drain(0.0)
    client.send(frame(PING, ACK, 0, b"draining"))
    client.send(client.headers())
    (goaway,) = client.send(frame(DATA, 0, 0, b"x"))
    assert (goaway.kind, goaway.code) == (GOAWAY, PROTOCOL_ERROR)
    assert int.from_bytes(goaway.payload[:4], "big") == 1


def test_a_drain_does_not_wait_for_ever_for_its_ping():
    client = Client()
    client.connection.drain(0.0)
    client.frames()
    assert kinds(client.tick(2.0)) == [GOAWAY]
    assert client.connection.done


def test_an_idle_connection_is_drained():
    client = Client(ServerSettings(idle_timeout_s=60))
    client.connection.respond(client.open(end=True), HEAD, PREFIX, b"", TRAILERS)
    client.frames()
    assert client.tick(50) == []
    assert client.tick(50) == []
    assert kinds(client.tick(20)) == [GOAWAY, PING]


def test_a_connection_with_a_call_is_not_idle():
    client = Client(ServerSettings(idle_timeout_s=60))
    client.open()
    assert client.tick(50) == []
    assert client.tick(50) == []


def test_a_quiet_peer_is_pinged_and_given_up_without_an_answer():
    client = Client(ServerSettings(http2_keep_alive_interval_s=30, http2_keep_alive_timeout_s=10))
    client.open()
    (ping,) = client.tick(31)
    assert ping.kind == PING
    client.send(frame(PING, ACK, 0, ping.payload))
    assert client.tick(11) == []
    (ping,) = client.tick(31)
    frames = client.tick(11)
    assert ends_with_goaway(frames, NO_ERROR)
    assert client.connection.dead
    assert [stream.reset for stream in client.news] == [ErrorCode.CANCEL]


def test_abandoning_a_connection_ends_every_stream():
    client = Client()
    streams = [client.open(), client.open()]
    assert client.connection.abandon() == streams
    assert all(stream.reset is not None for stream in streams)
