"""The server on loopback: calls of every shape, and how they end."""

import asyncio
import gzip

import pytest

from nativelink.core.errors import NativeLinkError
from nativelink.core.rpc import HttpRoute, Method, current_call
from nativelink.testing.fakes import wait_until
from nativelink.transport.server import Server, ServerSettings
from tests.transport.echo_service import counted
from tests.transport.live import live
from tests.transport.wire import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    NO_ERROR,
    PING,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
    message,
    u32,
    window_update,
)


async def test_a_unary_call_is_answered():
    async with live() as running, running.connect() as client:
        client.greet()
        body, fields = await client.answer(client.open("Unary", b"hello"))
        assert body == message(b"hello")
        assert fields == {
            ":status": "200",
            "content-type": "application/grpc",
            "grpc-status": "0",
        }
        assert running.observed.calls == [("Unary", "OK")]


async def test_a_handler_that_waits_answers_later():
    async with live() as running, running.connect() as client:
        client.greet()
        slow = client.open("Wait", b"slow")
        assert (await client.answer(client.open("Unary", b"quick")))[0] == message(b"quick")
        running.service.gate.set()
        assert (await client.answer(slow))[0] == message(b"slow")
        assert running.observed.calls == [("Unary", "OK"), ("Wait", "OK")]


async def test_a_request_in_many_frames_is_one_message():
    async with live() as running, running.connect() as client:
        client.greet()
        stream_id = client.open("Unary")
        body = message(bytes(range(256)) * 200)
        for start in range(0, len(body), 7001):
            piece = body[start : start + 7001]
            last = start + 7001 >= len(body)
            client.writer.write(frame(DATA, END_STREAM if last else 0, stream_id, piece))
            await client.writer.drain()
        assert (await client.answer(stream_id))[0] == body


@pytest.mark.parametrize(
    ("method", "body", "status"),
    [
        ("Fail", b"x", "5"),
        ("Missing", b"", "9"),
        ("Nothing", b"", "12"),
        ("Bug", b"", "13"),
    ],
)
async def test_errors_are_answers_of_one_header_block(method, body, status, caplog):
    async with live() as running, running.connect() as client:
        client.greet()
        body, fields = await client.answer(client.open(method, body))
        assert body == b""
        assert fields[":status"] == "200"
        assert fields["grpc-status"] == status
        if method == "Bug":
            assert fields["grpc-message"].split("incident ")[1][:8] in caplog.text
        if method == "Nothing":
            assert "/test.Echo/Nothing" in fields["grpc-message"]


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([b""], "3"),
        ([message(b"a") + message(b"b")], "3"),
        ([message(b"a"), message(b"b")], "3"),
        ([message(b"a"), b"\x00", b""], "3"),
        ([message(b"abc")[:-1]], "3"),
        ([message(b"abc", flag=1)], "13"),
        ([b"\x00" + u32(2**31)], "8"),
    ],
    ids=["none", "two", "two frames", "more", "cut", "flag", "long"],
)
async def test_a_unary_request_must_be_one_message_of_a_sane_size(pieces, status):
    async with live() as running, running.connect() as client:
        client.greet()
        stream_id = client.open("Unary")
        for number, piece in enumerate(pieces, 1):
            end = END_STREAM if number == len(pieces) else 0
            client.writer.write(frame(DATA, end, stream_id, piece))
        _, fields = await client.answer(stream_id)
        assert fields["grpc-status"] == status


async def test_a_request_that_cannot_be_parsed_is_the_clients_error():
    async def handler(request, context):
        return str(request + 1).encode()

    method = Method("/test.Echo/Number", handler, parse=int)
    async with live(methods=[method]) as running, running.connect() as client:
        client.greet()
        assert (await client.answer(client.open("Number", b"x")))[1]["grpc-status"] == "3"
        assert (await client.answer(client.open("Number", b"7")))[0] == message(b"8")


async def test_trailing_metadata_follows_the_answer():
    async with live() as running, running.connect() as client:
        client.greet()
        _, fields = await client.answer(client.open("Trailing", b""))
        assert (fields["x-text"], fields["x-bytes-bin"]) == ("plain", "AP8")


