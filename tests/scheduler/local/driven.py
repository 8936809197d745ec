"""A scheduler whose timers a test moves by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.scheduler.operation import ExecutionStage, OperationView
from nativelink.scheduler.policy import Policy, PropertyKind
from nativelink.scheduler.scheduler import StartOrder, Watch, WorkerHello, WorkerLink
from nativelink.testing.fakes import FakeClock

POLICY = Policy(supported_properties={"cpu_count": PropertyKind.MINIMUM})


class Timers:
    """The loop's clock and its timers, moved by hand."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.pending: list[Timer] = []

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(when, callback)
        self.pending.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, and call what becomes due on the way."""
        end = self.clock.monotonic() + seconds
        while True:
            self.pending = [timer for timer in self.pending if timer.callback is not None]
            due = min(self.pending, key=lambda timer: timer.at, default=None)
            if due is None or due.at > end:
                break
            self.clock.advance(max(0.0, due.at - self.clock.monotonic()))
            callback, due.callback = due.callback, None
            assert callback is not None
            callback()
        self.clock.advance(max(0.0, end - self.clock.monotonic()))


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback: Callable[[], None] | None = callback

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        self.callback = None


class FakeRecorder:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def stage_changed(
        self, operation: OperationView, before: ExecutionStage, after: ExecutionStage
    ) -> None:
        self.told.append(("stage", operation.operation_id, before.name, after.name))

    def resources_used(
        self, operation: OperationView, *, peak_memory_kb: int, cpu_time_ms: int
    ) -> None:
        self.told.append(("used", operation.operation_id, peak_memory_kb, cpu_time_ms))

    def attempt_ended(
        self, operation: OperationView, worker_id: str, reason: str, *, counted: bool
    ) -> None:
        self.told.append(("attempt", worker_id, counted))

    def worker_connected(self, worker_id: str, *, resumed: bool) -> None:
        self.told.append(("connected", resumed))

    def worker_disconnected(self, worker_id: str, reason: str) -> None:
        self.told.append(("disconnected", reason))

    def worker_seen(self, worker_id: str) -> None:
        self.told.append(("seen",))

    def handled(self, seconds: float) -> None:
        self.told.append(("handled",))

    def of(self, *kinds: str) -> list[tuple[Any, ...]]:
        return [each for each in self.told if each[0] in kinds]


def hello(**more: Any) -> WorkerHello:
    return WorkerHello(prefix="worker-", properties=(("cpu_count", "4"),), **more)


async def view_of(watch: Watch) -> OperationView:
    """The watch's next view, which must be there at once."""
    view = await asyncio.wait_for(watch.next(), None)
    assert view is not None
    return view


async def start_of(link: WorkerLink) -> StartOrder:
    """The one thing that a worker is to start."""
    (order,) = await link.next_orders()
    assert isinstance(order, StartOrder)
    return order


async def expect(code: Code, awaitable: Any) -> NativeLinkError:
    with pytest.raises(NativeLinkError) as caught:
        await awaitable
    assert caught.value.code is code
    return caught.value
