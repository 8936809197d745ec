"""The worker's side of the worker API, against a scheduler that a test plays by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random

import pytest

from nativelink.core.channel import Metadata
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as pb,
)
from nativelink.testing.fakes import FakeClock
from nativelink.worker.agent import Agent, AgentSettings
from nativelink.worker.notices import Notice


class Call:
    """One connection, seen from the scheduler."""

    def __init__(self) -> None:
        self.to_worker: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.from_worker: asyncio.Queue[pb.UpdateForScheduler] = asyncio.Queue()
        self.half_closed = False
        self.cancelled = False
        #: Cleared while the connection takes nothing.
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.on_write: Callable[[], None] = lambda: None

    async def read(self) -> bytes | None:
        said = await self.to_worker.get()
        if isinstance(said, Exception):
            raise said
        return said

    async def write(self, message: bytes, /) -> None:
        if not self.has_room.is_set():
            await self.has_room.wait()
        self.from_worker.put_nowait(pb.UpdateForScheduler.FromString(message))
        self.on_write()

    async def done_writing(self) -> None:
        self.half_closed = True
        self.to_worker.put_nowait(None)

    def cancel(self) -> None:
        self.cancelled = True

    def say(self, **update: object) -> None:
        self.to_worker.put_nowait(pb.UpdateForWorker(**update).SerializeToString())  # type: ignore[arg-type]

    def break_off(self) -> None:
        self.to_worker.put_nowait(unavailable("connection reset"))

    async def heard(self, kind: str) -> pb.UpdateForScheduler:
        """The next message of a kind; signs of life before it are passed over."""
        while True:
            update = await self.from_worker.get()
            which = update.WhichOneof("update")
            if which != "keep_alive_request" or kind == which:
                assert which == kind, update
                return update

    async def accept(self, worker_id: str) -> pb.ConnectWorkerRequest:
        hello = (await self.heard("connect_worker_request")).connect_worker_request
        self.say(connection_result=pb.ConnectionResult(worker_id=worker_id))
        return hello

    def start(self, operation_id: str) -> None:
        self.say(start_action=pb.StartExecute(operation_id=operation_id))


class Scheduler:
    """A channel whose calls a test answers."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[Call] = asyncio.Queue()

    def duplex(self, path: str, *, metadata: Metadata = (), timeout_s: float | None = None) -> Call:
        assert path.endswith(".WorkerApi/ConnectWorker")
        call = Call()
        self.calls.put_nowait(call)
        return call


class Hands:
    """An executor whose actions end when a test says so."""

    def __init__(self) -> None:
        self.doing: dict[str, asyncio.Future[None]] = {}
        self.announce: dict[str, Callable[[], None]] = {}
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.killed: list[str] = []
        #: Whether directories are removed.
        self.tidy = asyncio.Event()
        self.tidy.set()

    async def execute(
        self,
        order: pb.StartExecute,
        *,
        process_ended: Callable[[], None],
        finished: Callable[[pb.ExecuteResult], None],
    ) -> None:
        name = order.operation_id
        self.doing[name] = asyncio.get_running_loop().create_future()
        self.announce[name] = process_ended
        self.started.put_nowait(name)
        try:
            await self.doing[name]
        except asyncio.CancelledError:
            self.killed.append(name)
            raise
        finished(pb.ExecuteResult(operation_id=name))
        await self.tidy.wait()

    def finish(self, name: str) -> None:
        self.doing[name].set_result(None)