async def test_a_download_stops_at_the_window_and_goes_on_with_it():
    async with live() as running, running.connect() as client:
        client.greet(window=50_000)
        stream_id = client.open("Download", b"200000,30000")
        got = 0
        while got < 50_000:
            got += len((await client.until(DATA)).payload)
        client.writer.write(frame(PING, 0, 0, b"8 octets"))
        assert (await client.frame()).kind == PING, "nothing more was sent"
        client.writer.write(window_update(stream_id, 10**6))
        body, fields = await client.answer(stream_id)
        assert got + len(body) == 200_000 + 7 * 5
        assert fields["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("total", "step"),
    [(0, 5), (40, 5), (1_572_864, 65_536), (3_000_000, 1_500_000), (2_000_000, 2_000_000)],
)
async def test_slices_are_messages_like_others(total, step):
    async with live() as running, running.connect() as client:
        client.greet(window=50_000)
        stream_id = client.open("Slices", f"{total},{step}".encode())
        client.writer.write(window_update(stream_id, 10**7) + window_update(0, 10**7))
        body, fields = await client.answer(stream_id)
        data = counted(total)
        expected = [message(b"s" + data[start : start + step]) for start in range(0, total, step)]
        assert body == b"".join(expected)
        assert fields["grpc-status"] == "0"


async def test_slices_are_compressed_one_by_one():
    async with live(ServerSettings(send_gzip=True)) as running, running.connect() as client:
        client.greet()
        stream_id = client.open("Slices", b"6000,3000", grpc_accept_encoding="gzip")
        body, _ = await client.answer(stream_id)
        size = int.from_bytes(body[1:5], "big")
        assert body[0] == 1
        assert gzip.decompress(body[5 : 5 + size]) == b"s" + counted(6000)[:3000]
        assert gzip.decompress(body[10 + size :]) == b"s" + counted(6000)[3000:]


async def test_slices_that_wait_for_the_peer_end_with_the_call():
    async with live() as running, running.connect() as client:
        client.greet(window=1000)
        stream_id = client.open("Slices", b"3000000,1000")
        await client.until(DATA)
        client.writer.write(frame(RST_STREAM, 0, stream_id, u32(CANCEL)))
        assert (await client.answer(client.open("Unary", b"next")))[0] == message(b"next")
        assert running.observed.calls == [("Slices", "CANCELLED"), ("Unary", "OK")]


async def test_an_upload_is_given_credit_only_as_it_is_read():
    chosen = ServerSettings(http2_initial_stream_window_size=65_535)
    gate = asyncio.Event()
    sizes = []

    async def slow(source, context):
        await gate.wait()
        while (item := await source.read()) is not None:
            sizes.append(len(item))
        return b"done"

    method = Method("/test.Echo/Slow", slow, client_streaming=True)
    async with live(chosen, methods=[method]) as running, running.connect() as client:
        client.greet()
        stream_id = client.open("Slow")
        for _ in range(4):
            client.writer.write(frame(DATA, 0, stream_id, message(bytes(10_000))))
        client.writer.write(frame(PING, 0, 0, b"8 octets"))
        seen = []
        while not seen or seen[-1].kind != PING:
            seen.append(await client.frame())
        assert not [item for item in seen if item.kind == WINDOW_UPDATE and item.stream_id]
        gate.set()
        update = await client.until(WINDOW_UPDATE, stream_id)
        assert int.from_bytes(update.payload, "big") >= 32_767
        client.writer.write(frame(DATA, END_STREAM, stream_id, message(b"")))
        assert (await client.answer(stream_id))[0] == message(b"done")
        assert sizes == [10_000] * 4 + [0]


async def test_both_sides_may_stream_at_once():
    async with live() as running, running.connect() as client:
        client.greet()
        stream_id = client.open("Chat")
        for text in (b"one", b"two"):
            client.writer.write(frame(DATA, 0, stream_id, message(text)))
            assert (await client.until(DATA)).payload == message(text)
        client.writer.write(frame(DATA, END_STREAM, stream_id))
        assert (await client.answer(stream_id))[1]["grpc-status"] == "0"


