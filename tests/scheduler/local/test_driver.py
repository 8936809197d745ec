"""The machine on a loop: its timers, its clock, its recorder, its end."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.local import LocalScheduler
from nativelink.scheduler.operation import OperationView
from nativelink.scheduler.scheduler import Scheduler, WorkerGateway
from tests.scheduler.farm import action
from tests.scheduler.local.driven import (
    POLICY,
    FakeRecorder,
    Timers,
    expect,
    hello,
    start_of,
    view_of,
)


def test_it_is_a_scheduler_that_workers_can_join(timers: Timers) -> None:
    local = LocalScheduler(POLICY, clock=timers.clock)
    scheduler: Scheduler = local
    gateway: WorkerGateway = local
    assert scheduler is gateway
    assert local.known_properties() == ["cpu_count"]


async def test_when_it_stops_clients_are_told_and_workers_disconnected(
    scheduler: LocalScheduler,
) -> None:
    link = scheduler.connect(hello())
    ended = await scheduler.execute(action(1))
    link.result((await start_of(link)).operation_id, b"r", exit_code=0)
    watch = await scheduler.execute(action(2, cpu_count="99"))
    await view_of(watch)
    waiting = asyncio.ensure_future(watch.next())
    await asyncio.sleep(0)
    scheduler.close()
    await expect(Code.UNAVAILABLE, waiting)
    assert (await view_of(ended)).response == b"r"
    assert await link.next_orders() == ()
    watch.close()
    link.lost()
    await expect(Code.UNAVAILABLE, scheduler.execute(action(3)))
    with pytest.raises(NativeLinkError, match="stops"):
        scheduler.connect(hello())


async def test_it_logs_why_actions_wait(
    scheduler: LocalScheduler, timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nativelink.scheduler.local")
    link = scheduler.connect(hello(max_inflight_tasks=1))
    for number in range(3):
        await scheduler.execute(action(number, cpu_count="1"))
    await scheduler.execute(action(9, cpu_count="64"))
    hopeless = f"cpu_count=64 asked, the most that a worker offers is 4 ({link.worker_id})"
    assert caplog.messages == [f"actions wait that no worker can run: {hopeless}"]
    caplog.clear()
    for _ in range(5):
        timers.advance(2)
        link.keep_alive()
    assert caplog.messages == [
        "queue of cpu_count>=1: 2 waiting, the first one for 10 s: all that suit are busy",
        f"queue of cpu_count>=64: 1 waiting, the first one for 10 s: {hopeless}",
    ]


async def test_what_many_actions_wait_for_is_said_once(
    scheduler: LocalScheduler, timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        await scheduler.execute(action(number))
    await scheduler.execute(action(9, os="linux"))
    warning = "actions wait that no worker can run: no worker is connected"
    assert caplog.messages == [warning]
    timers.advance(10)
    await scheduler.execute(action(10))
    assert caplog.messages == [warning, warning]


async def test_of_many_who_wait_some_are_woken_at_once_and_the_others_in_turns(
    scheduler: LocalScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nativelink.scheduler.watches._WOKEN_AT_ONCE", 10)
    watches = [await scheduler.execute(action(number)) for number in range(35)]
    for watch in watches:
        await view_of(watch)
    woken = [asyncio.ensure_future(watch.next()) for watch in watches]
    await asyncio.sleep(0)

    link = scheduler.connect(hello(max_inflight_tasks=1))
    first = await start_of(link)
    counts: list[int] = []
    while len(counts) < 10 and (not counts or counts[-1] < len(woken)):
        await asyncio.sleep(0)
        counts.append(sum(each.done() for each in woken))
        if len(counts) == 1:
            # What happens meanwhile need not wait for that.
            link.result(first.operation_id, b"response", exit_code=0)
            assert (await view_of(watches[0])).response == b"response"
    assert counts[0] <= 10
    assert max(later - sooner for sooner, later in pairwise(counts)) <= 10
    assert counts[-1] == len(woken)


async def test_a_clock_that_is_set_changes_nothing(
    scheduler: LocalScheduler, timers: Timers
) -> None:
    link = scheduler.connect(hello())
    timers.clock.set_time(5.0)
    link.keep_alive()
    watch = await scheduler.execute(ActionInfo(action(1).key))
    assert (await view_of(watch)).queued_at > 1_600_000_000
    timers.advance(4.9)
    assert len(scheduler.workers()) == 1


class BrokenRecorder(FakeRecorder):
    """Fails whatever it is told."""

    def handled(self, seconds: float) -> None:
        raise ValueError("the disk of the metrics is full")

    def resources_used(
        self, operation: OperationView, *, peak_memory_kb: int, cpu_time_ms: int
    ) -> None:
        raise ValueError("so much")


async def test_a_recorder_that_fails_costs_no_operation(
    timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    async with LocalScheduler(POLICY, clock=timers.clock, recorder=BrokenRecorder()) as scheduler:
        link = scheduler.connect(hello())
        watch = await scheduler.execute(action(1))
        order = await start_of(link)
        link.result(order.operation_id, b"response", exit_code=0)
        assert (await view_of(watch)).response == b"response"
    assert "could not be recorded" in caplog.text