class Patience:
    """Sleeps that end when a test says so."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._clock.monotonic() + seconds, waiter))
        await waiter

    async def pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)
        due = [w for at, w in self._sleepers if at <= self._clock.monotonic()]
        self._sleepers = [(a, w) for a, w in self._sleepers if a > self._clock.monotonic()]
        for waiter in due:
            if not waiter.done():
                waiter.set_result(None)
        for _ in range(10):
            await asyncio.sleep(0)


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.time = Patience(self.clock)
        self.scheduler = Scheduler()
        self.hands = Hands()
        self.agent = Agent(
            self.scheduler,  # type: ignore[arg-type]
            self.hands,
            AgentSettings("w1", (("os", "linux"), ("os", "any")), max_inflight_tasks=2),
            clock=self.clock,
            random=Random(1),
            sleep=self.time.sleep,
        )

    async def next_call(self) -> Call:
        for _ in range(50):
            if not self.scheduler.calls.empty():
                return self.scheduler.calls.get_nowait()
            await self.time.pass_time(0.1)
        raise AssertionError("the worker does not connect")


@asynccontextmanager
async def working() -> AsyncIterator[World]:
    world = World()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.agent.run())
        try:
            yield world
        finally:
            task.cancel()


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


async def test_a_result_is_sent() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()
        world.hands.finish("op")

        update = await call.heard("execute_result")

        assert update.execute_result.operation_id == "op"


async def test_a_process_that_ended_is_announced_while_its_outputs_are_still_uploaded() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()
        world.hands.announce["op"]()

        update = await call.heard("execute_complete")

        assert update.execute_complete.operation_id == "op"
        world.hands.finish("op")
        await call.heard("execute_result")


async def test_messages_that_have_to_wait_keep_their_order() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        for name in ("first", "second"):
            call.start(name)
            await world.hands.started.get()
        call.has_room.clear()
        for name in ("first", "second"):
            world.hands.announce[name]()
        world.hands.finish("first")
        await world.time.pass_time(0)
        assert call.from_worker.empty()

        call.has_room.set()

        for name in ("first", "second"):
            assert (await call.heard("execute_complete")).execute_complete.operation_id == name
        assert (await call.heard("execute_result")).execute_result.operation_id == "first"
        assert call.from_worker.empty()


async def test_what_a_broken_connection_did_not_take_goes_over_the_next_one() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()
        call.has_room.clear()
        world.hands.announce["op"]()
        await world.time.pass_time(0)

        call.break_off()
        again = await world.next_call()
        await again.accept("w1-id")

        assert (await again.heard("execute_complete")).execute_complete.operation_id == "op"
        assert call.from_worker.empty()


async def test_an_action_is_over_before_its_directory_is_gone() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
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
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()
        running: list[int] = []
        call.on_write = lambda: running.append(world.agent.statistics().running)
        world.hands.finish("op")
        await call.heard("execute_result")
        assert running == [0]


async def test_what_is_said_within_the_telling_of_something_else_keeps_its_order() -> None:
    """A scheduler of the same process answers within the call, and an action may fail in that."""
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        names = ["first", "second", "third"]
        for name in names:
            call.start(name)
            await world.hands.started.get()
        await world.time.pass_time(0)

        def answer() -> None:
            call.on_write = lambda: None
            world.hands.announce["second"]()

        call.on_write = answer
        world.hands.announce["first"]()
        world.hands.announce["third"]()
        await world.time.pass_time(0)

        said = [call.from_worker.get_nowait() for _ in range(call.from_worker.qsize())]
        assert [each.execute_complete.operation_id for each in said] == names


async def test_of_many_orders_some_are_begun_at_once_and_the_others_in_turns() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        await world.time.pass_time(0)
        for number in range(40):
            call.start(f"op-{number}")
        await asyncio.sleep(0)
        assert 0 < world.hands.started.qsize() < 40
        await world.time.pass_time(0)
        assert world.hands.started.qsize() == 40


async def test_a_worker_shows_signs_of_life_every_half_of_its_timeout() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        await world.time.pass_time(0)
        await world.time.pass_time(2.5)
        await call.heard("keep_alive_request")
        assert call.from_worker.empty()
        await world.time.pass_time(2.4)
        assert call.from_worker.empty()


async def test_a_scheduler_that_falls_silent_is_left_for_another_connection() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        for _ in range(3):
            call.say(keep_alive={})
            await world.time.pass_time(2.5)
        assert not call.cancelled
        assert world.scheduler.calls.empty()
        for _ in range(3):
            await world.time.pass_time(2.5)

        assert call.cancelled
        again = await world.next_call()
        assert (await again.accept("w1-id")).resumes == "w1-id"


async def test_a_scheduler_that_never_answers_signs_of_life_is_believed_to_be_there() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        for _ in range(20):
            await world.time.pass_time(2.5)

        assert not call.cancelled
        assert world.agent.statistics().connected


async def test_orders_to_stop_are_answered_when_it_has_stopped_and_where_nothing_runs() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()
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


async def test_actions_outlive_a_broken_connection_and_their_results_are_delivered() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("one")
        call.start("two")
        await world.hands.started.get()
        await world.hands.started.get()
        call.break_off()
        await world.time.pass_time(0)
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
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()
        world.hands.finish("op")
        await call.heard("execute_result")
        call.break_off()

        again = await world.next_call()
        hello = await again.accept("w1-id")

        assert list(hello.running) == ["op"]
        assert (await again.heard("execute_result")).execute_result.operation_id == "op"
        assert again.from_worker.empty()


async def test_a_busy_worker_says_of_all_results_that_may_be_on_their_way() -> None:
    """As many as would fit into no header."""
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        names = [f"operation-{number:026}" for number in range(2000)]
        for name in names:
            call.start(name)
        for _ in names:
            await world.hands.started.get()
        for name in names:
            world.hands.finish(name)
            await call.heard("execute_result")
        call.break_off()

        again = await world.next_call()
        hello = await again.accept("w1-id")
        assert list(hello.running) == names
        assert (await again.heard("execute_result")).execute_result.operation_id == names[0]


async def test_a_scheduler_that_gives_another_id_has_given_the_actions_to_others() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()
        call.break_off()
        again = await world.next_call()
        await again.accept("w1-other")

        await world.time.pass_time(0)
        assert world.hands.killed == ["op"]
        # Of ours, which was told what runs here, as NativeLink's was not.
        assert again.from_worker.empty()
        again.say(kill_operation_request=pb.KillOperationRequest(operation_id="op"))
        assert (await again.heard("execute_result")).execute_result.operation_id == "op"


async def test_actions_end_when_no_scheduler_comes_back_for_too_long() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()
        call.break_off()
        await world.time.pass_time(0)
        for _ in range(70):
            await world.time.pass_time(1)
            while not world.scheduler.calls.empty():
                world.scheduler.calls.get_nowait().break_off()
        assert world.hands.killed == ["op"]


async def test_pauses_between_attempts_grow_to_five_seconds() -> None:
    async with working() as world:
        attempts: list[float] = []
        for _ in range(1000):
            await world.time.pass_time(0.05)
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
            await world.time.pass_time(0.1)
            while not world.scheduler.calls.empty():
                world.scheduler.calls.get_nowait().break_off()
        complaints = [each for each in caplog.messages if "no connection" in each]
        assert len(complaints) == 3


async def test_a_leaving_worker_refuses_actions_finishes_its_own_and_says_good_bye() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(world.agent.leave(3600))
            await world.time.pass_time(0)
            call.start("late")
            refused = (await call.heard("execute_result")).execute_result
            world.hands.finish("op")
            result = (await call.heard("execute_result")).execute_result
            await world.time.pass_time(1)
            await call.heard("going_away_request")

        assert refused.operation_id == "late"
        assert refused.internal_error.code == Code.RESOURCE_EXHAUSTED
        assert result.operation_id == "op"
        assert leaving.result() is True
        assert world.hands.killed == []


async def test_what_does_not_end_in_time_is_stopped_and_handed_back() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()

        assert await world.agent.leave(0) is False
        await call.heard("going_away_request")
        await world.time.pass_time(0)

        assert world.hands.killed == ["op"]


async def test_a_first_message_that_is_no_connection_result_ends_the_connection() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.heard("connect_worker_request")
        call.start("op")

        again = await world.next_call()
        await again.accept("w1-id")

        assert call.cancelled
        assert world.hands.started.empty()


@pytest.mark.parametrize("garbage", [b"\xff\xff", b"\x0a"])
async def test_garbage_ends_the_connection_and_the_worker_comes_back(garbage: bytes) -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        call.to_worker.put_nowait(garbage)
        again = await world.next_call()
        await again.accept("w1-id")
        await world.time.pass_time(0)
        assert world.agent.statistics().connections == 2


async def test_an_unreachable_scheduler_is_tried_again() -> None:
    async with working() as world:
        call = await world.next_call()
        call.to_worker.put_nowait(NativeLinkError(Code.UNAVAILABLE, "connection refused"))
        again = await world.next_call()
        await again.accept("w1-id")
        await world.time.pass_time(0)
        assert world.agent.statistics().connected


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
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()
        await world.time.pass_time(0)
        assert world.agent.statistics().draining is False

        notices.come.set()

        await call.heard("going_away_request")
        await world.time.pass_time(0)
        assert world.hands.killed == ["op"]


async def test_an_order_that_is_taken_back_before_it_began_leaves_nothing() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        # Both are read in one go: the action's task has not run yet when it is cancelled.
        call.start("op")
        call.say(kill_operation_request=pb.KillOperationRequest(operation_id="op"))
        await world.time.pass_time(0)

        assert world.agent.statistics().running == 0
        assert await world.agent.leave(1)


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
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()

        notices.say(None)
        alive = await call.heard("keep_alive_request")
        assert alive.keep_alive_request.draining is True
        call.start("late")
        refused = (await call.heard("execute_result")).execute_result
        assert refused.operation_id == "late"
        assert world.agent.statistics().running == 1
        assert not heeding.done()

        notices.say(3600)
        await world.time.pass_time(0)
        world.hands.finish("op")
        await call.heard("execute_result")
        await world.time.pass_time(1)
        await call.heard("going_away_request")
        assert await heeding is True


async def test_a_later_notice_takes_time_away_but_gives_none() -> None:
    notices = Script()
    async with working() as world, asyncio.TaskGroup() as group:
        heeding = group.create_task(world.agent.heed(notices, margin_s=20))
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()

        notices.say(3600)
        await world.time.pass_time(0)
        notices.say(7200)
        await world.time.pass_time(0)
        assert world.hands.killed == []
        notices.say(20)
        assert await heeding is False
        await call.heard("going_away_request")
        assert world.hands.killed == ["op"]


async def test_a_worker_that_drains_can_go_on_and_says_so() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        await world.time.pass_time(0)
        world.agent.drain()
        world.agent.resume()
        world.agent.resume()
        said = [(await call.heard("keep_alive_request")).keep_alive_request for _ in range(2)]
        assert [each.draining for each in said] == [True, False]
        call.start("op")
        assert await world.hands.started.get() == "op"


async def test_a_worker_that_drains_says_so_again_to_whom_it_connects_to() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        await world.time.pass_time(0)
        world.agent.drain()
        await call.heard("keep_alive_request")
        call.break_off()
        again = await world.next_call()
        await again.accept("w1-id")
        assert (await again.heard("keep_alive_request")).keep_alive_request.draining is True


async def test_a_worker_that_leaves_does_not_go_on() -> None:
    async with working() as world, asyncio.TaskGroup() as group:
        call = await world.next_call()
        await call.accept("w1-id")
        call.start("op")
        await world.hands.started.get()
        leaving = group.create_task(world.agent.leave(3600))
        await world.time.pass_time(0)
        world.agent.resume()
        assert world.agent.statistics().draining
        world.hands.finish("op")
        await world.time.pass_time(1)
        assert await leaving


async def test_idleness_is_counted_from_the_end_of_the_last_action() -> None:
    async with working() as world:
        call = await world.next_call()
        await call.accept("w1-id")
        before = world.agent.statistics().idle_s
        await world.time.pass_time(5)
        assert world.agent.statistics().idle_s == before + 5
        call.start("op")
        await world.hands.started.get()
        await world.time.pass_time(5)
        assert world.agent.statistics().idle_s == 0
        world.hands.finish("op")
        await world.time.pass_time(0)
        await world.time.pass_time(2)
        assert world.agent.statistics().idle_s == 2
