"""How a connection ends: drained, idle, without an answer, abandoned."""

from nativelink.transport.frames import ErrorCode
from nativelink.transport.settings import ServerSettings
from tests.transport.wire import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEAD,
    NO_ERROR,
    PING,
    PREFIX,
    PROTOCOL_ERROR,
    TRAILERS,
    Client,
    ends_with_goaway,
    frame,
    kinds,
    u32,
)


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
