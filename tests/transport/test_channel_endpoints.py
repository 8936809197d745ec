"""To which of several endpoints calls go, how many at once, and over how many connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.rpc import CallContext, MessageSink, MessageSource, Method
from nativelink.transport import channel as channel_module
from nativelink.transport.channel import GrpcChannel
from nativelink.transport.endpoints import Endpoint
from nativelink.transport.server import Server, ServerSettings
from tests.errors import error_of
from tests.ports import free_port
from tests.transport.echo_service import PATH, EchoService
from tests.transport.live import live
from tests.transport.outgoing import Waiting, channel_to


async def test_calls_beyond_the_limit_wait_in_the_order_they_came() -> None:
    order: list[bytes] = []

    async def note(request: bytes, context: CallContext) -> bytes:
        order.append(request)
        return b""

    methods = [Method("/t.S/Note", note)]
    holding = Waiting()
    async with (
        live(methods=[*methods, *holding.methods()]) as running,
        channel_to(running.port, limit=2) as channel,
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
        async with channel, asyncio.timeout(60):
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
    async with live(methods=methods) as running, channel_to(running.port, limit=1) as channel:

        async def requests() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield await channel.unary("/t.S/Note", b"")

        async with asyncio.timeout(60):
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
        channel_to(running.port, connections=3) as channel,
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
    async with live() as running, channel_to(free_port(), running.port) as channel:
        for _ in range(3):
            assert await channel.unary(PATH + "Unary", b"there") == b"there"


async def test_calls_wait_for_a_busy_endpoint_rather_than_for_one_that_is_down() -> None:
    holding = Waiting()
    async with live(methods=holding.methods()) as running:
        endpoints = [
            Endpoint(f"127.0.0.1:{port}", concurrency_limit=1)
            for port in (free_port(), running.port)
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
        channel_to(one.port, two.port) as channel,
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
            "cannot connect" not in (lost := await error_of(channel.unary("/t.S/x", b""))).message
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
            async with channel_to(running.port) as channel:
                call = tasks.create_task(error_of(channel.unary("/test.Hold/Unary", b"")))
                await holding.until(1)
            await holding.until(0)
        assert call.result().code is Code.UNAVAILABLE
        with pytest.raises(NativeLinkError, match="closed"):
            await channel.unary(PATH + "Unary", b"")
