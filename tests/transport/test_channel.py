"""Outgoing calls of every shape, against our own server over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from nativelink.core.channel import Duplex
from nativelink.core.digest import Digest
from nativelink.core.errors import Code, MissingBlob, NativeLinkError
from nativelink.core.rpc import CallContext, MessageSink, MessageSource, Method
from nativelink.core.streams import Chunk
from nativelink.transport.channel import GrpcChannel
from nativelink.transport.endpoints import Endpoint
from tests.errors import error_of
from tests.ports import free_port
from tests.transport.echo_service import PATH
from tests.transport.live import live
from tests.transport.outgoing import Waiting, channel_to


async def test_a_message_goes_there_and_one_comes_back() -> None:
    async with live() as running, channel_to(running.port) as channel:
        assert await channel.unary(PATH + "Unary", b"hello") == b"hello"


async def test_a_message_of_any_size_is_taken() -> None:
    async def big(request: bytes, context: CallContext) -> bytes:
        return bytes(9_000_000)

    async with (
        live(methods=[Method("/t.S/Big", big)]) as running,
        channel_to(running.port) as channel,
    ):
        assert len(await channel.unary("/t.S/Big", bytes(3_900_000))) == 9_000_000


async def test_nothing_is_connected_before_the_first_call() -> None:
    async with live() as running, channel_to(running.port) as channel:
        (connection,) = channel._pool._connections
        assert connection._channel is None
        await channel.unary(PATH + "Unary", b"hello")
        assert connection.is_open


async def test_metadata_reaches_the_peer() -> None:
    seen: list[bytes | None] = []

    async def look(request: bytes, context: CallContext) -> bytes:
        seen.extend([context.header(b"x-text"), context.header(b"x-raw-bin")])
        return b""

    async with (
        live(methods=[Method("/t.S/Look", look)]) as running,
        channel_to(running.port) as channel,
    ):
        await channel.unary(
            "/t.S/Look", b"", metadata=(("x-text", "plain"), ("x-raw-bin", b"\x00\xff"))
        )
    assert seen[0] == b"plain"
    assert seen[1] in {b"AP8", b"AP8="}


async def test_an_error_has_the_peers_code_and_message() -> None:
    async with live() as running, channel_to(running.port) as channel:
        with pytest.raises(NativeLinkError) as caught:
            await channel.unary(PATH + "Fail", b"tea")
    assert caught.value.code is Code.NOT_FOUND
    assert caught.value.message == "no tea here: 100% gone, ä"


async def test_missing_blobs_are_details_of_the_error() -> None:
    async with live() as running, channel_to(running.port) as channel:
        with pytest.raises(NativeLinkError) as caught:
            await channel.unary(PATH + "Missing", b"")
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.details == (MissingBlob(Digest("ab" * 32, 7)),)


async def test_an_error_of_a_stream_comes_after_its_messages() -> None:
    async def partly(request: bytes, context: CallContext, sink: MessageSink) -> None:
        await sink.write(b"one")
        raise NativeLinkError(Code.DATA_LOSS, "the rest is gone")

    methods = [Method("/t.S/Partly", partly, server_streaming=True)]
    async with live(methods=methods) as running, channel_to(running.port) as channel:
        answers = channel.server_stream("/t.S/Partly", b"")
        assert await anext(answers) == b"one"
        with pytest.raises(NativeLinkError, match="the rest is gone") as caught:
            await anext(answers)
    assert caught.value.code is Code.DATA_LOSS


async def test_a_server_that_is_not_there_is_unavailable_and_the_reason_is_told() -> None:
    port = free_port()
    async with channel_to(port) as channel:
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
    async with live(methods=holding.methods()) as running, channel_to(running.port) as channel:
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
        channel_to(running.port, limit=1) as channel,
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
    async with live(methods=holding.methods()) as running, channel_to(running.port) as channel:
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
    async with live(methods=methods) as running, channel_to(running.port) as channel:
        answers = channel.server_stream("/t.S/Endless", b"")
        assert await anext(answers) == b"more"
        await answers.aclose()
        await ended.wait()


async def test_many_messages_go_there_and_one_comes_back() -> None:
    async def numbers() -> AsyncIterator[bytes]:
        for size in (1, 10, 100):
            yield bytes(size)

    async with live() as running, channel_to(running.port) as channel:
        assert await channel.client_stream(PATH + "Upload", numbers()) == b"111"
        pieces: list[Chunk] = [b"12", memoryview(b"345")]
        assert await channel.client_stream(PATH + "Upload", pieces) == b"5"


@pytest.mark.parametrize("size", [1024, 2 * 1024 * 1024])
async def test_a_peer_may_answer_before_it_has_seen_all_messages(size: int) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(size)
            await asyncio.sleep(0)

    async with live() as running, channel_to(running.port) as channel:
        for _ in range(8):
            assert await channel.client_stream(PATH + "Early", endless()) == b"early"


async def test_an_early_answer_ends_the_wait_for_more_messages() -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    async with live() as running, channel_to(running.port) as channel:
        assert await channel.client_stream(PATH + "Early", stalling()) == b"early"


async def test_an_error_that_comes_while_messages_are_sent_is_the_peers() -> None:
    async def refuse(source: MessageSource, context: CallContext) -> bytes:
        await source.read()
        raise NativeLinkError(Code.RESOURCE_EXHAUSTED, "full")

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(200_000)

    methods = [Method("/t.S/Refuse", refuse, client_streaming=True)]
    async with live(methods=methods) as running, channel_to(running.port) as channel:
        for _ in range(20):
            with pytest.raises(NativeLinkError) as caught:
                await channel.client_stream("/t.S/Refuse", endless())
            assert (caught.value.code, caught.value.message) == (Code.RESOURCE_EXHAUSTED, "full")


async def test_an_error_of_the_messages_themselves_is_the_callers() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise KeyError("mine")

    async with live() as running, channel_to(running.port) as channel:
        with pytest.raises(KeyError, match="mine"):
            await channel.client_stream(PATH + "Upload", broken())


async def test_messages_go_both_ways_at_any_time() -> None:
    async with live() as running, channel_to(running.port) as channel:
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
    async with live(methods=methods) as running, channel_to(running.port) as channel:
        chat = channel.duplex("/t.S/Greet")
        assert await chat.read() == b"hello"
        await chat.write(b"hello yourself")
        assert await chat.read() is None


async def test_several_tasks_may_write_to_a_duplex_call() -> None:
    async with live() as running, channel_to(running.port) as channel:
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
    async with live(methods=methods) as running, channel_to(running.port) as channel:
        for _ in range(20):
            chat = channel.duplex("/t.S/Refuse")
            with pytest.raises(NativeLinkError) as caught:
                await _write_on(chat)
            assert (caught.value.code, caught.value.message) == (Code.PERMISSION_DENIED, "not you")
            with pytest.raises(NativeLinkError, match="not you"):
                await chat.read()


async def test_cancelling_a_duplex_call_wakes_its_reader() -> None:
    async with live() as running, channel_to(running.port) as channel:
        chat = channel.duplex(PATH + "Chat")
        await chat.write(b"x")
        await chat.read()
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(error_of(chat.read()))
            await asyncio.sleep(0)
            chat.cancel()
            chat.cancel()
        assert reading.result().code in {Code.UNAVAILABLE, Code.CANCELLED}


async def _write_on(chat: Duplex) -> None:
    while True:
        await chat.write(bytes(200_000))
