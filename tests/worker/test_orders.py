"""Orders: begun, refused, stopped, and what the scheduler hears of them."""

from __future__ import annotations

import asyncio

from nativelink.core.errors import Code
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as pb,
)
from tests.worker.played_scheduler import working


async def test_a_result_is_sent() -> None:
    async with working() as world:
        call = await world.at_work("op")
        world.hands.finish("op")

        update = await call.heard("execute_result")

        assert update.execute_result.operation_id == "op"


async def test_a_process_that_ended_is_announced_while_its_outputs_are_still_uploaded() -> None:
    async with working() as world:
        call = await world.at_work("op")
        world.hands.announce["op"]()

        update = await call.heard("execute_complete")

        assert update.execute_complete.operation_id == "op"
        world.hands.finish("op")
        await call.heard("execute_result")


async def test_messages_that_have_to_wait_keep_their_order() -> None:
    async with working() as world:
        call = await world.at_work("first", "second")
        call.has_room.clear()
        for name in ("first", "second"):
            world.hands.announce[name]()
        world.hands.finish("first")
        await world.time.let_pass(0)
        assert call.from_worker.empty()

        call.has_room.set()

        for name in ("first", "second"):
            assert (await call.heard("execute_complete")).execute_complete.operation_id == name
        assert (await call.heard("execute_result")).execute_result.operation_id == "first"
        assert call.from_worker.empty()


async def test_an_action_is_over_before_its_directory_is_gone() -> None:
    async with working() as world:
        call = await world.joined()
        world.hands.tidy.clear()
        call.start("op")
        await world.hands.started.get()
        world.hands.finish("op")

        await call.heard("execute_result")

        assert world.agent.statistics().running == 0
        assert await world.agent.leave(1)
        world.hands.tidy.set()


async def test_an_action_may_come_again_while_its_failure_is_being_told() -> None:
    """A scheduler of the same process has it tried once more within the call that tells it."""
    async with working() as world:
        call = await world.at_work("op")
        running: list[int] = []
        call.on_write = lambda: running.append(world.agent.statistics().running)
        world.hands.finish("op")
        await call.heard("execute_result")
        assert running == [0]


async def test_what_is_said_within_the_telling_of_something_else_keeps_its_order() -> None:
    """A scheduler of the same process answers within the call, and an action may fail in that."""
    async with working() as world:
        call = await world.joined()
        names = ["first", "second", "third"]
        for name in names:
            call.start(name)
            await world.hands.started.get()
        await world.time.let_pass(0)

        def answer() -> None:
            call.on_write = lambda: None
            world.hands.announce["second"]()

        call.on_write = answer
        world.hands.announce["first"]()
        world.hands.announce["third"]()
        await world.time.let_pass(0)

        said = [call.from_worker.get_nowait() for _ in range(call.from_worker.qsize())]
        assert [each.execute_complete.operation_id for each in said] == names


async def test_of_many_orders_some_are_begun_at_once_and_the_others_in_turns() -> None:
    async with working() as world:
        call = await world.joined()
        await world.time.let_pass(0)
        for number in range(40):
            call.start(f"op-{number}")
        await asyncio.sleep(0)
        assert 0 < world.hands.started.qsize() < 40
        await world.time.let_pass(0)
        assert world.hands.started.qsize() == 40


async def test_an_order_for_what_is_under_way_changes_nothing() -> None:
    """Else the scheduler would take it away, and its result would count for nothing."""
    async with working() as world:
        call = await world.at_work("op")
        call.start("op")
        await world.time.let_pass(0)
        world.agent.drain()
        call.start("op")
        await world.time.let_pass(0)
        assert (await call.heard("keep_alive_request")).keep_alive_request.draining
        assert world.hands.started.empty()
        assert call.from_worker.empty()

        world.hands.finish("op")
        result = (await call.heard("execute_result")).execute_result
        assert not result.HasField("internal_error")


async def test_orders_to_stop_are_answered_when_it_has_stopped_and_where_nothing_runs() -> None:
    async with working() as world:
        call = await world.at_work("op")
        call.say(kill_operation_request=pb.KillOperationRequest(operation_id="another"))
        unknown = (await call.heard("execute_result")).execute_result
        assert unknown.operation_id == "another"
        assert unknown.internal_error.code == Code.CANCELLED
        assert not world.hands.killed

        call.say(kill_operation_request=pb.KillOperationRequest(operation_id="op"))
        killed = (await call.heard("execute_result")).execute_result
        assert killed.operation_id == "op"
        assert killed.internal_error.code == Code.ABORTED
        assert world.hands.killed == ["op"]
        assert world.agent.statistics().running == 0
        assert call.from_worker.empty()


async def test_an_order_that_is_taken_back_before_it_began_leaves_nothing() -> None:
    async with working() as world:
        call = await world.joined()
        # Both are read in one go: the action's task has not run yet when it is cancelled.
        call.start("op")
        call.say(kill_operation_request=pb.KillOperationRequest(operation_id="op"))
        await world.time.let_pass(0)

        assert world.agent.statistics().running == 0
        assert await world.agent.leave(1)
