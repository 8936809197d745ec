"""The connection to a scheduler: made, kept, broken, silent, made again."""

from __future__ import annotations

from itertools import pairwise

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as pb,
)
from tests.worker.played_scheduler import working


async def test_a_worker_introduces_itself_with_all_values_of_its_properties() -> None:
    async with working() as world:
        call = await world.next_call()
        hello = await call.accept("w1-id")

        assert [(each.name, each.value) for each in hello.properties] == [
            ("os", "linux"),
            ("os", "any"),
        ]
        assert (hello.worker_id_prefix, hello.max_inflight_tasks) == ("w1", 2)
        assert (hello.can_resume, hello.resumes, list(hello.running)) == (True, "", [])


async def test_what_a_broken_connection_did_not_take_goes_over_the_next_one() -> None:
    async with working() as world:
        call = await world.at_work("op")
        call.has_room.clear()
        world.hands.announce["op"]()
        await world.time.let_pass(0)

        call.break_off()
        again = await world.joined()

        assert (await again.heard("execute_complete")).execute_complete.operation_id == "op"
        assert call.from_worker.empty()


async def test_a_worker_shows_signs_of_life_every_half_of_its_timeout() -> None:
    async with working() as world:
        call = await world.joined()
        await world.time.let_pass(0)
        await world.time.let_pass(2.5)
        await call.heard("keep_alive_request")
        assert call.from_worker.empty()
        await world.time.let_pass(2.4)
        assert call.from_worker.empty()


async def test_a_scheduler_that_falls_silent_is_left_for_another_connection() -> None:
    async with working() as world:
        call = await world.joined()
        for _ in range(3):
            call.say(keep_alive={})
            await world.time.let_pass(2.5)
        assert not call.cancelled
        assert world.scheduler.calls.empty()
        for _ in range(3):
            await world.time.let_pass(2.5)

        assert call.cancelled
        again = await world.next_call()
        assert (await again.accept("w1-id")).resumes == "w1-id"


async def test_a_worker_that_stood_still_itself_does_not_call_its_scheduler_silent() -> None:
    async with working() as world:
        call = await world.joined()
        for _ in range(2):
            call.say(keep_alive={})
            await world.time.let_pass(2.5)
        # A laptop that slept, a process that was stopped.
        await world.time.jump(60)
        assert not call.cancelled
        assert world.agent.statistics().connected

        for _ in range(3):
            await world.time.let_pass(2.5)
        assert call.cancelled


async def test_a_worker_that_is_late_each_time_still_leaves_a_dead_connection() -> None:
    async with working() as world:
        call = await world.joined()
        call.say(keep_alive={})
        await world.time.let_pass(2.5)
        await world.time.jump(4)
        assert not call.cancelled
        await world.time.jump(4)
        assert not call.cancelled
        await world.time.jump(4)
        assert call.cancelled


async def test_a_worker_that_is_late_each_time_keeps_a_connection_that_it_hears_from() -> None:
    async with working() as world:
        call = await world.joined()
        for _ in range(5):
            call.say(keep_alive={})
            await world.time.let_pass(0)
            await world.time.jump(60)
            assert not call.cancelled


async def test_a_scheduler_that_never_answers_signs_of_life_is_believed_to_be_there() -> None:
    async with working() as world:
        call = await world.joined()
        for _ in range(20):
            await world.time.let_pass(2.5)

        assert not call.cancelled
        assert world.agent.statistics().connected


async def test_actions_outlive_a_broken_connection_and_their_results_are_delivered() -> None:
    async with working() as world:
        call = await world.at_work("one", "two")
        call.break_off()
        await world.time.let_pass(0)
        world.hands.finish("one")

        again = await world.next_call()
        hello = await again.accept("w1-id")

        assert hello.resumes == "w1-id"
        assert set(hello.running) == {"one", "two"}
        assert (await again.heard("execute_result")).execute_result.operation_id == "one"
        world.hands.finish("two")
        assert (await again.heard("execute_result")).execute_result.operation_id == "two"


async def test_a_result_that_was_on_its_way_when_the_connection_broke_is_sent_again() -> None:
    async with working() as world:
        call = await world.at_work("op")
        await world.finish(call, "op")
        call.break_off()

        again = await world.next_call()
        hello = await again.accept("w1-id")

        assert list(hello.running) == ["op"]
        assert (await again.heard("execute_result")).execute_result.operation_id == "op"
        assert again.from_worker.empty()


