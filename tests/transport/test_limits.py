"""Each limit, by doing the attack: the connection that attacks ends, with the right code."""

import tracemalloc

import pytest

from nativelink.transport.flow import header_block
from nativelink.transport.limits import Allowance, max_continuations
from nativelink.transport.settings import ServerSettings
from tests.transport.wire import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    GRPC_FIELDS,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    SETTINGS_TIMEOUT,
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


def attack(client, data, times):
    """Send `data` until the connection ends; how often that took, or None."""
    for count in range(times):
        if client.connection.error is not None:
            return count
        client.send(data(count) if callable(data) else data)
    return None


def code_of(client):
    return client.connection.error and client.connection.error.code


def test_rapid_reset_is_sent_away():
    """CVE-2023-44487."""
    client = Client(ServerSettings(http2_max_pending_accept_reset_streams=100))

    def open_and_reset(_):
        stream_id = client.next_id
        return client.headers() + frame(RST_STREAM, 0, stream_id, u32(CANCEL))

    assert attack(client, open_and_reset, 1000) == 101
    assert code_of(client) == ENHANCE_YOUR_CALM


def test_resets_at_an_honest_pace_are_served_for_ever():
    client = Client(ServerSettings(http2_max_pending_accept_reset_streams=100))
    for _ in range(1000):
        client.now += 0.05
        stream_id = client.next_id
        client.send(client.headers())
        client.send(frame(RST_STREAM, 0, stream_id, u32(CANCEL)))
    assert client.connection.error is None


def test_making_us_reset_counts_like_resetting():
    """CVE-2025-8671 ("MadeYouReset")."""
    client = Client(ServerSettings(http2_max_pending_accept_reset_streams=100))

    def open_and_provoke(_):
        stream_id = client.next_id
        return client.headers() + window_update(stream_id, 0)

    assert attack(client, open_and_provoke, 1000) == 101
    assert code_of(client) == ENHANCE_YOUR_CALM


def test_malformed_requests_count_like_resets():
    client = Client(ServerSettings(http2_max_pending_accept_reset_streams=100))
    assert attack(client, lambda _: client.headers([("x", "1")]), 1000) == 101


@pytest.mark.parametrize(
    "data",
    [
        frame(PING, 0, 0, b"8 octets"),
        frame(PING, 1, 0, b"8 octets"),
        settings(window=65535),
        frame(SETTINGS, 1, 0),
        frame(PRIORITY, 0, 9, u32(0) + b"\x01"),
        frame(0xAB, 0, 0, b"unknown"),
        window_update(0, 1),
        window_update(1, 1),
        frame(DATA, 0, 1, b""),
    ],
    ids=["ping", "pong", "settings", "ack", "priority", "unknown", "window", "stream", "empty"],
)
def test_frames_without_a_purpose_are_limited(data):
    """CVE-2019-9512, 9515, 9511, 9513, 9518."""
    client = Client()
    client.open()
    assert attack(client, data, 3000) is not None
    assert code_of(client) == ENHANCE_YOUR_CALM


def test_pings_and_window_updates_that_come_with_calls_are_not_limited():
    client = Client()
    for _ in range(3000):
        stream = client.open(end=True)
        client.send(frame(PING, 0, 0, b"8 octets") + window_update(0, 100))
        client.connection.respond(stream, HEAD, message(b"x"), b"", TRAILERS)
        client.frames()
    assert client.connection.error is None


def test_pings_that_come_with_a_long_download_are_not_limited():
    client = Client(greet=False)
    client.send(PREFACE + settings(window=10**9) + window_update(0, 10**9))
    stream = client.open(end=True)
    for _ in range(3000):
        assert client.connection.send_data(stream, [bytes(16384)], 16384)
        client.frames()
        client.send(frame(PING, 0, 0, b"8 octets") + window_update(0, 16384))
    assert client.connection.error is None


def test_many_settings_in_one_frame_are_too_many():
    """CVE-2020-11080."""
    client = Client()
    frames = client.send(frame(SETTINGS, 0, 0, (b"\x00\x04" + u32(65535)) * 33))
    assert ends_with_goaway(frames, ENHANCE_YOUR_CALM)


def test_answers_that_nobody_reads_are_limited():
    client = Client()
    connection = client.connection
    connection.set_writable(False, 0.0)
    for second in range(500):
        # Slow enough for the allowance: what ends it is that the answers pile up.
        client.now = float(second)
        connection.receive(90 * frame(PING, 0, 0, b"8 octets"), client.now)
        if connection.error is not None:
            break
    assert code_of(client) == ENHANCE_YOUR_CALM
    assert len(connection.out) < 11_000


def test_continuations_without_end_are_cut_off():
    """CVE-2024-27316, CVE-2024-28182."""
    client = Client()
    client.send(frame(HEADERS, 0, 1, client.block(GRPC_FIELDS)))
    assert attack(client, frame(CONTINUATION, 0, 1, b""), 100) == 6
    assert code_of(client) == ENHANCE_YOUR_CALM


def test_a_block_longer_than_any_allowed_list_is_cut_off():
    client = Client()
    client.send(frame(HEADERS, 0, 1, bytes(16384)))
    assert attack(client, frame(CONTINUATION, 0, 1, bytes(16384)), 100) == 2
    assert code_of(client) == ENHANCE_YOUR_CALM