async def test_an_early_answer_is_complete_before_the_reset():
    async with live() as running, running.connect() as client:
        client.greet()
        stream_id = client.open("Early", b"first", end=False)
        body, fields = await client.answer(stream_id)
        assert body == message(b"early")
        assert fields["grpc-status"] == "0"
        reset = await client.frame()
        assert (reset.kind, reset.code) == (RST_STREAM, NO_ERROR)
        client.writer.write(50 * frame(DATA, 0, stream_id, bytes(16384)))
        assert (await client.answer(client.open("Unary", b"on")))[0] == message(b"on")


async def test_a_reset_cancels_the_handler():
    async with live() as running, running.connect() as client:
        client.greet()
        stream_id = client.open("Wait", b"")
        await wait_until(lambda: running.server.statistics().calls == 1)
        client.writer.write(frame(RST_STREAM, 0, stream_id, u32(CANCEL)))
        await wait_until(lambda: running.service.cancelled == 1)
        assert running.observed.calls == [("Wait", "CANCELLED")]


async def test_a_lost_connection_cancels_its_handlers():
    async with live() as running:
        async with running.connect() as client:
            client.greet()
            client.open("Wait", b"")
            client.open("Wait", b"")
            await wait_until(lambda: running.server.statistics().calls == 2)
        await wait_until(lambda: running.service.cancelled == 2)
        await wait_until(lambda: running.server.statistics().connections == 0)


@pytest.mark.parametrize("method", ["Wait", "Upload"])
async def test_a_deadline_ends_the_call_and_its_handler(method):
    async with live() as running, running.connect() as client:
        client.greet()
        stream_id = client.open(method, b"" if method == "Wait" else None, grpc_timeout="10m")
        _, fields = await client.answer(stream_id)
        assert fields["grpc-status"] == "4"
        if method == "Wait":
            await wait_until(lambda: running.service.cancelled == 1)
        assert running.observed.calls == [(method, "DEADLINE_EXCEEDED")]


async def test_a_request_that_is_not_complete_by_its_deadline_is_answered():
    async with live() as running, running.connect() as client:
        client.greet()
        _, fields = await client.answer(client.open("Unary", grpc_timeout="10m"))
        assert fields["grpc-status"] == "4"


async def test_a_malformed_timeout_is_refused():
    async with live() as running, running.connect() as client:
        client.greet()
        _, fields = await client.answer(client.open("Unary", b"", grpc_timeout="soon"))
        assert fields["grpc-status"] == "3"


async def test_the_current_call_is_known_in_a_handler_and_nowhere_else():
    seen = []

    async def handler(request, context):
        seen.append(current_call.get() is context)
        await asyncio.sleep(0)
        seen.append(current_call.get() is context)
        return request

    method = Method("/test.Echo/Context", handler)
    async with live(methods=[method]) as running, running.connect() as client:
        client.greet()
        for stream_id in [client.open("Context", b""), client.open("Context", b"")]:
            await client.answer(stream_id)
        assert seen == [True] * 4
        assert current_call.get() is None


async def test_compressed_requests_need_the_listeners_consent():
    async with live() as running, running.connect() as client:
        client.greet()
        _, fields = await client.answer(client.open("Unary", b"", grpc_encoding="gzip"))
        assert (fields["grpc-status"], fields["grpc-accept-encoding"]) == ("12", "identity")


async def test_messages_are_compressed_both_ways_where_that_is_wanted():
    async with (
        live(ServerSettings(accept_gzip=True, send_gzip=True)) as running,
        running.connect() as client,
    ):
        client.greet()
        stream_id = client.open("Unary", grpc_encoding="gzip", grpc_accept_encoding="br, gzip")
        packed = gzip.compress(b"y" * 10_000)
        client.writer.write(frame(DATA, END_STREAM, stream_id, message(packed, flag=1)))
        body, fields = await client.answer(stream_id)
        assert fields["grpc-encoding"] == "gzip"
        assert fields["grpc-accept-encoding"] == "identity,gzip"
        assert body[0] == 1
        assert gzip.decompress(body[5:]) == b"y" * 10_000