async def test_a_result_of_a_long_outage_is_not_lost() -> None:
    async with working() as world:
        call = await world.at_work("op")
        call.break_off()
        await world.time.let_pass(0)
        world.hands.finish("op")
        for _ in range(30):
            await world.time.let_pass(1)
            while not world.scheduler.calls.empty():
                world.scheduler.calls.get_nowait().break_off()

        again = await world.next_call()
        hello = await again.accept("w1-id")
        assert list(hello.running) == ["op"]
        assert (await again.heard("execute_result")).execute_result.operation_id == "op"


async def test_what_a_worker_says_that_it_has_a_result_of_it_sends_again_however_late() -> None:
    """The scheduler keeps the operation for it, and waits for that."""
    async with working() as world:
        call = await world.at_work("one", "two")
        await world.finish(call, "one")
        await world.time.let_pass(9)
        call.break_off()
        again = await world.next_call()
        hello = (await again.heard("connect_worker_request")).connect_worker_request
        assert set(hello.running) == {"one", "two"}

        await world.time.let_pass(2)
        world.hands.finish("two")
        await world.time.let_pass(0)
        again.say(connection_result=pb.ConnectionResult(worker_id="w1-id"))
        for name in ("one", "two"):
            assert (await again.heard("execute_result")).execute_result.operation_id == name


async def test_a_result_is_not_sent_again_after_the_operation_was_ordered_again() -> None:
    """It failed and is tried once more: its first end must not be taken for its second."""
    async with working() as world:
        call = await world.at_work("op")
        await world.finish(call, "op")
        call.start("op")
        assert await world.hands.started.get() == "op"
        call.break_off()

        again = await world.next_call()
        assert list((await again.accept("w1-id")).running) == ["op"]
        await world.time.let_pass(0)
        assert again.from_worker.empty()
        world.hands.finish("op")
        assert (await again.heard("execute_result")).execute_result.operation_id == "op"


async def test_results_before_a_sign_of_life_that_was_answered_have_arrived() -> None:
    async with working() as world:
        call = await world.at_work("one", "two", "three")
        await world.time.let_pass(0)
        await world.finish(call, "one")
        await world.time.let_pass(2.5)
        await call.heard("keep_alive_request")
        await world.finish(call, "two")
        await world.time.let_pass(2.5)
        await call.heard("keep_alive_request")
        await world.finish(call, "three")

        # The answer to the first of the two.
        call.say(keep_alive={})
        await world.time.let_pass(0)
        call.break_off()
        again = await world.next_call()
        assert list((await again.accept("w1-id")).running) == ["two", "three"]
        for name in ("two", "three"):
            assert (await again.heard("execute_result")).execute_result.operation_id == name


async def test_only_the_answer_to_a_later_sign_of_life_says_that_later_results_arrived() -> None:
    async with working() as world:
        call = await world.at_work("one", "two")
        await world.time.let_pass(0)
        for _ in range(2):
            await world.time.let_pass(2.5)
            await call.heard("keep_alive_request")
        call.say(keep_alive={})
        await world.time.let_pass(0)
        await world.finish(call, "one")
        await world.time.let_pass(2.5)
        await call.heard("keep_alive_request")
        call.say(keep_alive={})
        await world.time.let_pass(0)
        call.break_off()

        again = await world.next_call()
        assert set((await again.accept("w1-id")).running) == {"one", "two"}
        assert (await again.heard("execute_result")).execute_result.operation_id == "one"


async def test_a_result_that_is_sent_again_is_the_answer_to_an_order_to_stop_it() -> None:
    """After it the operation may be ordered again, and what else is said be taken for its end."""
    async with working() as world:
        call = await world.at_work("op")
        await world.finish(call, "op")
        call.break_off()

        again = await world.next_call()
        await again.accept("w1-id")
        again.say(kill_operation_request=pb.KillOperationRequest(operation_id="op"))
        result = (await again.heard("execute_result")).execute_result
        assert not result.HasField("internal_error")
        await world.time.let_pass(0)
        assert again.from_worker.empty()


async def test_what_was_stopped_during_an_outage_is_said_to_be_there_until_that_is_told() -> None:
    """Else it may be ordered again, and the end of the old try be taken for that of the new one."""
    async with working() as world:
        call = await world.at_work("op")
        world.hands.mortal.clear()
        call.say(kill_operation_request=pb.KillOperationRequest(operation_id="op"))
        await world.time.let_pass(0)
        call.break_off()
        await world.time.let_pass(0)
        world.hands.mortal.set()
        await world.time.let_pass(0)
        assert world.agent.statistics().running == 0

        again = await world.next_call()
        assert list((await again.accept("w1-id")).running) == ["op"]
        killed = (await again.heard("execute_result")).execute_result
        assert killed.internal_error.code == Code.ABORTED


