"""Who waits for a resumption goes on within the call that has the news."""

from __future__ import annotations

import asyncio

import pytest

from nativelink.core.eager import begin
from nativelink.core.resumption import Resumption


class Waiting:
    """A task that waits, and what it has come to."""

    def __init__(self) -> None:
        self.resumption: Resumption[str] = Resumption(asyncio.get_running_loop())
        self.log: list[object] = []
        self.task = asyncio.Task(self._wait(), loop=asyncio.get_running_loop())

    async def _wait(self) -> None:
        try:
            self.log.append(await self.resumption)
            self.log.append(asyncio.current_task())
            async with asyncio.timeout(60):
                await asyncio.sleep(0)
            self.log.append("a turn later")
        except BaseException as error:
            self.log.append(type(error))
            raise


async def test_the_task_goes_on_before_its_result_is_set_up_to_its_next_wait() -> None:
    waiting = Waiting()
    await asyncio.sleep(0)
    mine = asyncio.current_task()

    waiting.resumption.set_result("news")

    assert waiting.log == ["news", waiting.task]
    assert asyncio.current_task() is mine
    await waiting.task
    assert waiting.log[2:] == ["a turn later"]


async def test_a_callback_of_the_loop_resumes_as_well_as_a_task() -> None:
    waiting = Waiting()
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(waiting.resumption.set_result, "news")
    await waiting.task
    assert waiting.log == ["news", waiting.task, "a turn later"]


async def test_an_error_is_raised_where_it_is_awaited() -> None:
    waiting = Waiting()
    await asyncio.sleep(0)
    waiting.resumption.set_exception(KeyError("x"))
    assert waiting.log == [KeyError]
    with pytest.raises(KeyError):
        await waiting.task


async def test_what_came_before_anybody_waited_is_found() -> None:
    waiting = Waiting()
    waiting.resumption.set_result("early")
    assert waiting.log == []
    await waiting.task
    assert waiting.log[0] == "early"


async def test_a_task_that_is_cancelled_waits_no_more() -> None:
    waiting = Waiting()
    await asyncio.sleep(0)
    waiting.task.cancel()
    assert (waiting.resumption.done(), waiting.resumption.cancelled()) == (True, True)
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    assert waiting.log == [asyncio.CancelledError]


async def test_a_timeout_ends_the_wait() -> None:
    resumption: Resumption[None] = Resumption(asyncio.get_running_loop())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await resumption
    assert resumption.cancelled()


async def test_a_coroutine_that_was_begun_is_resumed_or_cancelled_like_a_task() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []

    async def wait(resumption: Resumption[str]) -> None:
        seen.append(await resumption)

    for set_early in (True, False):
        resumption: Resumption[str] = Resumption(loop)
        task = begin(wait(resumption), loop)
        assert isinstance(task, asyncio.Task)
        if not set_early:
            await asyncio.sleep(0)
        resumption.set_result("news")
        await task
    assert seen == ["news", "news"]

    resumption = Resumption(loop)
    task = begin(wait(resumption), loop)
    assert isinstance(task, asyncio.Task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_chain_of_tasks_goes_on_in_one_turn_and_each_is_itself_again() -> None:
    loop = asyncio.get_running_loop()
    links: list[Resumption[int]] = [Resumption(loop) for _ in range(4)]
    order: list[tuple[int, bool]] = []
    tasks: list[asyncio.Task[None]] = []

    async def link(place: int) -> None:
        got = await links[place]
        order.append((place, asyncio.current_task() is tasks[place]))
        if place + 1 < len(links):
            links[place + 1].set_result(got + 1)
        order.append((place, asyncio.current_task() is tasks[place]))

    tasks += [asyncio.Task(link(place), loop=loop) for place in range(len(links))]
    await asyncio.sleep(0)
    links[0].set_result(0)
    assert [place for place, _ in order] == [0, 1, 2, 3, 3, 2, 1, 0]
    assert all(itself for _, itself in order)
    for task in tasks:
        await task
