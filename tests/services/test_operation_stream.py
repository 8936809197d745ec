"""What a client is sent of an operation that does not read as fast as states come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from nativelink.core.streams import Chunk
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.scheduler.operation import ExecutionStage, OperationView
from nativelink.services.operation_stream import REPEAT_INTERVAL_S, OperationStream
from nativelink.services.operation_views import view_of
from nativelink.testing.fakes import FakeClock
from tests.scheduler.farm import action

QUEUED = OperationView("main/1", "1", action(1), ExecutionStage.QUEUED, 0, 0.0)
DONE = replace(QUEUED, stage=ExecutionStage.COMPLETED, response=b"")


class SlowSink:
    """Takes messages, but lets the writer go on only when it is told to."""

    def __init__(self) -> None:
        self.messages: list[operations_pb2.Operation] = []
        self.room = asyncio.Event()

    async def write(self, *parts: Chunk) -> None:
        self.messages.append(operations_pb2.Operation.FromString(b"".join(map(bytes, parts))))
        await self.room.wait()


class Alarm:
    """The timers of a loop, rung by hand."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def call_later(self, _: float, callback: Callable[[], None]) -> Alarm:
        self.callbacks.append(callback)
        return self

    def cancel(self) -> None:
        self.callbacks.clear()

    def ring(self) -> None:
        for callback in [*self.callbacks]:
            callback()


@pytest.mark.parametrize("view", [QUEUED, DONE])
async def test_a_state_that_is_still_being_written_is_not_repeated(
    view: OperationView, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarm, clock, sink = Alarm(), FakeClock(), SlowSink()
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", alarm.call_later)
    with OperationStream(sink, clock) as stream:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stream.send(view))
            await asyncio.sleep(0)
            # It lasts, if it is not the last one.
            alarm.ring()
            await asyncio.sleep(0)
            clock.advance(2 * REPEAT_INTERVAL_S)
            alarm.ring()
            await asyncio.sleep(0)
            assert len(sink.messages) == 1
            sink.room.set()
    assert [message.done for message in sink.messages] == [view.done]


async def test_a_repeated_state_tells_the_place_in_the_queue_as_it_is_by_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alarm, clock, sink = Alarm(), FakeClock(), SlowSink()
    sink.room.set()
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", alarm.call_later)
    now = replace(QUEUED, queue_position=7)
    with OperationStream(sink, clock, look=lambda: now) as stream:
        await stream.send(now)
        # It lasts.
        alarm.ring()
        now = replace(QUEUED, queue_position=2)
        clock.advance(REPEAT_INTERVAL_S)
        alarm.ring()
        now = DONE
        clock.advance(REPEAT_INTERVAL_S)
        alarm.ring()
    views = [view_of(message) for message in sink.messages]
    assert [view.queue_position for view in views] == [7, 2, 2], "the end is not for it to tell"