async def test_a_busy_worker_says_of_all_results_that_may_be_on_their_way() -> None:
    """As many as would fit into no header."""
    async with working() as world:
        call = await world.joined()
        names = [f"operation-{number:026}" for number in range(2000)]
        for name in names:
            call.start(name)
        for _ in names:
            await world.hands.started.get()
        for name in names:
            await world.finish(call, name)
        call.break_off()

        again = await world.next_call()
        hello = await again.accept("w1-id")
        assert list(hello.running) == names
        assert (await again.heard("execute_result")).execute_result.operation_id == names[0]


async def test_a_scheduler_that_gives_another_id_has_given_the_actions_to_others() -> None:
    async with working() as world:
        call = await world.at_work("op")
        call.break_off()
        again = await world.next_call()
        await again.accept("w1-other")

        await world.time.let_pass(0)
        assert world.hands.killed == ["op"]
        # Of ours, which was told what runs here, as NativeLink's was not.
        assert again.from_worker.empty()
        again.say(kill_operation_request=pb.KillOperationRequest(operation_id="op"))
        assert (await again.heard("execute_result")).execute_result.operation_id == "op"


async def test_actions_end_when_no_scheduler_comes_back_for_too_long() -> None:
    async with working() as world:
        call = await world.at_work("op")
        call.break_off()
        await world.time.let_pass(0)
        for _ in range(70):
            await world.time.let_pass(1)
            while not world.scheduler.calls.empty():
                world.scheduler.calls.get_nowait().break_off()
        assert world.hands.killed == ["op"]


async def test_what_ends_because_no_scheduler_came_back_is_not_said_to_run_on() -> None:
    """Nobody is told of its end, so a scheduler that knows it still would wait for ever."""
    async with working() as world:
        call = await world.at_work("op")
        world.hands.mortal.clear()
        call.break_off()
        await world.time.let_pass(0)
        for _ in range(70):
            await world.time.let_pass(1)
            while not world.scheduler.calls.empty():
                world.scheduler.calls.get_nowait().break_off()
        assert world.hands.killed == ["op"]

        again = await world.next_call()
        assert list((await again.accept("w1-id")).running) == []
        again.start("op")
        refused = (await again.heard("execute_result")).execute_result
        assert refused.internal_error.code == Code.RESOURCE_EXHAUSTED
        world.hands.mortal.set()
        await world.time.let_pass(0)
        again.start("op")
        await world.hands.started.get()


async def test_a_worker_that_stood_still_asks_once_more_before_its_actions_end() -> None:
    async with working() as world:
        call = await world.at_work("op")
        call.break_off()
        await world.time.let_pass(0)
        await world.time.jump(600)

        again = await world.joined()
        world.hands.finish("op")
        await again.heard("execute_result")
        assert world.hands.killed == []


async def test_pauses_between_attempts_grow_to_five_seconds() -> None:
    async with working() as world:
        attempts: list[float] = []
        for _ in range(1000):
            await world.time.let_pass(0.05)
            while not world.scheduler.calls.empty():
                attempts.append(world.clock.monotonic())
                world.scheduler.calls.get_nowait().break_off()
        pauses = [later - sooner for sooner, later in pairwise(attempts)]
        assert pauses[0] <= 0.3
        assert max(pauses) <= 5.2
        assert max(pauses) >= 2.5


async def test_an_outage_is_reported_when_it_begins_and_then_every_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with working() as world:
        for _ in range(1500):
            await world.time.let_pass(0.1)
            while not world.scheduler.calls.empty():
                world.scheduler.calls.get_nowait().break_off()
        complaints = [each for each in caplog.messages if "no connection" in each]
        assert len(complaints) == 3


async def test_a_first_message_that_is_no_connection_result_ends_the_connection() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.heard("connect_worker_request")
        call.start("op")

        await world.joined()

        assert call.cancelled
        assert world.hands.started.empty()


@pytest.mark.parametrize("garbage", [b"\xff\xff", b"\x0a"])
async def test_garbage_ends_the_connection_and_the_worker_comes_back(garbage: bytes) -> None:
    async with working() as world:
        call = await world.joined()
        call.to_worker.put_nowait(garbage)
        await world.joined()
        await world.time.let_pass(0)
        assert world.agent.statistics().connections == 2


async def test_an_unreachable_scheduler_is_tried_again() -> None:
    async with working() as world:
        call = await world.next_call()
        call.to_worker.put_nowait(NativeLinkError(Code.UNAVAILABLE, "connection refused"))
        await world.joined()
        await world.time.let_pass(0)
        assert world.agent.statistics().connected
