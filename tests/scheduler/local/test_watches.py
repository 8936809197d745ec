"""What clients see of the machine on a loop: watches, names, looks."""

from __future__ import annotations

import asyncio

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.scheduler.local import LocalScheduler
from nativelink.scheduler.operation import ExecutionStage, Failure
from nativelink.scheduler.scheduler import KillOrder, WorkerHello
from tests.scheduler.farm import action
from tests.scheduler.local.driven import FakeRecorder, Timers, expect, hello, start_of, view_of


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
    assert recorder.of("stage", "used") == [
        ("stage", order.operation_id, "UNKNOWN", "QUEUED"),
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
