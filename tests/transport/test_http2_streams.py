"""Plain HTTP routes whose bodies are streamed, over HTTP/2."""

from __future__ import annotations

import asyncio

import pytest

from nativelink.testing.fakes import wait_until
from nativelink.transport import http_exchange
from nativelink.transport.server import ServerSettings
from tests.transport.http_streams import PIECE, PIECES, Streams
from tests.transport.wire import CANCEL, DATA, RST_STREAM, frame, window_update


async def test_http2_streams_a_body_in_as_many_frames_as_it_likes():
    async with Streams() as it:
        it.client.greet()
        stream = it.open("/sum", content_length="6")
        it.send(stream, b"abc")
        await wait_until(lambda: it.read == 3)
        it.send(stream, b"def", end=True)
        body, fields = await it.client.answer(stream)
        assert (body, fields[":status"]) == (b"6", "200")
        assert it.sizes == [6]


async def test_http2_knows_the_size_of_a_body_that_came_whole():
    async with Streams() as it:
        it.client.greet()
        stream = it.open("/sum", method="GET", end=True)
        assert (await it.client.answer(stream))[0] == b"0"
        assert it.sizes == [0]


async def test_http2_gives_credit_for_what_was_read_and_no_more():
    async with Streams(ServerSettings(http2_initial_stream_window_size=65_535)) as it:
        it.client.greet()
        stream = it.open("/gated")
        for _ in range(3):
            it.send(stream, bytes(16_384))
        it.gate.set()
        await wait_until(lambda: it.read == 3 * 16_384)
        for _ in range(3):
            it.send(stream, bytes(16_384))
            await wait_until(lambda: it.client.writer.transport.get_write_buffer_size() == 0)
        it.send(stream, b"", end=True)
        assert (await it.client.answer(stream))[0] == b"98304"


async def test_http2_holds_a_large_answer_until_there_is_a_window():
    async with Streams() as it:
        it.client.greet()
        stream = it.open("/big", method="GET", end=True)
        for _ in range(50):
            await asyncio.sleep(0)
        assert it.written < PIECES * len(PIECE)
        it.client.writer.write(window_update(stream, 2**30))
        body = bytearray()
        while len(body) < PIECES * len(PIECE):
            body += (await it.client.until(DATA, stream)).payload
        assert body == PIECE * PIECES
        assert it.written == len(body)


async def test_http2_head_tells_the_length_and_no_more():
    async with Streams() as it:
        it.client.greet()
        body, fields = await it.client.answer(it.open("/known", method="HEAD", end=True))
        assert (body, fields["content-length"]) == (b"", "5")


async def test_http2_says_that_nothing_changed_and_how_long_it_is():
    async with Streams() as it:
        it.client.greet()
        body, fields = await it.client.answer(it.open("/unchanged", method="GET", end=True))
        assert "reset" not in fields
        assert (body, fields[":status"], fields["content-length"]) == (b"", "304", "5")


@pytest.mark.parametrize("path", ["/short", "/long", "/breaks"])
async def test_http2_resets_an_answer_that_breaks_off(path):
    async with Streams() as it:
        it.client.greet()
        _, fields = await it.client.answer(it.open(path, method="GET", end=True))
        assert fields["reset"] == str(CANCEL)


async def test_http2_refuses_before_the_body_came():
    async with Streams() as it:
        it.client.greet()
        stream = it.open("/forbidden", content_length="1000000")
        body, fields = await it.client.answer(stream)
        assert (body, fields[":status"]) == (b"not here\n", "403")
        assert (await it.client.until(RST_STREAM, stream)).code == 0


@pytest.mark.parametrize("announced", [True, False])
async def test_http2_lets_a_refused_client_send_what_little_it_sends(announced):
    async with Streams() as it:
        it.client.greet()
        extra = {"content_length": "200000"} if announced else {}
        stream = it.open("/forbidden", **extra)
        for _ in range(19):
            it.send(stream, bytes(10_000))
        it.send(stream, bytes(10_000), end=True)
        body, fields = await it.client.answer(stream)
        assert (body, fields[":status"]) == (b"not here\n", "403")
        # What comes next is the next answer, and no reset, which some clients would report.
        it.open("/plain", method="GET", end=True)
        while (following := await it.client.frame()).stream_id in {0, stream}:
            assert following.kind != RST_STREAM


async def test_http2_refuses_a_client_that_sends_without_end():
    async with Streams() as it:
        it.client.greet()
        stream = it.open("/forbidden")
        for _ in range(20):
            it.send(stream, bytes(16_000))
        body, fields = await it.client.answer(stream)
        assert (body, fields[":status"]) == (b"not here\n", "403")
        assert (await it.client.until(RST_STREAM, stream)).code == 0


async def test_http2_refuses_at_once_who_waits_to_be_asked_for_the_body():
    async with Streams() as it:
        it.client.greet()
        stream = it.open("/forbidden", content_length="5", expect="100-continue")
        assert (await it.client.answer(stream))[1][":status"] == "403"


async def test_http2_does_not_wait_for_ever_for_what_a_refused_client_sends(monkeypatch):
    monkeypatch.setattr(http_exchange, "_LINGER_S", 0.001)
    async with Streams() as it:
        it.client.greet()
        stream = it.open("/forbidden", content_length="5")
        assert (await it.client.answer(stream))[1][":status"] == "403"
        assert (await it.client.until(RST_STREAM, stream)).code == 0


async def test_http2_lets_a_refused_client_go_away():
    async with Streams() as it:
        it.client.greet()
        stream = it.open("/forbidden", content_length="5")
        it.client.writer.write(frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")))
        assert (await it.client.answer(it.open("/plain", method="GET", end=True)))[0] == b"plain"


async def test_http2_reports_a_handler_that_gives_no_answer():
    async with Streams() as it:
        it.client.greet()
        _, fields = await it.client.answer(it.open("/silent", method="GET", end=True))
        assert fields[":status"] == "500"


async def test_http2_cancels_an_upload_that_is_reset():
    async with Streams() as it:
        it.client.greet()
        stream = it.open("/sum")
        it.send(stream, b"abc")
        await wait_until(lambda: it.read == 3)
        it.client.writer.write(frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")))
        await wait_until(lambda: it.cancelled)


async def test_http2_sends_away_an_upload_that_stalls():
    async with Streams() as it:
        it.client.greet()
        stream = it.open("/sum")
        it.send(stream, b"abc")
        await wait_until(lambda: it.read == 3)
        it.pass_time(61)
        assert (await it.client.until(RST_STREAM, stream)).code == CANCEL
        await wait_until(lambda: it.cancelled)
