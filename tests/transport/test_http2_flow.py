"""Both directions under flow control: credit, windows, turns, bounds."""

import random

import pytest

from nativelink.transport.settings import ServerSettings
from tests.transport.wire import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    HEAD,
    HEADERS,
    NO_ERROR,
    PADDED,
    PREFACE,
    PREFIX,
    RST_STREAM,
    SETTINGS,
    TRAILERS,
    WINDOW_UPDATE,
    Client,
    ends_with_goaway,
    frame,
    kinds,
    settings,
    u32,
    window_update,
)

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


def test_a_small_answer_waits_for_a_turn_of_each_stream_and_not_for_all_that_they_send():
    client = Client(greet=False)
    client.send(PREFACE + settings(window=2**30) + window_update(0, 2**30))
    *readers, asker = [client.open(end=True) for _ in range(9)]
    for stream in readers:
        client.connection.send_head(stream, HEAD)
        client.connection.send_data(stream, [bytes(10**6)], 10**6)
    client.connection.respond(asker, HEAD, PREFIX, b"hello", TRAILERS)
    order = []
    while frames := client.frames():
        order += frames
    answer = next(at for at, f in enumerate(order) if f.kind == DATA and f.stream_id == asker.id)
    # The buffer was full before it was asked for.
    assert sum(len(f.payload) for f in order[:answer]) < 1280 * 1024 + 8 * 131_072
    assert all(len(body_of(order, stream.id)) == 10**6 for stream in readers)


@pytest.mark.parametrize("seed", range(12))
def test_each_stream_gets_its_bytes_in_order_however_it_waits(seed):
    chance = random.Random(seed)
    client = Client(
        ServerSettings(http2_max_send_buf_size=chance.choice([5000, 20_000, 1280 * 1024])),
        greet=False,
    )
    greeting = settings(window=chance.choice([0, 1000, 70_000]), max_frame=20_000)
    got = client.send(PREFACE + greeting)
    connection, streams, sent = client.connection, [], {}
    for _ in range(80):
        act = chance.choice(["open", "write", "write", "finish", "pause", "grant", "grant", "read"])
        stream = chance.choice(streams) if streams else None
        if act == "open":
            got += client.send(client.headers(end=True))
            (stream,) = client.news
            streams.append(stream)
            sent[stream.id] = b""
            connection.send_head(stream, HEAD)
        elif act == "write" and stream is not None and not stream.finished:
            parts = [chance.randbytes(chance.choice([0, 1, 9, 1000, 200_000])) for _ in range(3)]
            sent[stream.id] += b"".join(parts)
            connection.send_data(stream, parts, sum(map(len, parts)))
        elif act == "finish" and stream is not None and not stream.finished:
            connection.finish(stream, TRAILERS)
        elif act == "pause":
            connection.set_writable(chance.random() < 0.5, 0.0)
        elif act == "grant":
            stream_id = 0 if stream is None or stream.id not in connection.streams else stream.id
            got += client.send(window_update(stream_id, chance.choice([1, 1000, 200_000])))
        got += client.frames()
        waiting = [each for each in streams if each.outbox is not None]
        assert all(sum(map(len, each.outbox)) == each.outbox_bytes > 0 for each in waiting)
        assert connection.parked_bytes == sum(e.outbox_bytes for e in waiting if e.finished)
    connection.set_writable(True, 0.0)
    for stream_id in (0, *connection.streams):
        got += client.send(window_update(stream_id, 2**30))
    while frames := client.frames():
        got += frames
    for stream in streams:
        assert body_of(got, stream.id) == sent[stream.id]
        ends = [f for f in got if f.stream_id == stream.id and f.flags & END_STREAM]
        assert len(ends) == stream.finished
    assert connection.error is None


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
