"""What workers see of the machine on a loop: links, orders, their end."""

from __future__ import annotations

import pytest

from nativelink.core.errors import NativeLinkError
from nativelink.scheduler.local import LocalScheduler
from nativelink.scheduler.scheduler import KillOrder
from tests.scheduler.farm import action
from tests.scheduler.local.driven import FakeRecorder, Timers, hello, start_of, view_of


async def test_a_silent_worker_is_disconnected(
    scheduler: LocalScheduler, timers: Timers, recorder: FakeRecorder
) -> None:
    link = scheduler.connect(hello())
    timers.advance(4)
    link.keep_alive()
    timers.advance(4)
    assert len(scheduler.workers()) == 1
    timers.advance(1)
    assert scheduler.workers() == []
    assert await link.next_orders() == ()
    link.keep_alive()
    link.lost()
    assert recorder.of("connected", "disconnected", "seen") == [
        ("connected", False),
        ("seen",),
        ("disconnected", "evicted"),
    ]


async def test_after_a_standstill_workers_are_heard_before_any_is_lost(
    scheduler: LocalScheduler, timers: Timers
) -> None:
    link, other = scheduler.connect(hello()), scheduler.connect(hello())
    timers.clock.advance(30)
    # All timers are late, and are called before what lies in the sockets is read.
    timers.advance(0)
    link.keep_alive()
    await scheduler.execute(action(1, cpu_count="99"))
    timers.advance(0.5)
    assert len(scheduler.workers()) == 2
    timers.advance(0.5)
    assert [worker.worker_id for worker in scheduler.workers()] == [link.worker_id]
    assert await other.next_orders() == ()
    timers.advance(5)
    assert scheduler.workers() == []


async def test_a_standstill_is_noticed_also_if_a_worker_would_be_silent_just_at_its_end(
    scheduler: LocalScheduler, timers: Timers
) -> None:
    link = scheduler.connect(hello())
    timers.advance(2.4)
    # What the worker says after 2.5 s lies in the socket.
    timers.clock.advance(2.7)
    timers.advance(0)
    assert len(scheduler.workers()) == 1
    link.keep_alive()
    timers.advance(4.9)
    assert len(scheduler.workers()) == 1
    timers.advance(0.2)
    assert scheduler.workers() == []


async def test_a_worker_comes_back_while_its_old_connection_still_looks_alive(
    scheduler: LocalScheduler, recorder: FakeRecorder
) -> None:
    watch = await scheduler.execute(action(1))
    old = scheduler.connect(hello(can_resume=True))
    order = await start_of(old)
    new = scheduler.connect(
        hello(can_resume=True, resumes=old.worker_id, running=(order.operation_id,))
    )
    assert new.worker_id == old.worker_id
    assert await old.next_orders() == ()
    old.lost()
    new.result(order.operation_id, b"r", exit_code=0)
    assert (await view_of(watch)).response == b"r"
    assert recorder.of("connected", "disconnected") == [
        ("connected", False),
        ("disconnected", "disconnected"),
        ("connected", True),
    ]


async def test_a_worker_that_nobody_knows_gets_a_new_id_and_is_to_stop_what_it_runs(
    scheduler: LocalScheduler,
) -> None:
    link = scheduler.connect(hello(resumes="worker-before", running=("x",)))
    assert link.worker_id != "worker-before"
    assert await link.next_orders() == (KillOrder("x"),)


async def test_a_worker_that_goes_away_hands_its_work_over_at_once(
    scheduler: LocalScheduler, recorder: FakeRecorder
) -> None:
    await scheduler.execute(action(1))
    first = scheduler.connect(hello())
    await start_of(first)
    second = scheduler.connect(hello())
    first.going_away()
    first.lost()
    await start_of(second)
    assert recorder.of("attempt", "disconnected") == [
        ("disconnected", "disconnected"),
        ("attempt", first.worker_id, False),
    ]


async def test_a_drained_worker_gets_nothing_new(scheduler: LocalScheduler) -> None:
    link = scheduler.connect(hello())
    scheduler.drain(link.worker_id, draining=True)
    await scheduler.execute(action(1))
    assert [worker.draining for worker in scheduler.workers()] == [True]
    assert scheduler.statistics().queued == 1
    scheduler.drain(link.worker_id, draining=False)
    await start_of(link)
    with pytest.raises(NativeLinkError, match="not found"):
        scheduler.drain("nobody", draining=True)


async def test_a_worker_that_reads_nothing_is_told_so_much_and_no_more(
    scheduler: LocalScheduler,
) -> None:
    link = scheduler.connect(hello())
    for number in range(20_000):
        link.process_ended(f"made-up-{number}")
    orders = await link.next_orders()
    assert len(orders) == 10_000
    assert all(isinstance(order, KillOrder) for order in orders)
