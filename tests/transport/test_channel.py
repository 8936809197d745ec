"""Outgoing calls, against our own server over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from pathlib import Path

import pytest

from nativelink.core.channel import Duplex
from nativelink.core.digest import Digest
from nativelink.core.errors import Code, MissingBlob, NativeLinkError
from nativelink.core.rpc import CallContext, MessageSink, MessageSource, Method
from nativelink.core.streams import Chunk
from nativelink.transport import channel as channel_module
from nativelink.transport.channel import GrpcChannel
from nativelink.transport.endpoints import ClientTls, Endpoint
from nativelink.transport.server import Server, ServerSettings, TlsSettings
from tests.transport.authority import Authority
from tests.transport.echo_service import PATH, EchoService
from tests.transport.live import live


def _to(*ports: int, connections: int = 1, limit: int = 0) -> GrpcChannel:
    return GrpcChannel(
        [Endpoint(f"127.0.0.1:{port}") for port in ports],
        connections_per_endpoint=connections,
        max_concurrent_requests=limit,
    )


def _dead_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Waiting:
    """A handler that says how many calls are in it."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.gate = asyncio.Event()
        self.arrived = asyncio.Condition()

    async def hold(self, request: bytes, context: CallContext) -> bytes:
        self.inside += 1
        self.most = max(self.most, self.inside)
        async with self.arrived:
            self.arrived.notify_all()
        try:
            await self.gate.wait()
        finally:
            self.inside -= 1
            async with self.arrived:
                self.arrived.notify_all()
        return request

    async def until(self, inside: int) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.inside == inside)

    def methods(self) -> list[Method]:
        return [Method("/test.Hold/Unary", self.hold)]


async def test_a_message_goes_there_and_one_comes_back() -> None:
    async with live() as running, _to(running.port) as channel:
        assert await channel.unary(PATH + "Unary", b"hello") == b"hello"


async def test_a_message_of_any_size_is_taken() -> None:
    async def big(request: bytes, context: CallContext) -> bytes:
        return bytes(9_000_000)

    async with live(methods=[Method("/t.S/Big", big)]) as running, _to(running.port) as channel:
        assert len(await channel.unary("/t.S/Big", bytes(3_900_000))) == 9_000_000


async def test_nothing_is_connected_before_the_first_call() -> None:
    async with _to(_dead_port()):
        pass


async def test_metadata_reaches_the_peer() -> None:
    seen: list[bytes | None] = []

    async def look(request: bytes, context: CallContext) -> bytes:
        seen.extend([context.header(b"x-text"), context.header(b"x-raw-bin")])
        return b""

    async with live(methods=[Method("/t.S/Look", look)]) as running, _to(running.port) as channel:
        await channel.unary(
            "/t.S/Look", b"", metadata=(("x-text", "plain"), ("x-raw-bin", b"\x00\xff"))
        )
    assert seen[0] == b"plain"
    assert seen[1] in {b"AP8", b"AP8="}


async def test_an_error_has_the_peers_code_and_message() -> None:
    async with live() as running, _to(running.port) as channel:
        with pytest.raises(NativeLinkError) as caught:
            await channel.unary(PATH + "Fail", b"tea")
    assert caught.value.code is Code.NOT_FOUND
    assert caught.value.message == "no tea here: 100% gone, ä"


async def test_missing_blobs_are_details_of_the_error() -> None:
    async with live() as running, _to(running.port) as channel:
        with pytest.raises(NativeLinkError) as caught:
            await channel.unary(PATH + "Missing", b"")
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.details == (MissingBlob(Digest("ab" * 32, 7)),)


async def test_an_error_of_a_stream_comes_after_its_messages() -> None:
    async def partly(request: bytes, context: CallContext, sink: MessageSink) -> None:
        await sink.write(b"one")
        raise NativeLinkError(Code.DATA_LOSS, "the rest is gone")

    methods = [Method("/t.S/Partly", partly, server_streaming=True)]
    async with live(methods=methods) as running, _to(running.port) as channel:
        answers = channel.server_stream("/t.S/Partly", b"")
        assert await anext(answers) == b"one"
        with pytest.raises(NativeLinkError, match="the rest is gone") as caught:
            await anext(answers)
    assert caught.value.code is Code.DATA_LOSS