async def test_incomplete_messages_are_bounded_for_a_whole_connection():
    chosen = ServerSettings(max_decoding_message_size=2000)
    async with live(chosen) as running, running.connect() as client:
        client.greet()
        piece = message(bytes(2000))[:1800]
        for _ in range(64 * 2000 // 1795 + 1):
            stream_id = client.open("Unary")
            client.writer.write(frame(DATA, 0, stream_id, piece))
        _, fields = await client.answer(stream_id)
        assert fields["grpc-status"] == "8"
        assert running.server.statistics().calls == stream_id // 2


async def test_plain_http_has_its_routes_on_the_same_connection():
    async with live() as running, running.connect() as client:
        client.greet()

        async def request(stream_id, method, path, body=None, **extra):
            fields = [(":method", method), (":scheme", "http"), (":path", path)]
            fields += [(name.replace("_", "-"), value) for name, value in extra.items()]
            end = END_STREAM if body is None else 0
            data = frame(HEADERS, END_HEADERS | end, stream_id, client.encoder.encode(fields))
            if body is not None:
                data += frame(DATA, END_STREAM, stream_id, body)
            client.writer.write(data)
            return await client.answer(stream_id)

        body, fields = await request(1, "GET", "/status")
        assert (body, fields["content-type"]) == (b'{"ok": true}\n', "application/json")
        body, fields = await request(3, "HEAD", "/status")
        assert (body, fields["content-length"]) == (b"", "13")
        assert (await request(5, "POST", "/post/below?q=1", b"12345"))[0] == b"POST 5 q=1"
        assert (await request(7, "GET", "/nowhere"))[1][":status"] == "404"
        assert (await request(9, "GET", "/postbelow"))[1][":status"] == "404"
        assert (await request(11, "GET", "/broken"))[1][":status"] == "500"
        # gRPC paths want gRPC.
        assert (await request(13, "POST", "/test.Echo/Unary", b""))[1][":status"] == "415"
        grpc = {"content_type": "application/grpc"}
        assert (await request(15, "GET", "/test.Echo/Unary", **grpc))[1][":status"] == "405"


async def test_a_body_or_a_head_that_is_too_long_is_refused():
    chosen = ServerSettings(max_decoding_message_size=1000)
    async with live(chosen) as running, running.connect() as client:
        client.greet()
        fields = [(":method", "POST"), (":scheme", "http"), (":path", "/post")]
        client.writer.write(
            frame(HEADERS, END_HEADERS, 1, client.encoder.encode(fields))
            + frame(DATA, 0, 1, bytes(1001))
        )
        assert (await client.answer(1))[1][":status"] == "413"
        fields.append(("x-long", "x" * 17_000))
        client.writer.write(
            frame(HEADERS, END_HEADERS, 3, client.encoder.encode(fields, huffman=True))
        )
        assert (await client.answer(3))[1][":status"] == "431"


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1", "127.0.0.1:99999", "x", "::1"])
async def test_an_address_must_be_numeric(address):
    with pytest.raises(NativeLinkError, match="ip:port"):
        await Server([], settings=ServerSettings(address=address)).start()


async def test_freebind_binds_an_address_that_is_not_here():
    server = Server([], settings=ServerSettings(address="203.0.113.7:0", freebind=True))
    await server.start()
    assert server.address[0] == "203.0.113.7"
    await server.close()


def test_one_path_has_one_method_and_one_route():
    method = Method("/a.B/C", lambda request, context: None)
    with pytest.raises(ValueError, match=r"two methods for /a\.B/C"):
        Server([method, Method("/a.B/C", lambda request, context: None)])
    route = HttpRoute("/x", lambda request: None)
    with pytest.raises(ValueError, match="two routes for /x"):
        Server([], [route, HttpRoute("/x", lambda request: None)])
