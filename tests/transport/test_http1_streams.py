"""Plain HTTP routes whose bodies are streamed, over HTTP/1.1."""

from __future__ import annotations

import asyncio

import h11
import pytest

from nativelink.testing.fakes import Turns, wait_until
from nativelink.transport.http1_stream import Http1Stream
from tests.transport.http_streams import PIECE, PIECES, Streams


async def test_a_body_is_read_as_it_comes():
    async with Streams() as it:
        it.put("/sum", f"Content-Length: {3 * len(PIECE)}")
        for _ in range(3):
            it.client.writer.write(PIECE)
            await it.client.writer.drain()
        assert b" 200 " in await it.head()
        assert await it.client.reader.readexactly(6) == b"196608"
        assert it.sizes == [3 * len(PIECE)]


@pytest.mark.parametrize(
    ("path", "line"),
    [("/known", b"200 OK"), ("/plain", b"200 OK"), ("/forbidden", b"403 Forbidden")],
)
async def test_a_status_has_its_words_as_some_clients_want_them(path, line):
    async with Streams() as it:
        it.put(path, method="GET")
        assert (await it.head()).startswith(b"HTTP/1.1 " + line + b"\r\n")


async def test_a_chunked_body_has_no_size_and_is_read_all_the_same():
    async with Streams() as it:
        it.put("/sum", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n2")
        await wait_until(lambda: it.read == 3)
        it.client.writer.write(b"\r\nde\r\n0\r\n\r\n")
        assert b" 200 " in await it.head()
        assert await it.client.reader.readexactly(1) == b"5"
        assert it.sizes == [None]


async def test_tiny_chunks_come_together_and_let_others_have_a_turn():
    count = 4000
    http = h11.Connection(h11.SERVER)
    http.receive_data(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    http.receive_data(b"5\r\ntiny!\r\n" * count + b"0\r\n\r\n")
    request = http.next_event()
    stream = Http1Stream(
        http,
        asyncio.Transport(),
        request,
        monotonic=lambda: 0.0,
        closes=lambda: False,
        blocked=lambda: False,
    )
    async with Turns() as turns:
        pieces = [await stream.read() for _ in range(3)]
    assert b"".join(pieces) == b"tiny!" * count
    assert list(map(len, pieces)) == [16_385, 3615, 0]
    assert turns.taken >= count // 64 - 2


async def test_a_request_without_a_body_has_none():
    async with Streams() as it:
        it.put("/sum", method="GET")
        await it.head()
        assert await it.client.reader.readexactly(1) == b"0"
        assert it.sizes == [0]


async def test_a_body_is_asked_for_when_it_is_read():
    async with Streams() as it:
        it.put("/gated", "Content-Length: 3", "Expect: 100-continue")
        it.gate.set()
        assert (await it.head()).startswith(b"HTTP/1.1 100 ")
        it.client.writer.write(b"abc")
        assert b" 200 " in await it.head()


async def test_a_refusal_comes_before_the_body_is_asked_for():
    async with Streams() as it:
        it.put("/forbidden", "Content-Length: 1000000000", "Expect: 100-continue")
        answer = await it.client.closed()
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"connection: close" in answer
        assert answer.endswith(b"not here\n")


async def test_a_refusal_reaches_a_client_that_sends_its_body_all_the_same():
    async with Streams() as it:
        it.put("/forbidden", "Content-Length: 1000000000", body=PIECE)
        assert b" 403 " in await it.head()
        # Nothing is reset under it while it goes on for a while.
        for _ in range(8):
            it.client.writer.write(PIECE)
            await it.client.writer.drain()
        assert await it.client.closed() == b"not here\n"
        it.pass_time(10)
        await wait_until(lambda: it.server.statistics().connections == 0)


async def test_what_goes_nowhere_is_told_so_at_once():
    async with Streams() as it:
        it.put("/nowhere/cas/x", "Content-Length: 3", body=b"abc")
        it.put("/nowhere", "Content-Length: 1000000000", body=PIECE)
        for path in (b"/nowhere/cas/x", b"/nowhere"):
            assert b" 404 Not Found\r\n" in await it.head()
            text = b"No route for %s; / says what there is\n" % path
            assert await it.client.reader.readexactly(len(text)) == text
        assert await it.client.closed() == b""


async def test_a_refused_body_that_is_there_already_costs_no_connection():
    async with Streams() as it:
        it.put("/forbidden", "Content-Length: 3", body=b"abc")
        assert b" 403 " in await it.head()
        assert await it.client.reader.readexactly(9) == b"not here\n"
        it.put("/plain", method="GET")
        assert b" 200 " in await it.head()


async def test_requests_follow_each_other_on_one_connection():
    async with Streams() as it:
        for _ in range(2):
            it.put("/sum", "Content-Length: 3", body=b"abc")
            it.put("/known", method="GET")
            it.put("/plain", method="GET")
            assert b" 200 " in await it.head()
            assert await it.client.reader.readexactly(1) == b"3"
            assert b"content-length: 5" in await it.head()
            assert await it.client.reader.readexactly(5) == b"abcde"
            assert b" 200 " in await it.head()
            assert await it.client.reader.readexactly(5) == b"plain"


async def test_a_large_answer_waits_for_its_reader():
    async with Streams() as it:
        it.put("/big", method="GET")
        head = await it.head()
        assert b"x-what: big" in head
        assert f"content-length: {PIECES * len(PIECE)}".encode() in head
        await wait_until(lambda: it.written > 0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert it.written < PIECES * len(PIECE)
        for _ in range(PIECES):
            assert await it.client.reader.readexactly(len(PIECE)) == PIECE
        it.put("/plain", method="GET")
        assert b" 200 " in await it.head()


async def test_head_tells_the_length_and_no_more():
    async with Streams() as it:
        it.put("/known", method="HEAD")
        assert b"content-length: 5" in await it.head()
        it.put("/plain", method="GET")
        assert b" 200 " in await it.head()


@pytest.mark.parametrize("path", ["/short", "/long", "/breaks"])
async def test_an_answer_that_breaks_off_is_cut_off(path):
    async with Streams() as it:
        it.put(path, method="GET")
        assert b" 200 " in await it.head()
        rest = await it.client.closed()
        # Neither three bytes of ten nor a chunk without the last one passes for a whole body.
        assert rest in {b"", b"abc", b"3\r\nabc\r\n"}


async def test_a_handler_that_gives_no_answer_is_a_closed_connection():
    async with Streams() as it:
        it.put("/silent", method="GET")
        assert await it.client.closed() == b""


async def test_an_upload_that_breaks_off_is_an_error_of_its_reader():
    async with Streams() as it:
        it.put("/sum", "Content-Length: 10", body=b"abc")
        await wait_until(lambda: it.read == 3)
        it.client.writer.write_eof()
        assert (await it.client.closed()).startswith(b"HTTP/1.1 400 ")


async def test_an_upload_whose_client_goes_away_is_cancelled():
    async with Streams() as it:
        it.put("/sum", "Content-Length: 10", body=b"abc")
        await wait_until(lambda: it.read == 3)
        it.client.reset()
        await wait_until(lambda: it.cancelled)
        await wait_until(lambda: it.server.statistics().connections == 0)


async def test_an_upload_that_stalls_is_sent_away():
    async with Streams() as it:
        it.put("/sum", "Content-Length: 10", body=b"abc")
        await wait_until(lambda: it.read == 3)
        it.pass_time(59)
        assert it.server.statistics().connections == 1
        it.pass_time(2)
        assert await it.client.closed() == b""
        await wait_until(lambda: it.cancelled)


async def test_a_body_that_nobody_reads_stays_with_its_sender():
    async with Streams() as it:
        it.put("/gated", f"Content-Length: {PIECES * len(PIECE)}")
        writer = it.client.writer
        for _ in range(PIECES):
            writer.write(PIECE)
        for _ in range(50):
            await asyncio.sleep(0)
        assert writer.transport.get_write_buffer_size() > 0
        it.gate.set()
        assert b" 200 " in await it.head()
        assert it.read == PIECES * len(PIECE)


async def test_a_malformed_chunk_is_refused():
    async with Streams() as it:
        it.put("/sum", "Transfer-Encoding: chunked", body=b"zz\r\nabc\r\n")
        assert (await it.client.closed()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5, 6",),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding : chunked",),
        ("Content-Length: +5",),
    ],
)
@pytest.mark.parametrize("path", ["/sum", "/plain"])
async def test_a_body_whose_end_is_disputable_ends_the_connection(path, headers):
    async with Streams() as it:
        it.put(path, *headers, body=b"0\r\n\r\nGET /plain HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await it.client.closed()
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
        assert answer.count(b"HTTP/1.1") == 1


async def test_http1_says_that_nothing_changed_and_goes_on():
    async with Streams() as it:
        it.put("/unchanged", method="GET")
        assert (await it.head()).startswith(b"HTTP/1.1 304 ")
        it.put("/plain", method="GET")
        assert (await it.head()).startswith(b"HTTP/1.1 200 ")