async def test_a_server_that_is_not_there_is_unavailable_and_the_reason_is_told() -> None:
    port = _dead_port()
    async with _to(port) as channel:
        with pytest.raises(NativeLinkError) as caught:
            await channel.unary(PATH + "Unary", b"")
    assert caught.value.code is Code.UNAVAILABLE
    assert f"cannot connect to 127.0.0.1:{port}: " in caught.value.message
    assert "refused" in caught.value.message


async def test_a_server_that_never_answers_the_connection_is_given_up_in_time() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        endpoint = Endpoint(f"127.0.0.1:{deaf.getsockname()[1]}", connect_timeout_s=0.05)
        async with GrpcChannel([endpoint]) as channel:
            with pytest.raises(NativeLinkError) as caught:
                await channel.unary(PATH + "Unary", b"")
    assert caught.value.code is Code.UNAVAILABLE


async def test_the_time_out_ends_a_call_at_both_ends() -> None:
    holding = Waiting()
    async with live(methods=holding.methods()) as running, _to(running.port) as channel:
        await channel.unary(PATH + "Unary", b"")
        with pytest.raises(NativeLinkError) as caught:
            await channel.unary("/test.Hold/Unary", b"", timeout_s=0.02)
        await holding.until(0)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert holding.most == 1


async def test_the_time_out_counts_from_the_first_wait_on() -> None:
    holding = Waiting()
    async with (
        live(methods=holding.methods()) as running,
        _to(running.port, limit=1) as channel,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(channel.unary("/test.Hold/Unary", b""))
        await holding.until(1)
        with pytest.raises(NativeLinkError) as caught:
            await channel.unary(PATH + "Unary", b"", timeout_s=0.01)
        holding.gate.set()
    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_cancelling_the_caller_cancels_the_call() -> None:
    holding = Waiting()
    async with live(methods=holding.methods()) as running, _to(running.port) as channel:
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(channel.unary("/test.Hold/Unary", b""))
            await holding.until(1)
            call.cancel()
        assert call.cancelled()
        await holding.until(0)
        assert await channel.unary(PATH + "Unary", b"still there") == b"still there"


async def test_closing_a_stream_of_answers_cancels_the_call() -> None:
    ended = asyncio.Event()

    async def endless(request: bytes, context: CallContext, sink: MessageSink) -> None:
        try:
            while True:
                await sink.write(b"more")
                await asyncio.sleep(0)
        finally:
            ended.set()

    methods = [Method("/t.S/Endless", endless, server_streaming=True)]
    async with live(methods=methods) as running, _to(running.port) as channel:
        answers = channel.server_stream("/t.S/Endless", b"")
        assert await anext(answers) == b"more"
        await answers.aclose()
        await ended.wait()


async def test_many_messages_go_there_and_one_comes_back() -> None:
    async def numbers() -> AsyncIterator[bytes]:
        for size in (1, 10, 100):
            yield bytes(size)

    async with live() as running, _to(running.port) as channel:
        assert await channel.client_stream(PATH + "Upload", numbers()) == b"111"
        pieces: list[Chunk] = [b"12", memoryview(b"345")]
        assert await channel.client_stream(PATH + "Upload", pieces) == b"5"


@pytest.mark.parametrize("size", [1024, 2 * 1024 * 1024])
async def test_a_peer_may_answer_before_it_has_seen_all_messages(size: int) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(size)
            await asyncio.sleep(0)

    async with live() as running, _to(running.port) as channel:
        for _ in range(8):
            assert await channel.client_stream(PATH + "Early", endless()) == b"early"


async def test_an_early_answer_ends_the_wait_for_more_messages() -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    async with live() as running, _to(running.port) as channel:
        assert await channel.client_stream(PATH + "Early", stalling()) == b"early"


async def test_an_error_that_comes_while_messages_are_sent_is_the_peers() -> None:
    async def refuse(source: MessageSource, context: CallContext) -> bytes:
        await source.read()
        raise NativeLinkError(Code.RESOURCE_EXHAUSTED, "full")

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(200_000)

    methods = [Method("/t.S/Refuse", refuse, client_streaming=True)]
    async with live(methods=methods) as running, _to(running.port) as channel:
        for _ in range(20):
            with pytest.raises(NativeLinkError) as caught:
                await channel.client_stream("/t.S/Refuse", endless())
            assert (caught.value.code, caught.value.message) == (Code.RESOURCE_EXHAUSTED, "full")


async def test_an_error_of_the_messages_themselves_is_the_callers() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise KeyError("mine")

    async with live() as running, _to(running.port) as channel:
        with pytest.raises(KeyError, match="mine"):
            await channel.client_stream(PATH + "Upload", broken())


async def test_messages_go_both_ways_at_any_time() -> None:
    async with live() as running, _to(running.port) as channel:
        chat = channel.duplex(PATH + "Chat")
        await chat.write(b"one")
        assert await chat.read() == b"one"
        await chat.write(b"")
        await chat.write(b"three")
        assert [await chat.read(), await chat.read()] == [b"", b"three"]
        await chat.done_writing()
        assert await chat.read() is None
        chat.cancel()


async def test_a_duplex_call_may_begin_with_a_read() -> None:
    async def greet(source: MessageSource, context: CallContext, sink: MessageSink) -> None:
        await sink.write(b"hello")
        assert await source.read() == b"hello yourself"

    methods = [Method("/t.S/Greet", greet, client_streaming=True, server_streaming=True)]
    async with live(methods=methods) as running, _to(running.port) as channel:
        chat = channel.duplex("/t.S/Greet")
        assert await chat.read() == b"hello"
        await chat.write(b"hello yourself")
        assert await chat.read() is None


async def test_several_tasks_may_write_to_a_duplex_call() -> None:
    async with live() as running, _to(running.port) as channel:
        chat = channel.duplex(PATH + "Chat")
        async with asyncio.TaskGroup() as tasks:
            for number in range(20):
                tasks.create_task(chat.write(b"%d" % number))
        got = {await chat.read() for _ in range(20)}
        chat.cancel()
    assert got == {b"%d" % number for number in range(20)}


async def test_writing_to_a_duplex_call_that_failed_tells_the_peers_error() -> None:
    async def refuse(source: MessageSource, context: CallContext, sink: MessageSink) -> None:
        await source.read()
        raise NativeLinkError(Code.PERMISSION_DENIED, "not you")

    methods = [Method("/t.S/Refuse", refuse, client_streaming=True, server_streaming=True)]
    async with live(methods=methods) as running, _to(running.port) as channel:
        for _ in range(20):
            chat = channel.duplex("/t.S/Refuse")
            with pytest.raises(NativeLinkError) as caught:
                await _write_on(chat)
            assert (caught.value.code, caught.value.message) == (Code.PERMISSION_DENIED, "not you")
            with pytest.raises(NativeLinkError, match="not you"):
                await chat.read()


async def test_cancelling_a_duplex_call_wakes_its_reader() -> None:
    async with live() as running, _to(running.port) as channel:
        chat = channel.duplex(PATH + "Chat")
        await chat.write(b"x")
        await chat.read()
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(_error_of(chat.read()))
            await asyncio.sleep(0)
            chat.cancel()
            chat.cancel()
        assert reading.result().code in {Code.UNAVAILABLE, Code.CANCELLED}


async def _write_on(chat: Duplex) -> None:
    while True:
        await chat.write(bytes(200_000))


async def _error_of(awaitable: Awaitable[object]) -> NativeLinkError:
    with pytest.raises(NativeLinkError) as caught:
        await awaitable
    return caught.value


async def test_calls_beyond_the_limit_wait_in_the_order_they_came() -> None:
    order: list[bytes] = []

    async def note(request: bytes, context: CallContext) -> bytes:
        order.append(request)
        return b""

    methods = [Method("/t.S/Note", note)]
    holding = Waiting()
    async with (
        live(methods=[*methods, *holding.methods()]) as running,
        _to(running.port, limit=2) as channel,
        asyncio.TaskGroup() as tasks,
    ):
        held = [tasks.create_task(channel.unary("/test.Hold/Unary", b"")) for _ in range(2)]
        await holding.until(2)
        waiting = []
        for number in range(5):
            waiting.append(tasks.create_task(channel.unary("/t.S/Note", b"%d" % number)))
            await asyncio.sleep(0)
        late = tasks.create_task(channel.unary("/t.S/Note", b"given up"))
        await asyncio.sleep(0)
        late.cancel()
        assert order == []
        held[0].cancel()
        await asyncio.wait(waiting)
        holding.gate.set()
    assert order == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("limits", ["channel", "endpoint"])
async def test_what_a_message_of_a_stream_takes_to_ask_does_not_wait_for_the_stream(
    limits: str,
) -> None:
    async def many(request: bytes, context: CallContext, sink: MessageSink) -> None:
        for _ in range(3):
            await sink.write(b"x")

    async def note(request: bytes, context: CallContext) -> bytes:
        return b"noted"

    methods = [Method("/t.S/Many", many, server_streaming=True), Method("/t.S/Note", note)]
    async with live(methods=methods) as running:
        endpoint = Endpoint(
            f"127.0.0.1:{running.port}", concurrency_limit=int(limits == "endpoint")
        )
        channel = GrpcChannel([endpoint], max_concurrent_requests=int(limits == "channel"))
        async with channel, asyncio.timeout(10):
            async with aclosing(channel.server_stream("/t.S/Many", b"")) as messages:
                async for _ in messages:
                    # Also where it is asked by several tasks.
                    async with asyncio.TaskGroup() as tasks:
                        for _ in range(2):
                            tasks.create_task(channel.unary("/t.S/Note", b""))
                    assert await channel.unary("/t.S/Note", b"") == b"noted"
            # Behind it, the limit is what it was.
            assert channel_module._within.get() is None
            assert await channel.unary("/t.S/Note", b"") == b"noted"
            assert channel._pool._in_flight == 0


async def test_what_a_message_to_be_sent_takes_to_ask_does_not_wait_for_its_stream() -> None:
    async def take(source: MessageSource, context: CallContext) -> bytes:
        size = 0
        while (message := await source.read()) is not None:
            size += len(message)
        return b"%d" % size

    async def note(request: bytes, context: CallContext) -> bytes:
        return b"noted"

    methods = [Method("/t.S/Take", take, client_streaming=True), Method("/t.S/Note", note)]
    async with live(methods=methods) as running, _to(running.port, limit=1) as channel:

        async def requests() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield await channel.unary("/t.S/Note", b"")

        async with asyncio.timeout(10):
            assert await channel.client_stream("/t.S/Take", requests()) == b"15"
        assert channel_module._within.get() is None
        assert channel._pool._in_flight == 0


async def test_connections_are_opened_only_while_calls_share_them() -> None:
    peers: set[str] = set()
    holding = Waiting()

    async def peer(request: bytes, context: CallContext) -> bytes:
        peers.add(context.peer.address)
        return await holding.hold(request, context)

    methods = [Method("/t.S/Peer", peer)]
    async with (
        live(methods=methods) as running,
        _to(running.port, connections=3) as channel,
    ):
        holding.gate.set()
        for _ in range(5):
            await channel.unary("/t.S/Peer", b"")
        assert len(peers) == 1
        holding.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(6):
                tasks.create_task(channel.unary("/t.S/Peer", b""))
            await holding.until(6)
            holding.gate.set()
        assert len(peers) == 3


async def test_calls_go_to_another_endpoint_while_one_is_down() -> None:
    async with live() as running, _to(_dead_port(), running.port) as channel:
        for _ in range(3):
            assert await channel.unary(PATH + "Unary", b"there") == b"there"


async def test_calls_wait_for_a_busy_endpoint_rather_than_for_one_that_is_down() -> None:
    holding = Waiting()
    async with live(methods=holding.methods()) as running:
        endpoints = [
            Endpoint(f"127.0.0.1:{port}", concurrency_limit=1)
            for port in (_dead_port(), running.port)
        ]
        async with GrpcChannel(endpoints) as channel, asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(channel.unary("/test.Hold/Unary", b""))
            await holding.until(1)
            holding.gate.set()
    assert holding.most == 1


async def test_calls_are_spread_over_endpoints() -> None:
    holding = [Waiting(), Waiting()]
    async with (
        live(methods=holding[0].methods()) as one,
        live(methods=holding[1].methods()) as two,
        _to(one.port, two.port) as channel,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(4):
            tasks.create_task(channel.unary("/test.Hold/Unary", b""))
        await holding[0].until(2)
        await holding[1].until(2)
        for each in holding:
            each.gate.set()


async def test_an_endpoint_has_its_own_limit() -> None:
    holding = Waiting()
    async with live(methods=holding.methods()) as running:
        endpoint = Endpoint(f"127.0.0.1:{running.port}", concurrency_limit=1)
        async with GrpcChannel([endpoint]) as channel, asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(channel.unary("/test.Hold/Unary", b""))
            await holding.until(1)
            holding.gate.set()
    assert holding.most == 1


async def test_a_server_that_was_restarted_is_used_again() -> None:
    service = EchoService()
    first = Server(service.methods())
    await first.start()
    port = first.address[1]
    recorder = Recorder()
    endpoint = Endpoint(f"127.0.0.1:{port}")
    async with GrpcChannel([endpoint], recorder=recorder) as channel:
        assert await channel.unary(PATH + "Unary", b"1") == b"1"
        await first.close()
        while (
            "cannot connect" not in (lost := await _error_of(channel.unary("/t.S/x", b""))).message
        ):
            assert lost.code is Code.UNAVAILABLE
        second = Server(service.methods(), settings=ServerSettings(address=f"127.0.0.1:{port}"))
        await second.start()
        try:
            while await _answer(channel) != b"3":
                pass
        finally:
            await second.close()
    assert recorder.reconnects == 1


async def _answer(channel: GrpcChannel) -> bytes | None:
    try:
        return await channel.unary(PATH + "Unary", b"3")
    except NativeLinkError:
        return None


class Recorder:
    def __init__(self) -> None:
        self.acquisitions: list[tuple[bool, int]] = []
        self.reconnects = 0

    def acquired(self, *, queued: bool, idle: int) -> None:
        self.acquisitions.append((queued, idle))

    def reconnected(self) -> None:
        self.reconnects += 1


async def test_acquisitions_are_counted() -> None:
    recorder = Recorder()
    async with live() as running:
        endpoint = Endpoint(f"127.0.0.1:{running.port}")
        async with GrpcChannel(
            [endpoint], connections_per_endpoint=2, recorder=recorder
        ) as channel:
            for _ in range(2):
                await channel.unary(PATH + "Unary", b"")
    assert recorder.acquisitions == [(True, 1), (False, 1)]
    assert recorder.reconnects == 0


async def test_a_closed_channel_makes_no_calls_and_ends_those_under_way() -> None:
    holding = Waiting()
    async with live(methods=holding.methods()) as running:
        async with asyncio.TaskGroup() as tasks:
            async with _to(running.port) as channel:
                call = tasks.create_task(_error_of(channel.unary("/test.Hold/Unary", b"")))
                await holding.until(1)
            await holding.until(0)
        assert call.result().code is Code.UNAVAILABLE
        with pytest.raises(NativeLinkError, match="closed"):
            await channel.unary(PATH + "Unary", b"")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_tls_checks_the_server_and_shows_a_certificate(authority: Authority) -> None:
    server = authority.issue("server")
    client = authority.issue("client")
    async with live(tls=TlsSettings(*server, authority.file)) as running:
        tls = ClientTls(ca_file=authority.file, cert_file=client[0], key_file=client[1])
        async with GrpcChannel([Endpoint(f"localhost:{running.port}", tls=tls)]) as channel:
            assert b"CN=client" in await channel.unary(PATH + "Peer", b"")


async def test_a_server_of_another_authority_is_not_trusted(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    async with live(tls=TlsSettings(*authority.issue("server"))) as running:
        endpoint = Endpoint(f"localhost:{running.port}", tls=ClientTls(ca_file=other.file))
        async with GrpcChannel([endpoint]) as channel:
            with pytest.raises(NativeLinkError) as caught:
                await channel.unary(PATH + "Unary", b"")
    assert caught.value.code is Code.UNAVAILABLE
    assert "CERTIFICATE_VERIFY_FAILED" in caught.value.message


async def test_a_renewed_certificate_is_used_when_the_old_one_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(other.file.read_bytes())
    async with live(tls=TlsSettings(*authority.issue("server"))) as running:
        endpoint = Endpoint(f"localhost:{running.port}", tls=ClientTls(ca_file=trusted))
        async with GrpcChannel([endpoint]) as channel:
            with pytest.raises(NativeLinkError):
                await channel.unary(PATH + "Unary", b"")
            renewed = tmp_path / "renewed.crt"
            renewed.write_bytes(authority.file.read_bytes())
            renewed.rename(trusted)
            assert await channel.unary(PATH + "Unary", b"ok") == b"ok"


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        (ClientTls(), "ca_file is missing"),
        (ClientTls(ca_file=Path("absent.pem")), "ca_file absent.pem cannot be read"),
        (ClientTls(ca_file=Path(__file__)), "holds no PEM"),
    ],
    ids=["no authority", "no file", "no PEM"],
)
async def test_unusable_tls_files_are_named_at_once(tls: ClientTls, message: str) -> None:
    channel = GrpcChannel([Endpoint("localhost:1", tls=tls)])
    with pytest.raises(NativeLinkError, match=message) as caught:
        await channel.__aenter__()
    assert caught.value.code is Code.INVALID_ARGUMENT
