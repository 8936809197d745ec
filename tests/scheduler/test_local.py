"""The machine on a loop: watches, links, timers, the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.local import LocalScheduler
from nativelink.scheduler.operation import ExecutionStage, Failure, OperationView
from nativelink.scheduler.policy import Policy, PropertyKind
from nativelink.scheduler.scheduler import (
    KillOrder,
    Scheduler,
    StartOrder,
    Watch,
    WorkerGateway,
    WorkerHello,
    WorkerLink,
)
from nativelink.testing.fakes import FakeClock
from tests.scheduler.farm import action

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

    def unschedulable(self, operation: OperationView, reason: str) -> None:
        self.told.append(("unschedulable", reason))

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


def test_it_is_a_scheduler_that_workers_can_join(timers: Timers) -> None:
    local = LocalScheduler(POLICY, clock=timers.clock)
    scheduler: Scheduler = local
    gateway: WorkerGateway = local
    assert scheduler is gateway
    assert local.known_properties() == ["cpu_count"]


async def test_an_action_goes_to_a_worker_and_its_result_to_the_client(
    scheduler: LocalScheduler, recorder: FakeRecorder
) -> None:
    watch = await scheduler.execute(action(1))
    first = await view_of(watch)
    assert first.name.startswith("main/")
    assert (first.stage, first.note) == (ExecutionStage.QUEUED, "no worker is connected")
    link = scheduler.connect(hello())
    assert link.worker_id.startswith("worker-")
    order = await start_of(link)
    assert (await view_of(watch)).stage is ExecutionStage.EXECUTING
    link.process_ended(order.operation_id)
    link.result(order.operation_id, b"response", exit_code=0, peak_memory_kb=5, cpu_time_ms=7)
    last = await view_of(watch)
    assert (last.stage, last.response) == (ExecutionStage.COMPLETED, b"response")
    assert await watch.next() is None
    assert recorder.of("stage", "used", "unschedulable") == [
        ("stage", order.operation_id, "UNKNOWN", "QUEUED"),
        ("unschedulable", "no worker is connected"),
        ("stage", order.operation_id, "QUEUED", "EXECUTING"),
        ("used", order.operation_id, 5, 7),
        ("stage", order.operation_id, "EXECUTING", "COMPLETED"),
    ]


async def test_a_wrapper_may_choose_the_name(scheduler: LocalScheduler) -> None:
    watch = await scheduler.execute(action(1), name="main/chosen")
    assert (await view_of(watch)).name == "main/chosen"
    assert (await scheduler.get("main/chosen")).name == "main/chosen"


async def test_a_watch_waits_for_news_and_skips_what_nobody_waited_for(
    scheduler: LocalScheduler,
) -> None:
    watch = await scheduler.execute(action(1))
    await view_of(watch)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(watch.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        link = scheduler.connect(hello())
        order = await start_of(link)
        link.result(order.operation_id, b"", exit_code=1)
    view = waiting.result()
    assert view is not None
    assert view.done


async def test_a_watch_that_is_cancelled_while_it_waits_can_go_on(
    scheduler: LocalScheduler,
) -> None:
    watch = await scheduler.execute(action(1))
    await view_of(watch)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(watch.next())
        await asyncio.sleep(0)
        waiting.cancel()
    scheduler.connect(hello())
    assert (await view_of(watch)).stage is ExecutionStage.EXECUTING


async def test_several_follow_one_operation_by_its_name(scheduler: LocalScheduler) -> None:
    first = await scheduler.execute(action(1))
    name = (await view_of(first)).name
    second = await scheduler.watch(name)
    link = scheduler.connect(hello())
    link.result((await start_of(link)).operation_id, b"r", exit_code=0)
    assert (await view_of(first)).response == (await view_of(second)).response == b"r"
    assert [view.name for view in await scheduler.operations()] == [name]


async def test_an_operation_without_clients_is_given_up_and_stopped(
    scheduler: LocalScheduler, timers: Timers
) -> None:
    watch = await scheduler.execute(action(1))
    name = (await view_of(watch)).name
    link = scheduler.connect(hello())
    order = await start_of(link)
    watch.close()
    watch.close()
    for _ in range(30):
        timers.advance(2)
        link.keep_alive()
    assert await link.next_orders() == (KillOrder(order.operation_id),)
    failure = (await scheduler.get(name)).failure
    assert failure is not None
    assert failure.code is Code.UNAVAILABLE


async def test_a_finished_operation_is_kept_for_a_while_after_it_was_read(
    scheduler: LocalScheduler, timers: Timers
) -> None:
    watch = await scheduler.execute(action(1))
    name = (await view_of(watch)).name
    link = scheduler.connect(hello())
    link.result((await start_of(link)).operation_id, b"r", exit_code=0)
    watch.close()
    timers.advance(50)
    assert (await scheduler.get(name)).done
    timers.advance(59)
    assert (await (await scheduler.watch(name)).next()) is not None
    await expect(Code.NOT_FOUND, scheduler.get("main/never"))


async def expect(code: Code, awaitable: Any) -> NativeLinkError:
    with pytest.raises(NativeLinkError) as caught:
        await awaitable
    assert caught.value.code is code
    return caught.value


async def test_a_forgotten_operation_is_not_found(
    scheduler: LocalScheduler, timers: Timers
) -> None:
    watch = await scheduler.execute(action(1))
    name = (await view_of(watch)).name
    await expect(Code.FAILED_PRECONDITION, scheduler.delete(name))
    await scheduler.cancel(name)
    assert (await view_of(watch)).failure == Failure(Code.CANCELLED, "cancelled by the client")
    other = await scheduler.watch(name)
    await scheduler.delete(name)
    await expect(Code.NOT_FOUND, other.next())
    for call in (scheduler.get, scheduler.watch, scheduler.cancel, scheduler.delete):
        await expect(Code.NOT_FOUND, call(name))


async def test_a_minimum_that_is_no_number_is_refused(scheduler: LocalScheduler) -> None:
    await expect(Code.INVALID_ARGUMENT, scheduler.execute(action(1, cpu_count="many")))
    assert [*await scheduler.operations()] == []
    with pytest.raises(NativeLinkError, match="cpu_count='many'"):
        scheduler.connect(WorkerHello("w", (("cpu_count", "many"),)))
    assert scheduler.workers() == []


async def test_more_requests_than_it_can_remember_are_turned_away(
    scheduler: LocalScheduler, timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nativelink.scheduler.local._MAX_REQUESTS", 2)
    watches = [await scheduler.execute(action(1)) for _ in range(2)]
    error = await expect(Code.RESOURCE_EXHAUSTED, scheduler.execute(action(2)))
    assert "2 operations" in error.message
    for watch in watches:
        watch.close()
    timers.advance(60)
    timers.advance(60)
    await scheduler.execute(action(2))


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


async def test_ten_thousand_follow_one_operation_to_its_end(scheduler: LocalScheduler) -> None:
    link = scheduler.connect(hello())
    watches = [await scheduler.execute(action(1))]
    order = await start_of(link)
    name = (await view_of(watches[0])).name
    watches += [await scheduler.execute(action(1)) for _ in range(5_000)]
    watches += [await scheduler.watch(name) for _ in range(5_000)]
    async with asyncio.TaskGroup() as group:
        for watch in watches[1:]:
            await view_of(watch)
        tasks = [group.create_task(watch.next()) for watch in watches]
        await asyncio.sleep(0)
        link.result(order.operation_id, b"response", exit_code=0)
    views = [task.result() for task in tasks]
    assert all(view is not None and view.response == b"response" for view in views)
    assert len({view.operation_id for view in views if view is not None}) == 1
    for watch in watches:
        watch.close()
    assert scheduler.look(name) is not None, "it is kept for who comes back"


async def test_a_worker_that_reads_nothing_is_told_so_much_and_no_more(
    scheduler: LocalScheduler,
) -> None:
    link = scheduler.connect(hello())
    for number in range(20_000):
        link.process_ended(f"made-up-{number}")
    orders = await link.next_orders()
    assert len(orders) == 10_000
    assert all(isinstance(order, KillOrder) for order in orders)


async def test_a_look_shows_the_place_in_the_queue_without_counting_as_seen(
    scheduler: LocalScheduler,
) -> None:
    await scheduler.execute(action(1, cpu_count="4"))
    watch = await scheduler.execute(action(2, cpu_count="4"))
    assert (await view_of(watch)).queue_position == 1
    scheduler.connect(hello())
    looked = watch.look()
    assert looked is not None
    assert looked.queue_position == 0
