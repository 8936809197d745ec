"""Calls within the process behave as those over a socket do."""

from __future__ import annotations

import asyncio

import pytest

from nativelink.core.digest import DigestFunction, digest_function
from nativelink.core.errors import Code, NativeLinkError, not_found
from nativelink.core.rpc import CallContext, MessageSink, MessageSource, Method
from nativelink.transport.loopback import LoopbackChannel


async def _upper(request: bytes, context: CallContext) -> bytes:
    digest_function.set(DigestFunction.BLAKE3)
    return request.upper() + (context.header(b"suffix") or b"")


async def _binary(request: bytes, context: CallContext) -> bytes:
    return context.header(b"token-bin") or b""


async def _fail(request: bytes, context: CallContext) -> bytes:
    raise not_found(f"{request!r} of {context.peer.address}")


async def _break(request: bytes, context: CallContext) -> bytes:
    raise ZeroDivisionError(str(len(request)))


async def _hang(request: bytes, context: CallContext) -> bytes:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        ENDED.append(request)
    return b""


async def _count(request: bytes, context: CallContext, sink: MessageSink) -> None:
    for number in range(int(request)):
        await sink.write(b"n", str(number).encode())


async def _cut(request: bytes, context: CallContext, sink: MessageSink) -> None:
    await sink.write_slices(b"-", memoryview(request), 2)


async def _join(source: MessageSource, context: CallContext) -> bytes:
    parts: list[bytes] = []
    while (message := await source.read()) is not None:
        parts.append(bytes(message))
    return b"".join(parts)


async def _echo(source: MessageSource, context: CallContext, sink: MessageSink) -> None:
    while (message := await source.read()) is not None:
        if message == b"fail":
            raise not_found("as you wish")
        await sink.write(message)


async def _idle(source: MessageSource, context: CallContext, sink: MessageSink) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        ENDED.append(b"idle")


ENDED: list[bytes] = []

METHODS = [
    Method("/t.T/Upper", _upper),
    Method("/t.T/Binary", _binary),
    Method("/t.T/Fail", _fail),
    Method("/t.T/Break", _break),
    Method("/t.T/Hang", _hang),
    Method("/t.T/Count", _count, server_streaming=True),
    Method("/t.T/Cut", _cut, server_streaming=True),
    Method("/t.T/Join", _join, client_streaming=True),
    Method("/t.T/Echo", _echo, client_streaming=True, server_streaming=True),
    Method("/t.T/Idle", _idle, client_streaming=True, server_streaming=True),
]


@pytest.fixture
def channel() -> LoopbackChannel:
    ENDED.clear()
    return LoopbackChannel(METHODS, name="worker-1")


async def test_a_unary_call_is_answered_and_keeps_its_context_to_itself(
    channel: LoopbackChannel,
) -> None:
    assert await channel.unary("/t.T/Upper", b"abc", metadata=[("suffix", "!")]) == b"ABC!"
    assert digest_function.get() is None


async def test_binary_headers_arrive_as_they_do_over_a_socket(channel: LoopbackChannel) -> None:
    metadata = [("token-bin", b"\x00\xff")]
    assert await channel.unary("/t.T/Binary", b"", metadata=metadata) == b"AP8="


async def test_an_error_keeps_its_code_and_knows_who_called(channel: LoopbackChannel) -> None:
    with pytest.raises(NativeLinkError, match="worker-1") as caught:
        await channel.unary("/t.T/Fail", b"x")
    assert caught.value.code is Code.NOT_FOUND


async def test_an_unknown_method_is_unimplemented(channel: LoopbackChannel) -> None:
    with pytest.raises(NativeLinkError, match=r"/t\.T/None") as caught:
        await channel.unary("/t.T/None", b"x")
    assert caught.value.code is Code.UNIMPLEMENTED


async def test_a_deadline_ends_the_handler(channel: LoopbackChannel) -> None:
    with pytest.raises(NativeLinkError) as caught:
        await channel.unary("/t.T/Hang", b"x", timeout_s=0.001)
    await asyncio.sleep(0)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert ENDED == [b"x"]


async def test_a_stream_of_answers_arrives_in_order(channel: LoopbackChannel) -> None:
    got = [message async for message in channel.server_stream("/t.T/Count", b"200")]
    assert got == [b"n%d" % number for number in range(200)]


async def test_slices_are_messages(channel: LoopbackChannel) -> None:
    got = [message async for message in channel.server_stream("/t.T/Cut", b"abcdef")]
    assert got == [b"-ab", b"-cd", b"-ef"]


async def test_a_stream_of_requests_is_read_to_its_end(channel: LoopbackChannel) -> None:
    assert await channel.client_stream("/t.T/Join", [b"a", b"b", b""]) == b"ab"


async def test_both_sides_talk_at_any_time(channel: LoopbackChannel) -> None:
    call = channel.duplex("/t.T/Echo")
    for message in (b"one", b"two"):
        await call.write(message)
        assert await call.read() == message
    await call.done_writing()
    assert await call.read() is None
    with pytest.raises(NativeLinkError):
        await call.write(b"late")


async def test_a_handler_that_fails_ends_the_call_with_its_error(channel: LoopbackChannel) -> None:
    call = channel.duplex("/t.T/Echo")
    await call.write(b"one")
    await call.write(b"fail")
    assert await call.read() == b"one"
    with pytest.raises(NativeLinkError, match="as you wish"):
        await call.read()


async def test_cancelling_a_call_cancels_its_handler(channel: LoopbackChannel) -> None:
    call = channel.duplex("/t.T/Idle")
    await call.write(b"x")
    call.cancel()
    with pytest.raises(NativeLinkError) as caught:
        await call.read()
    assert caught.value.code is Code.CANCELLED
    assert ENDED == [b"idle"]


async def test_a_writer_waits_for_a_reader_that_is_slow(channel: LoopbackChannel) -> None:
    call = channel.duplex("/t.T/Idle")
    written = 0

    async def write_many() -> None:
        nonlocal written
        for _ in range(1000):
            await call.write(b"x")
            written += 1

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write_many())
        for _ in range(100):
            await asyncio.sleep(0)
        assert 0 < written < 200
        writing.cancel()
    call.cancel()


async def _two_writers(source: MessageSource, context: CallContext, sink: MessageSink) -> None:
    async def write(name: bytes) -> None:
        for _ in range(100):
            await sink.write(name)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write(b"a"))
        tasks.create_task(write(b"b"))


async def test_two_writers_of_one_call_both_get_on() -> None:
    """A worker's orders and the answers to its keep-alives are written by two coroutines."""
    method = Method("/t.T/Two", _two_writers, client_streaming=True, server_streaming=True)
    call = LoopbackChannel([method], name="worker").duplex("/t.T/Two")
    # Both writers come to where they must wait.
    for _ in range(10):
        await asyncio.sleep(0)
    found = []
    async with asyncio.timeout(60):
        while (message := await call.read()) is not None:
            found.append(message)
    assert (found.count(b"a"), found.count(b"b")) == (100, 100)


async def test_who_waits_for_a_message_goes_on_within_the_call_that_writes_it(
    channel: LoopbackChannel,
) -> None:
    """A worker starts its next action before it does anything else for the last one."""
    call = channel.duplex("/t.T/Echo")
    heard: list[bytes | None] = []

    async def listen() -> None:
        while True:
            heard.append(await call.read())

    async with asyncio.TaskGroup() as group:
        listening = group.create_task(listen())
        # Both ends come to where they wait.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await call.write(b"one")
        assert heard == [b"one"]
        listening.cancel()
    call.cancel()
