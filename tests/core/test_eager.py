"""Coroutines that are started at once: results, failures, cancellation, current_task."""

import asyncio
from contextvars import ContextVar

import pytest

from nativelink.core.eager import Starter, begin, run_all


async def test_a_coroutine_that_never_waits_gives_its_result_without_a_task():
    async def answer() -> int:
        return 42

    assert begin(answer(), asyncio.get_running_loop()) == (42,)


async def test_an_exception_before_the_first_suspension_is_raised_at_once():
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        begin(fail(), asyncio.get_running_loop())


async def test_a_coroutine_that_waits_goes_on_in_a_task():
    loop = asyncio.get_running_loop()
    gate = loop.create_future()

    async def wait() -> str:
        first = await gate
        await asyncio.sleep(0)
        return first + "!"

    task = begin(wait(), loop)
    assert isinstance(task, asyncio.Task)
    gate.set_result("open")
    assert await task == "open!"


async def test_current_task_of_the_caller_is_restored():
    mine = asyncio.current_task()
    begin(asyncio.sleep(0, 1), asyncio.get_running_loop())
    assert asyncio.current_task() is mine


async def test_timeout_and_taskgroup_opened_in_the_eager_part_work():
    async def slow() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            pass
        async with asyncio.TaskGroup() as group:
            child = group.create_task(asyncio.sleep(0, "done"))
        return child.result()

    task = begin(slow(), asyncio.get_running_loop())
    assert isinstance(task, asyncio.Task)
    assert await task == "done"


async def test_a_failing_child_of_an_eager_taskgroup_cancels_its_parent():
    async def child() -> None:
        await asyncio.sleep(0)
        raise ValueError("child")

    async def parent() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            await asyncio.get_running_loop().create_future()

    task = begin(parent(), asyncio.get_running_loop())
    assert isinstance(task, asyncio.Task)
    with pytest.raises(ExceptionGroup):
        await task


async def test_context_variables_set_by_the_coroutine_stay_in_it():
    variable: ContextVar[int] = ContextVar("variable", default=0)

    async def change() -> int:
        variable.set(1)
        await asyncio.sleep(0)
        return variable.get()

    task = begin(change(), asyncio.get_running_loop())
    assert isinstance(task, asyncio.Task)
    assert await task == 1
    assert variable.get() == 0


async def test_cancelling_the_task_cancels_the_coroutine():
    seen = []

    async def wait() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task = begin(wait(), asyncio.get_running_loop())
    assert isinstance(task, asyncio.Task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]


async def test_run_all_keeps_the_order():
    async def value(number: int) -> int:
        if number % 2:
            await asyncio.sleep(0)
        return number

    assert await run_all(value(n) for n in range(5)) == [0, 1, 2, 3, 4]


async def test_run_all_cancels_the_others_when_one_fails():
    ended = []

    async def wait() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(1)

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        await run_all([wait(), fail(), wait()])
    assert ended == [1, 1]


async def test_run_all_that_is_cancelled_leaves_nothing():
    ended = []

    async def wait() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(1)

    task = asyncio.get_running_loop().create_task(run_all([wait(), wait()]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1, 1]


async def test_run_all_starts_every_coroutine_before_it_waits_for_one():
    started = []
    released = asyncio.get_running_loop().create_future()

    async def work(number):
        started.append(number)
        if number == 5:
            released.set_result(None)
        elif number % 2:
            await asyncio.shield(released)
        return number

    assert await run_all([work(number) for number in range(6)]) == [0, 1, 2, 3, 4, 5]
    assert started == [0, 1, 2, 3, 4, 5]


async def test_run_all_makes_a_task_only_for_those_that_wait(monkeypatch):
    tasks = []
    real = asyncio.Task
    monkeypatch.setattr(asyncio, "Task", lambda *a, **k: tasks.append(real(*a, **k)) or tasks[-1])

    async def work(number):
        if number in {3, 7}:
            await asyncio.sleep(0)
        return number

    assert await run_all([work(number) for number in range(10)]) == list(range(10))
    # Servers of other tests may live in other threads.
    assert len([task for task in tasks if task.get_loop() is asyncio.get_running_loop()]) == 2


async def test_run_all_closes_what_it_did_not_start_after_a_failure():
    started = []

    async def work(number):
        started.append(number)
        if number == 0:
            await asyncio.Event().wait()
        if number == 1:
            raise ValueError(number)

    with pytest.raises(ValueError, match="1"):
        await run_all([work(number) for number in range(4)])
    assert started == [0, 1]


async def test_run_all_that_is_cancelled_again_leaves_nothing_either():
    ended = []
    cleaning = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await cleaning.wait()
            ended.append(1)

    task = asyncio.get_running_loop().create_task(run_all([wait(), wait()]))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    cleaning.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1, 1]


