"""Plain HTTP routes whose bodies are streamed, over both versions of HTTP."""

from __future__ import annotations

import asyncio

import pytest

from nativelink.core.errors import permission_denied, unavailable
from nativelink.core.rpc import HttpResponse, HttpRoute, HttpStreamRoute
from nativelink.testing.fakes import FakeClock, wait_until
from nativelink.transport import http_exchange
from nativelink.transport.server import Server, ServerSettings
from tests.transport.live import RawClient
from tests.transport.wire import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    frame,
    window_update,
)

PIECE = bytes(range(256)) * 256
#: More than the buffers of a loopback connection and of the server hold together.
PIECES = 256


class Streams:
    """A server whose routes show what the transport gives them."""

    def __init__(self, settings: ServerSettings | None = None):
        self.clock = FakeClock()
        self.read = 0
        self.written = 0
        self.sizes = []
        self.cancelled = False
        self.gate = asyncio.Event()
        routes = {
            "/sum": self.sum,
            "/big": self.big,
            "/short": self.short,
            "/long": self.long,
            "/breaks": self.breaks,
            "/forbidden": self.forbidden,
            "/silent": self.silent,
            "/gated": self.gated,
            "/known": self.known,
            "/unchanged": self.unchanged,
        }
        self.server = Server(
            [],
            [
                *(HttpStreamRoute(path, handler) for path, handler in routes.items()),
                HttpRoute("/plain", self.plain),
            ],
            settings=settings,
            clock=self.clock,
        )

    def pass_time(self, seconds):
        self.clock.advance(seconds)
        self.server.tick()

    async def plain(self, request):
        return HttpResponse(200, b"plain")

    async def sum(self, request, body, sink):
        self.sizes.append(body.size)
        self.read = 0
        try:
            while chunk := await body.read():
                self.read += len(chunk)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        assert await body.read() == b""
        return HttpResponse(200, b"%d" % self.read)

    async def big(self, request, body, sink):
        sink.begin(HttpResponse(200, headers={"x-what": "big"}), PIECES * len(PIECE))
        for _ in range(PIECES):
            await sink.write(PIECE)
            self.written += len(PIECE)

    async def known(self, request, body, sink):
        sink.begin(HttpResponse(200), 5)
        await sink.write(b"abc")
        await sink.write(memoryview(b"de"))

    async def unchanged(self, request, body, sink):
        sink.begin(HttpResponse(304, headers={"etag": '"x"'}), 5)

    async def short(self, request, body, sink):
        sink.begin(HttpResponse(200), 10)
        await sink.write(b"abc")

    async def long(self, request, body, sink):
        sink.begin(HttpResponse(200), 2)
        await sink.write(b"abc")

    async def breaks(self, request, body, sink):
        sink.begin(HttpResponse(200), None)
        await sink.write(b"abc")
        await asyncio.sleep(0)
        raise unavailable("later")

    async def forbidden(self, request, body, sink):
        raise permission_denied("not here")

    async def silent(self, request, body, sink):
        return None

    async def gated(self, request, body, sink):
        await self.gate.wait()
        while chunk := await body.read():
            self.read += len(chunk)
        return HttpResponse(200, b"%d" % self.read)

    async def __aenter__(self):
        await self.server.start()
        reader, writer = await asyncio.open_connection(*self.server.address)
        self.client = RawClient(reader, writer)
        return self

    async def __aexit__(self, *_error):
        self.client.writer.close()
        try:
            await self.client.writer.wait_closed()
        except OSError:
            pass
        await self.server.close()

    # HTTP/1.1

    async def head(self):
        return await self.client.reader.readuntil(b"\r\n\r\n")

    def put(self, path, *headers, body=b"", method="PUT"):
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]
        self.client.writer.write("\r\n".join(lines).encode() + body)

    # HTTP/2

    def open(self, path, *, method="PUT", end=False, **extra):
        client = self.client
        stream_id = client.next_id
        client.next_id += 2
        fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "x")]
        fields += [(name.replace("_", "-"), value) for name, value in extra.items()]
        flags = END_HEADERS | (END_STREAM if end else 0)
        client.writer.write(frame(HEADERS, flags, stream_id, client.encoder.encode(fields)))
        return stream_id

    def send(self, stream_id, data, *, end=False):
        self.client.writer.write(frame(DATA, END_STREAM if end else 0, stream_id, data))


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
        it.client.writer.transport.abort()
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


async def test_http1_says_that_nothing_changed_and_goes_on():
    async with Streams() as it:
        it.put("/unchanged", method="GET")
        assert (await it.head()).startswith(b"HTTP/1.1 304 ")
        it.put("/plain", method="GET")
        assert (await it.head()).startswith(b"HTTP/1.1 200 ")


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