def test_the_largest_allowed_list_passes_in_as_many_frames_as_it_needs():
    limit = 200_000
    client = Client(ServerSettings(http2_max_header_list_size=limit))
    block = client.block([*GRPC_FIELDS, *((f"x-{n}", "y" * 1000) for n in range(185))])
    pieces = [block[start : start + 16384] for start in range(0, len(block), 16384)]
    data = frame(HEADERS, 0, 1, pieces[0])
    for piece in pieces[1:-1]:
        data += frame(CONTINUATION, 0, 1, piece)
    client.send(data + frame(CONTINUATION, END_HEADERS, 1, pieces[-1]))
    (stream,) = client.news
    assert not stream.head.oversized
    assert len(pieces) - 1 <= max_continuations(limit, 16384)


def test_a_header_bomb_ends_the_connection_before_it_costs_anything():
    """CVE-2016-6581: small blocks, large lists."""
    client = Client()
    client.open(x_bomb="y" * 3900)
    tracemalloc.start()
    frames = client.send(frame(HEADERS, END_HEADERS, 3, b"\xbe" * 16000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ends_with_goaway(frames, ENHANCE_YOUR_CALM)
    assert peak < 200_000


def test_tiny_frames_are_held_as_bytes_and_not_as_objects():
    client = Client()
    client.open()
    tracemalloc.start()
    for _ in range(10):
        client.connection.receive(1000 * frame(DATA, 0, 1, b"ab"), 0.0)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert client.connection.error is None
    assert held < 100_000, "20,000 bytes were sent, in 10,000 frames"


def test_a_small_frame_does_not_keep_its_whole_read_alive():
    client = Client(ServerSettings(http2_initial_connection_window_size=2**30))
    stalled, busy = client.open(), client.open()
    tracemalloc.start()
    for _ in range(100):
        client.connection.receive(
            frame(DATA, 0, 1, bytes(600)) + 15 * frame(DATA, 0, 3, bytes(16384)), 0.0
        )
        busy.inbox.clear()
        client.connection.credit(busy, busy.buffered)
        client.connection.take_output()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stalled.buffered == 60_000
    assert held < 1_000_000, "24 MB went through"


def test_a_preface_that_does_not_come_is_not_awaited_for_ever():
    for begun in (b"", PREFACE[:10], PREFACE):
        client = Client(ServerSettings(header_timeout_s=30), greet=False)
        client.send(begun)
        assert not any(f.kind == 7 for f in client.tick(29))
        assert ends_with_goaway(client.tick(2), SETTINGS_TIMEOUT)


def test_headers_that_do_not_end_are_not_awaited_for_ever():
    client = Client(ServerSettings(header_timeout_s=30))
    client.send(frame(HEADERS, 0, 1, b"\x82"))
    client.tick(20)
    client.send(frame(CONTINUATION, 0, 1, b"\x82"))
    assert ends_with_goaway(client.tick(11), ENHANCE_YOUR_CALM)


def test_a_body_that_rests_is_not_awaited_for_ever_where_it_is_needed_whole():
    client = Client(ServerSettings(body_timeout_s=60))
    unary, streaming = client.open(), client.open()
    unary.whole = True
    client.tick(50)
    client.send(frame(DATA, 0, 1, b"x"))
    assert client.tick(50) == []
    (reset,) = client.tick(11)
    assert (reset.kind, reset.stream_id) == (RST_STREAM, 1)
    assert client.news == [unary]
    assert streaming.reset is None


def test_a_stream_whose_peer_takes_nothing_ends():
    client = Client(ServerSettings(send_timeout_s=60), greet=False)
    client.send(PREFACE + settings(window=10))
    stream = client.open(end=True)
    client.connection.send_data(stream, [bytes(100)], 100)
    client.frames()
    client.tick(50)
    client.send(window_update(1, 10))
    assert client.tick(50) == []
    (reset,) = client.tick(11)
    assert (reset.kind, reset.code) == (RST_STREAM, CANCEL)
    assert client.news == [stream]


def test_a_stream_that_waits_for_its_turn_ends_only_if_nobody_has_one():
    client = Client(ServerSettings(send_timeout_s=60), greet=False)
    client.send(PREFACE + settings(window=2**20))
    streams = [client.open(end=True) for _ in range(5)]
    for stream in streams:
        client.connection.send_data(stream, [bytes(10**6)], 10**6)
    client.frames()
    for _ in range(10):
        client.tick(20)
        client.send(window_update(0, 100_000))
    assert [stream.reset for stream in streams] == 5 * [None]
    client.tick(59)
    assert [stream.reset for stream in streams] == 5 * [None]
    client.tick(2)
    assert [stream.reset for stream in streams] == 5 * [CANCEL]


def test_an_answer_after_a_long_quiet_may_wait_for_the_peer():
    client = Client(ServerSettings(send_timeout_s=60), greet=False)
    client.send(PREFACE + settings(window=0))
    stream = client.open(end=True)
    client.tick(100)
    client.connection.send_data(stream, [bytes(100)], 100)
    client.tick(59)
    assert stream.reset is None
    client.tick(2)
    assert stream.reset == CANCEL


def test_a_connection_whose_peer_reads_nothing_ends():
    client = Client(ServerSettings(send_timeout_s=60))
    stream = client.open(end=True)
    client.connection.set_writable(False, client.now)
    client.tick(59)
    assert not client.connection.dead
    client.tick(2)
    assert client.connection.dead
    assert client.news == [stream]


def test_an_allowance_comes_back_with_time_and_with_work_up_to_its_burst():
    allowance = Allowance(10, 1, 0.0)
    assert all(allowance.spend(1, 0.0) for _ in range(10))
    assert not allowance.spend(1, 0.0)
    assert allowance.spend(1, 2.0)
    assert allowance.spend(5, 2.0, earned=100)
    assert not allowance.spend(6, 2.0)
