"""Sinks, sources, and the pipe between them."""

import asyncio

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import (
    BytesSink,
    BytesSource,
    CountingSink,
    LimitedSource,
    NullSink,
    Pipe,
    drain,
)


class RefusedError(Exception):
    """A failure of one side."""


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_single_piece_is_given_back_as_the_same_object():
    sink, data = BytesSink(), b"abc"
    await sink.write(data)
    assert sink.getvalue() is data
    await sink.write(memoryview(b"def"))
    assert (sink.getvalue(), sink.size) == (b"abcdef", 6)


async def test_a_bounded_sink_takes_its_limit_and_no_more():
    sink = BytesSink(3)
    await sink.write(b"abc")
    with pytest.raises(NativeLinkError) as caught:
        await sink.write(b"d")
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


async def test_a_counting_sink_counts_what_was_taken_and_says_who_failed():
    class Refusing(NullSink):
        async def write(self, chunk, /):
            if self.size:
                raise RefusedError
            await super().write(chunk)

    sink = CountingSink(Refusing())
    await sink.write(b"abc")
    assert (sink.size, sink.failed) == (3, False)
    with pytest.raises(RefusedError):
        await sink.write(b"d")
    assert (sink.size, sink.failed) == (3, True)


@pytest.mark.parametrize(("size", "announced"), [(3, 3), (2, 3), (4, 3), (0, 1)])
async def test_a_limited_source_must_give_exactly_what_was_announced(size: int, announced: int):
    source = LimitedSource(BytesSource(b"x" * size), announced)
    if size == announced:
        assert await drain(source) == size
        assert await source.read() == b""
    else:
        with pytest.raises(NativeLinkError) as caught:
            await drain(source)
        assert caught.value.code is Code.INVALID_ARGUMENT


async def test_a_pipe_hands_over_one_piece_at_a_time():
    pipe = Pipe()
    writing = asyncio.Task(pipe.write(b"a"))
    await turns()
    assert not writing.done(), "nobody took it yet"
    assert await pipe.read() == b"a"
    await writing
    pipe.close()
    assert await pipe.read() == b""
    assert await pipe.read() == b"", "the end stays the end"


async def test_a_pipe_with_a_capacity_lets_so_many_bytes_wait():
    pipe = Pipe(capacity_bytes=10)
    await pipe.write(b"12345")
    await pipe.write(b"67890")
    writing = asyncio.Task(pipe.write(b"x"))
    await turns()
    assert not writing.done()
    assert await pipe.read() == b"12345"
    await writing
    pipe.close()
    assert await pipe.read() + await pipe.read() + await pipe.read() == b"67890x"


async def test_pieces_arrive_in_order_whoever_is_faster():
    for capacity in (0, 3, 100):
        pipe = Pipe(capacity_bytes=capacity)

        async def write(pipe: Pipe = pipe) -> None:
            for number in range(50):
                await pipe.write(bytes((number,)))
                await turns(number % 3)
            pipe.close()

        received = b""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            while chunk := await pipe.read():
                received += chunk
                await turns(len(received) % 5)
        assert received == bytes(range(50))


@pytest.mark.parametrize("capacity", [0, 100])
async def test_a_writer_that_fails_makes_the_reader_raise(capacity: int):
    pipe = Pipe(capacity_bytes=capacity)
    reading = asyncio.Task(pipe.read())
    await turns()
    pipe.fail(RefusedError())
    with pytest.raises(RefusedError):
        await reading
    with pytest.raises(RefusedError):
        await pipe.read()


@pytest.mark.parametrize("capacity", [0, 100])
async def test_a_reader_that_gives_up_makes_the_writer_raise(capacity: int):
    pipe = Pipe(capacity_bytes=capacity)
    writing = asyncio.Task(pipe.write(b"x" * 101))
    await turns()
    pipe.abandon(RefusedError())
    with pytest.raises(RefusedError):
        await writing
    with pytest.raises(RefusedError):
        await pipe.write(b"more")


async def test_a_cancelled_reader_leaves_the_pipe_usable():
    pipe = Pipe()
    reading = asyncio.Task(pipe.read())
    await turns()
    reading.cancel()
    await turns()
    writing = asyncio.Task(pipe.write(b"a"))
    assert await pipe.read() == b"a"
    await writing