@pytest.mark.parametrize("eager", [True, False])
async def test_a_task_that_is_cancelled_at_once_waits_for_what_it_waited_for(eager):
    loop = asyncio.get_running_loop()
    ended = []

    async def child():
        try:
            await loop.create_future()
        finally:
            await asyncio.sleep(0)
            ended.append("child")

    inner = loop.create_task(child())
    await asyncio.sleep(0)

    async def parent():
        try:
            await inner
        finally:
            ended.append("parent")

    if eager:
        task = begin(parent(), loop)
    else:
        task = loop.create_task(parent())
        await asyncio.sleep(0)
    task.cancel("why")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["child", "parent"]


@pytest.mark.parametrize("eager", [True, False])
async def test_a_cancellation_that_was_survived_below_is_survived(eager):
    loop = asyncio.get_running_loop()

    async def stubborn():
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            return "saved"

    inner = loop.create_task(stubborn())
    await asyncio.sleep(0)

    async def parent():
        return await inner

    if eager:
        task = begin(parent(), loop)
    else:
        task = loop.create_task(parent())
        await asyncio.sleep(0)
    task.cancel()
    assert await task == "saved"


@pytest.mark.parametrize("wait", [False, True])
async def test_a_task_that_is_cancelled_at_once_is_cancelled_where_it_stands(wait):
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    async def work():
        await (done if wait else asyncio.sleep(0))

    task = begin(work(), loop)
    # What it waits for comes to an end, and cannot be cancelled any more.
    done.set_result(None)
    task.cancel("why")
    with pytest.raises(asyncio.CancelledError, match="why"):
        await task


# -- Starter ------------------------------------------------------------------------------------


def outside_of_tasks(function):
    """Run `function` as a callback of the loop, where no task is current."""

    async def run():
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: done.set_result(function()))
        return await done

    return run()


async def test_a_starter_begins_one_coroutine_after_the_other():
    loop = asyncio.get_running_loop()
    starter = Starter(loop)
    gate = asyncio.Event()

    async def work(number: int) -> tuple[int, bool]:
        task = asyncio.current_task()
        if number % 2:
            await gate.wait()
        return number, asyncio.current_task() is not None and task is not None

    begun = await outside_of_tasks(lambda: [starter.begin(work(number)) for number in range(4)])
    assert (begun[0], begun[2]) == (((0, True),), ((2, True),))
    gate.set()
    assert await begun[1] == (1, True)
    assert await begun[3] == (3, True)


async def test_a_starters_failures_are_raised_and_do_not_stick():
    starter = Starter(asyncio.get_running_loop())

    async def fail():
        raise KeyError("x")

    async def succeed():
        return 1

    def both():
        with pytest.raises(KeyError):
            starter.begin(fail())
        return starter.begin(succeed())

    assert await outside_of_tasks(both) == (1,)


async def test_cancelling_a_stand_in_late_reaches_no_later_coroutine():
    starter = Starter(asyncio.get_running_loop())
    kept = []

    async def keep():
        kept.append(asyncio.current_task())

    async def cancel_itself():
        asyncio.current_task().cancel()

    async def wait():
        await asyncio.sleep(0)
        return "undisturbed"

    def run():
        starter.begin(keep())
        kept[0].cancel()
        starter.begin(cancel_itself())
        return starter.begin(wait())

    assert await (await outside_of_tasks(run)) == "undisturbed"


async def test_a_starter_works_within_a_task_too():
    async def answer():
        return 7

    outer = asyncio.current_task()
    assert Starter(asyncio.get_running_loop()).begin(answer()) == (7,)
    assert asyncio.current_task() is outer
