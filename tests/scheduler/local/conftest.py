"""A scheduler on a loop whose time stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from nativelink.scheduler.local import LocalScheduler
from nativelink.testing.fakes import FakeClock
from tests.scheduler.local.driven import POLICY, FakeRecorder, Timers


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    timers = Timers(FakeClock())
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_at", timers.call_at)
    monkeypatch.setattr(loop, "time", timers.clock.monotonic)
    return timers


@pytest.fixture
def recorder() -> FakeRecorder:
    return FakeRecorder()


@pytest.fixture
async def scheduler(timers: Timers, recorder: FakeRecorder) -> AsyncIterator[LocalScheduler]:
    async with LocalScheduler(POLICY, clock=timers.clock, recorder=recorder) as scheduler:
        yield scheduler
