"""A worker that drains, goes on, leaves, and heeds the notices of its machine."""

from __future__ import annotations

import asyncio

from nativelink.core.errors import Code
from nativelink.worker.notices import Notice
from tests.worker.played_scheduler import working


async def test_a_leaving_worker_refuses_actions_finishes_its_own_and_says_good_bye() -> None:
    async with working() as world:
        call = await world.at_work("op")
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(world.agent.leave(3600))
            await world.time.let_pass(0)
            call.start("late")
            refused = (await call.heard("execute_result")).execute_result
            world.hands.finish("op")
            result = (await call.heard("execute_result")).execute_result
            await world.time.let_pass(1)
            await call.heard("going_away_request")

        assert refused.operation_id == "late"
        assert refused.internal_error.code == Code.RESOURCE_EXHAUSTED
        assert result.operation_id == "op"
        assert leaving.result() is True
        assert world.hands.killed == []


async def test_what_does_not_end_in_time_is_stopped_and_handed_back() -> None:
    async with working() as world:
        call = await world.at_work("op")

        assert await world.agent.leave(0) is False
        await call.heard("going_away_request")
        await world.time.let_pass(0)

        assert world.hands.killed == ["op"]


class Warning5s:
    """A cloud that takes the machine away."""

    def __init__(self) -> None:
        self.come = asyncio.Event()

    async def next(self) -> Notice:
        await self.come.wait()
        return Notice("spot interruption", 5.0)


async def test_a_notice_makes_the_worker_hand_back_what_it_cannot_finish() -> None:
    async with working() as world, asyncio.TaskGroup() as group:
        notices = Warning5s()
        group.create_task(world.agent.heed(notices))
        call = await world.at_work("op")
        await world.time.let_pass(0)
        assert world.agent.statistics().draining is False

        notices.come.set()

        await call.heard("going_away_request")
        await world.time.let_pass(0)
        assert world.hands.killed == ["op"]


class Script:
    """Gives the notices of a test, and no more."""

    def __init__(self) -> None:
        self._notices: asyncio.Queue[Notice] = asyncio.Queue()

    async def next(self) -> Notice:
        return await self._notices.get()

    def say(self, seconds: float | None) -> None:
        self._notices.put_nowait(Notice("a notice", seconds))


async def test_a_notice_without_a_time_only_keeps_new_actions_away() -> None:
    notices = Script()
    async with working() as world, asyncio.TaskGroup() as group:
        heeding = group.create_task(world.agent.heed(notices, margin_s=20))
        call = await world.at_work("op")

        notices.say(None)
        alive = await call.heard("keep_alive_request")
        assert alive.keep_alive_request.draining is True
        call.start("late")
        refused = (await call.heard("execute_result")).execute_result
        assert refused.operation_id == "late"
        assert world.agent.statistics().running == 1
        assert not heeding.done()

        notices.say(3600)
        await world.time.let_pass(0)
        world.hands.finish("op")
        await call.heard("execute_result")
        await world.time.let_pass(1)
        await call.heard("going_away_request")
        assert await heeding is True


async def test_a_later_notice_takes_time_away_but_gives_none() -> None:
    notices = Script()
    async with working() as world, asyncio.TaskGroup() as group:
        heeding = group.create_task(world.agent.heed(notices, margin_s=20))
        call = await world.at_work("op")

        notices.say(3600)
        await world.time.let_pass(0)
        notices.say(7200)
        await world.time.let_pass(0)
        assert world.hands.killed == []
        notices.say(20)
        assert await heeding is False
        await call.heard("going_away_request")
        assert world.hands.killed == ["op"]


async def test_a_worker_that_drains_can_go_on_and_says_so() -> None:
    async with working() as world:
        call = await world.joined()
        await world.time.let_pass(0)
        world.agent.drain()
        world.agent.resume()
        world.agent.resume()
        said = [(await call.heard("keep_alive_request")).keep_alive_request for _ in range(2)]
        assert [each.draining for each in said] == [True, False]
        call.start("op")
        assert await world.hands.started.get() == "op"


async def test_a_worker_that_drains_says_so_again_to_whom_it_connects_to() -> None:
    async with working() as world:
        call = await world.joined()
        await world.time.let_pass(0)
        world.agent.drain()
        await call.heard("keep_alive_request")
        call.break_off()
        again = await world.joined()
        assert (await again.heard("keep_alive_request")).keep_alive_request.draining is True


async def test_a_worker_that_leaves_does_not_go_on() -> None:
    async with working() as world, asyncio.TaskGroup() as group:
        await world.at_work("op")
        leaving = group.create_task(world.agent.leave(3600))
        await world.time.let_pass(0)
        world.agent.resume()
        assert world.agent.statistics().draining
        world.hands.finish("op")
        await world.time.let_pass(1)
        assert await leaving


async def test_idleness_is_counted_from_the_end_of_the_last_action() -> None:
    async with working() as world:
        call = await world.joined()
        before = world.agent.statistics().idle_s
        await world.time.let_pass(5)
        assert world.agent.statistics().idle_s == before + 5
        call.start("op")
        await world.hands.started.get()
        await world.time.let_pass(5)
        assert world.agent.statistics().idle_s == 0
        world.hands.finish("op")
        await world.time.let_pass(0)
        await world.time.let_pass(2)
        assert world.agent.statistics().idle_s == 2
