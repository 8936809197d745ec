"""What becomes of operations: asked for, shared, queued, run, tried again, ended, forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from nativelink.core.digest import Digest
from nativelink.core.errors import Code, NativeLinkError
from nativelink.scheduler import events
from nativelink.scheduler.effects import (
    AttemptEnded,
    OperationForgotten,
    OperationUpdated,
    StartExecution,
    Unschedulable,
    WorkerEvicted,
)
from nativelink.scheduler.journal import IllegalEventError
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.operation import ExecutionStage, Failure
from nativelink.scheduler.policy import Policy, PropertyKind
from nativelink.scheduler.records import Name
from nativelink.scheduler.snapshot import take
from tests.scheduler.farm import SUPPORTED, Farm, action

QUEUED = ExecutionStage.QUEUED
EXECUTING = ExecutionStage.EXECUTING
COMPLETED = ExecutionStage.COMPLETED


@pytest.fixture
def farm() -> Farm:
    return Farm()


# -- asking, sharing, ending ------------------------------------------------------------------


def test_an_action_waits_runs_and_ends(farm: Farm) -> None:
    farm.ask(1)
    assert farm.stage(1) is QUEUED
    assert farm.join("w") == [("w", "op-1")]
    assert farm.view(1).worker_id == "w"
    farm.now += 3
    farm.finish("w", "op-1", b"response")
    view = farm.view(1)
    assert (view.stage, view.response, view.failure) == (COMPLETED, b"response", None)
    assert (view.queued_at, view.started_at, view.finished_at) == (1000.0, 1000.0, 1003.0)


def test_the_same_action_is_executed_once_for_all_who_ask(farm: Farm) -> None:
    farm.ask(1, name="a")
    farm.ask(1, name="b")
    assert farm.join("w") == [("w", "op-1")]
    farm.finish("w", "op-1")
    assert farm.view("a").response == farm.view("b").response == b"done"
    assert farm.some(OperationUpdated)[-1].names == ("a", "b")


class LookedAt(dict[Name, None]):
    """The names of an operation, which counts how many were looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Name]:
        for name in super().__iter__():
            self.looks += 1
            yield name


def test_thousands_who_come_and_go_look_at_each_other_a_few_times() -> None:
    """A client whose calls are short asks again and again for what takes long."""
    machine = Machine(Policy())
    machine.handle(events.ExecuteRequested("0", "op", action(1)), 0.0)
    operation = machine.lifecycle.operations["op"]
    names = operation.names = LookedAt(operation.names)
    machine.handle(events.ClientDetached("0"), 0.0)
    for number in range(1, 2000):
        machine.handle(events.ExecuteRequested(str(number), "", action(1)), 1.0)
        machine.handle(events.ClientDetached(str(number)), 1.0)
    machine.handle(events.WorkerJoined("w", ()), 2.0)
    machine.handle(events.ExecutionFinished("w", "op", b""), 3.0)
    assert len(names) == 2000
    machine.handle(events.Tick(), 63.0)
    assert not names
    assert names.looks < 10 * 2000


def test_an_action_that_is_not_to_be_cached_is_shared_with_nobody(farm: Farm) -> None:
    farm.ask(action(1, cached=False), name="a")
    farm.ask(action(1, cached=False), name="b")
    assert len(farm.join("w")) == 2


def test_who_wants_it_executed_shares_no_execution_and_lends_none(farm: Farm) -> None:
    """A client that skips the cache may do so because the tools on the workers changed."""
    farm.ask(1, name="a")
    farm.ask(replace(action(1), skip_cache_lookup=True), name="b")
    farm.ask(1, name="c")
    assert len({farm.view(name).operation_id for name in "abc"}) == 2
    assert farm.view("a").operation_id == farm.view("c").operation_id


def test_a_finished_action_is_executed_again_if_it_is_asked_for_again(farm: Farm) -> None:
    farm.join("w")
    farm.ask(1, name="a")
    farm.finish("w", "op-1")
    farm.ask(1, name="b")
    assert len(farm.started()) == 1


def test_who_joins_raises_the_priority(farm: Farm) -> None:
    farm.ask(1)
    farm.ask(2)
    farm.ask(action(2, priority=1), name="hurried")
    assert farm.view(2).priority == 1
    assert farm.join("w", slots=1) == [("w", "op-2")]


def test_who_joins_lowers_no_priority(farm: Farm) -> None:
    farm.ask(action(1, priority=5), name="a")
    farm.ask(action(1, priority=1), name="b")
    assert farm.view("a").priority == 5


def test_one_who_cancels_does_not_cancel_for_the_others(farm: Farm) -> None:
    farm.join("w")
    farm.ask(1, name="a")
    farm.ask(1, name="b")
    farm.handle(events.CancelRequested("a"))
    assert farm.failure("a").code is Code.CANCELLED
    assert (farm.stage("b"), farm.killed()) == (EXECUTING, [])
    farm.handle(events.CancelRequested("b"))
    assert farm.killed() == [("w", "op-1")]
    assert farm.failure("b").code is Code.CANCELLED


def test_what_a_cancelled_request_shows_does_not_change_any_more(farm: Farm) -> None:
    farm.ask(1, name="a")
    farm.ask(1, name="b")
    farm.handle(events.CancelRequested("a"))
    before = farm.view("a")
    farm.join("w")
    farm.finish("w", "op-1")
    assert farm.view("a") == before


def test_a_cancelled_action_that_waited_is_not_started(farm: Farm) -> None:
    farm.ask(1)
    farm.handle(events.CancelRequested("1"))
    assert farm.join("w") == []


def test_cancelling_what_is_finished_changes_nothing(farm: Farm) -> None:
    farm.join("w")
    farm.ask(1)
    farm.finish("w", "op-1")
    before = farm.view(1)
    farm.handle(events.CancelRequested("1"))
    assert farm.view(1) == before


def test_an_operation_outlives_its_last_client_for_a_while(farm: Farm) -> None:
    farm.join("w")
    farm.ask(1, name="a")
    farm.ask(1, name="b")
    farm.handle(events.ClientDetached("a"))
    farm.pass_time(100, "w")
    assert farm.stage("a") is EXECUTING, "the other one follows it still"
    farm.handle(events.ClientDetached("b"))
    farm.pass_time(59, "w")
    farm.handle(events.ClientAttached("a"))
    farm.pass_time(100, "w")
    assert farm.stage("a") is EXECUTING, "one came back in time"
    farm.handle(events.ClientDetached("a"))
    farm.pass_time(60, "w")
    assert farm.failure("a").code is Code.UNAVAILABLE
    assert ("w", "op-1") in farm.killed()


def test_who_asks_now_and_then_instead_of_following_keeps_an_operation_alive(farm: Farm) -> None:
    farm.join("w")
    farm.ask(1)
    farm.handle(events.ClientDetached("1"))
    for _ in range(10):
        farm.pass_time(50, "w")
        farm.handle(events.OperationRead("1"))
        assert farm.stage(1) is EXECUTING
    farm.pass_time(60, "w")
    assert farm.failure(1).code is Code.UNAVAILABLE


def test_a_finished_operation_is_kept_from_when_it_was_last_asked_for(farm: Farm) -> None:
    farm.join("w")
    farm.ask(1)
    farm.finish("w", "op-1")
    farm.handle(events.ClientDetached("1"))
    farm.pass_time(50, "w")
    farm.handle(events.OperationRead("1"))
    farm.pass_time(50, "w")
    assert farm.stage(1) is COMPLETED
    farm.pass_time(10, "w")
    assert farm.machine.view("1") is None
    assert farm.some(OperationForgotten)[0].names == ("1",)


def test_a_finished_operation_can_be_deleted_and_no_other(farm: Farm) -> None:
    farm.join("w")
    farm.ask(1)
    farm.handle(events.DeleteRequested("1"))
    assert farm.stage(1) is EXECUTING
    farm.finish("w", "op-1")
    farm.handle(events.DeleteRequested("1"))
    assert farm.machine.view("1") is None


def test_a_cancelled_request_can_be_deleted_while_others_wait_for_the_operation(
    farm: Farm,
) -> None:
    farm.join("w")
    farm.ask(1, name="a")
    farm.ask(1, name="b")
    farm.handle(events.CancelRequested("a"))
    farm.handle(events.DeleteRequested("a"))
    assert farm.machine.view("a") is None
    assert farm.stage("b") is EXECUTING
    farm.handle(events.DeleteRequested("b"))
    assert farm.stage("b") is EXECUTING


def test_events_about_names_that_nobody_knows_change_nothing(farm: Farm) -> None:
    before = take(farm.machine)
    for event in (
        events.ClientAttached("x"),
        events.ClientDetached("x"),
        events.CancelRequested("x"),
        events.DeleteRequested("x"),
        events.OperationRead("x"),
    ):
        assert farm.machine.handle(event, before.now) == []
    assert take(farm.machine) == before


# -- order --------------------------------------------------------------------------------------


def test_a_higher_priority_goes_first_and_the_older_one_among_equals(farm: Farm) -> None:
    for number, priority in ((1, 0), (2, 2), (3, 2), (4, 1)):
        farm.ask(action(number, priority=priority))
    farm.join("w", slots=1)
    order = [farm.started()[0][1]]
    while farm.machine.queued:
        farm.finish("w", order[-1])
        order.append(farm.started()[0][1])
    assert order == ["op-2", "op-3", "op-4", "op-1"]


def test_what_has_waited_long_goes_before_what_is_a_bit_more_urgent() -> None:
    farm = Farm(Policy(ageing_s=60, client_action_timeout_s=1000))
    farm.ask(1)
    farm.pass_time(61)
    farm.ask(action(2, priority=1))
    assert farm.join("w", slots=1) == [("w", "op-1")]


def test_the_position_in_the_queue_counts_those_before(farm: Farm) -> None:
    for number in range(5):
        farm.ask(number)
    assert [farm.view(number).queue_position for number in range(5)] == [0, 1, 2, 3, 4]
    farm.join("w", slots=2)
    assert [farm.view(number).queue_position for number in range(5)] == [None, None, 0, 1, 2]


def test_a_big_action_does_not_starve_among_small_ones() -> None:
    farm = Farm(
        Policy(supported_properties={"cpu_count": PropertyKind.MINIMUM}, reservation_after_s=30)
    )
    farm.join("w", cpu_count="2")
    running = [farm.ask(action(number, cpu_count="1")) for number in (1, 2)]
    farm.ask(action(99, cpu_count="2"))
    number = 100
    while farm.stage(99) is QUEUED:
        number += 1
        assert number < 200, "it starves"
        farm.pass_time(2, "w")
        running.append(farm.ask(action(number, cpu_count="1")))
        farm.finish("w", running.pop(0))
    assert farm.now - 1000 < 60
    farm.finish("w", "op-99")
    assert len(farm.started()) == 2, "small ones go on"


# -- failures ---------------------------------------------------------------------------------


def test_a_transient_failure_is_tried_again_on_another_worker(farm: Farm) -> None:
    farm.join("w1")
    farm.ask(1)
    farm.join("w2")
    farm.fail("w1", "op-1", Code.UNAVAILABLE, "no network")
    assert farm.started() == [("w2", "op-1")]
    assert farm.some(StartExecution)[0].epoch == 2
    assert farm.some(AttemptEnded)[0].counted
    farm.finish("w2", "op-1")
    assert farm.view(1).attempts == 1
    story = [entry.text for entry in farm.machine.story("op-1")]
    assert any("no network" in text for text in story)


def test_a_failed_action_waits_for_a_busy_worker_where_it_has_not_failed(farm: Farm) -> None:
    farm.join("w1", slots=1)
    farm.ask(1)
    farm.join("w2", slots=1)
    farm.ask(2)
    farm.fail("w1", "op-1")
    assert farm.started() == []
    assert "broken" in farm.view(1).note
    farm.finish("w2", "op-2")
    assert farm.started() == [("w2", "op-1")]


def test_a_failed_action_goes_back_if_the_other_workers_leave(farm: Farm) -> None:
    farm.join("w1", slots=1)
    farm.ask(1)
    farm.join("w2", slots=1)
    farm.ask(2)
    farm.fail("w1", "op-1")
    farm.handle(events.DrainRequested("w2", draining=True))
    assert farm.started() == [("w1", "op-1")]


def test_too_many_transient_failures_end_it_with_all_the_reasons(farm: Farm) -> None:
    farm.join("w1")
    farm.join("w2")
    farm.ask(1)
    for number in range(4):
        farm.fail(farm.view(1).worker_id, "op-1", Code.DATA_LOSS, f"try {number}")
    failure = farm.failure(1)
    assert failure.code is Code.DATA_LOSS
    assert all(f"try {number}" in failure.message for number in range(4))
    assert "w1" in failure.message
    assert "w2" in failure.message


def test_a_deterministic_failure_is_not_tried_again(farm: Farm) -> None:
    farm.join("w1")
    farm.join("w2")
    farm.ask(1)
    farm.fail(farm.view(1).worker_id, "op-1", Code.INVALID_ARGUMENT, "as it is")
    assert farm.failure(1) == Failure(Code.INVALID_ARGUMENT, "as it is")


@pytest.mark.parametrize(
    "code", [Code.FAILED_PRECONDITION, Code.PERMISSION_DENIED, Code.UNIMPLEMENTED]
)
def test_what_may_be_one_machines_fault_is_tried_elsewhere(farm: Farm, code: Code) -> None:
    farm.join("w1")
    farm.ask(1)
    farm.join("w2")
    farm.fail("w1", "op-1", code, "the store lets nobody in")
    assert farm.started() == [("w2", "op-1")]


def test_missing_blobs_are_the_clients_business(farm: Farm) -> None:
    farm.join("w")
    farm.ask(1)
    missing = (Digest("a" * 64, 3),)
    farm.handle(
        events.ExecutionFailed("w", "op-1", Failure(Code.NOT_FOUND, "input is gone", missing))
    )
    assert farm.failure(1) == Failure(Code.FAILED_PRECONDITION, "input is gone", missing)


def test_a_worker_without_room_rests_until_one_of_its_actions_ends(farm: Farm) -> None:
    farm.join("w")
    farm.ask(1)
    farm.ask(2)
    farm.fail("w", "op-2", Code.RESOURCE_EXHAUSTED, "no memory")
    assert (farm.stage(2), farm.view(2).attempts) == (QUEUED, 0)
    assert farm.machine.workers()[0].paused
    farm.pass_time(30, "w")
    assert farm.stage(2) is QUEUED
    farm.finish("w", "op-1")
    assert farm.started() == [("w", "op-2")]


def test_a_worker_without_room_that_has_nothing_else_rests_ever_longer(farm: Farm) -> None:
    farm.join("w")
    farm.ask(1)
    for pause in (1, 2, 4, 8, 16, 30, 30):
        farm.fail("w", "op-1", Code.RESOURCE_EXHAUSTED, "not now")
        farm.pass_time(pause - 0.5, "w")
        assert farm.stage(1) is QUEUED
        farm.pass_time(0.5, "w")
        assert farm.started() == [("w", "op-1")]
    assert farm.view(1).attempts == 0
    farm.finish("w", "op-1")
    farm.ask(2)
    farm.fail("w", "op-2", Code.RESOURCE_EXHAUSTED, "not now")
    farm.pass_time(1, "w")
    assert farm.started() == [("w", "op-2")], "a result shows that there is room again"


def test_other_workers_take_what_one_has_no_room_for(farm: Farm) -> None:
    farm.join("w1")
    farm.ask(1)
    farm.join("w2")
    farm.fail("w1", "op-1", Code.RESOURCE_EXHAUSTED)
    assert farm.started() == [("w2", "op-1")]


def test_what_one_has_no_room_for_waits_for_a_busy_worker_that_may_have(farm: Farm) -> None:
    farm.join("full", slots=1)
    farm.ask(1)
    farm.join("busy", slots=1)
    farm.ask(2)
    farm.fail("full", "op-1", Code.RESOURCE_EXHAUSTED, "disk full")
    farm.pass_time(10, "full", "busy")
    assert farm.stage(1) is QUEUED
    assert "full: RESOURCE_EXHAUSTED: disk full" in farm.view(1).note
    farm.finish("busy", "op-2")
    assert farm.started() == [("busy", "op-1")]


def full_farm(farm: Farm, *workers: str, seconds: float) -> None:
    """Workers that have no room for whatever they are given."""
    end = farm.now + seconds
    while farm.now < end:
        for worker in farm.machine.workers():
            for operation_id in worker.running:
                farm.fail(worker.worker_id, operation_id, Code.RESOURCE_EXHAUSTED, "disk full")
        farm.pass_time(1, *workers)


def test_what_no_worker_has_room_for_fails_after_a_time_with_all_the_reasons() -> None:
    farm = Farm(Policy(unschedulable_timeout_s=1200))
    farm.join("w1")
    farm.join("w2")
    farm.ask(1)
    full_farm(farm, "w1", "w2", seconds=1190)
    assert farm.view(1).attempts == 0
    assert farm.stage(1) is not COMPLETED
    full_farm(farm, "w1", "w2", seconds=70)
    failure = farm.failure(1)
    assert failure.code is Code.FAILED_PRECONDITION, "clients ask again at once for others"
    assert "w1: RESOURCE_EXHAUSTED: disk full" in failure.message
    assert "w2: RESOURCE_EXHAUSTED: disk full" in failure.message
    assert "unschedulable_timeout_s is 1200" in failure.message
    assert len(farm.machine.story("op-1")) <= 64


def test_what_no_worker_has_room_for_may_wait_for_ever() -> None:
    farm = Farm(Policy(unschedulable_timeout_s=0))
    farm.join("w")
    farm.ask(1)
    full_farm(farm, "w", seconds=5000)
    assert farm.stage(1) is not COMPLETED


def test_a_long_wait_between_two_workers_without_room_is_not_held_against_it() -> None:
    farm = Farm(Policy(unschedulable_timeout_s=1200, max_job_retries=0))
    farm.join("w", slots=1)
    farm.ask(1)
    farm.fail("w", "op-1", Code.RESOURCE_EXHAUSTED)
    farm.ask(action(2, priority=5))
    farm.pass_time(1, "w")
    assert farm.stage(2) is EXECUTING
    farm.pass_time(2000, "w")
    farm.finish("w", "op-2")
    farm.fail("w", "op-1", Code.RESOURCE_EXHAUSTED)
    assert farm.stage(1) is QUEUED


def test_outputs_that_find_no_room_are_failed_tries_and_end_with_all_the_reasons(
    farm: Farm,
) -> None:
    """The action ran: to run it again and again would cost more than it could bring."""
    for name in ("w1", "w2"):
        farm.join(name)
    farm.ask(1)
    tried = []
    for _ in range(4):
        worker_id = farm.view(1).worker_id
        tried.append(worker_id)
        farm.handle(events.ProcessEnded(worker_id, "op-1"))
        farm.fail(worker_id, "op-1", Code.RESOURCE_EXHAUSTED, "no space left")
        farm.pass_time(30, "w1", "w2")
    assert set(tried[:2]) == {"w1", "w2"}, "elsewhere first"
    assert farm.failure(1).code is Code.RESOURCE_EXHAUSTED
    assert "gave up after 4 failed tries" in farm.failure(1).message
    assert "w1: RESOURCE_EXHAUSTED: no space left" in farm.failure(1).message


def test_what_a_worker_refuses_because_it_drains_is_no_lack_of_room(farm: Farm) -> None:
    farm.join("w1")
    farm.ask(1)
    farm.handle(events.DrainRequested("w1", draining=True))
    farm.fail("w1", "op-1", Code.RESOURCE_EXHAUSTED, "Worker shutting down")
    assert not farm.machine.workers()[0].paused
    farm.handle(events.DrainRequested("w1", draining=False))
    assert farm.started() == [("w1", "op-1")]


def test_only_some_of_those_who_failed_are_avoided(farm: Farm) -> None:
    """As many as a fleet has would make every decision slow."""
    names = [f"w{number:02}" for number in range(40)]
    farm.ask(1)
    for name in names:
        farm.join(name)
    for _ in names:
        farm.fail(farm.view(1).worker_id, "op-1", Code.RESOURCE_EXHAUSTED)
    assert len(farm.machine.lifecycle.operations["op-1"].failed_on) == 16


# -- workers come and go ----------------------------------------------------------------------


def test_losing_a_worker_is_no_failed_try(farm: Farm) -> None:
    farm.ask(1)
    for number in range(4):
        farm.join(f"w{number}")
        farm.handle(events.WorkerLost(f"w{number}"))
        assert [each.counted for each in farm.some(AttemptEnded)] == [False]
    assert (farm.stage(1), farm.view(1).attempts) == (QUEUED, 0)


def test_an_action_that_brings_down_worker_after_worker_fails(farm: Farm) -> None:
    farm.ask(1)
    for number in range(5):
        farm.join(f"w{number}")
        farm.handle(events.WorkerLost(f"w{number}"))
    failure = farm.failure(1)
    assert failure.code is Code.ABORTED
    assert "5 workers died" in failure.message
    assert "w0, w1, w2, w3, w4" in failure.message


def test_workers_that_say_goodbye_are_no_victims(farm: Farm) -> None:
    farm.ask(1)
    for number in range(20):
        farm.join(f"w{number}")
        farm.handle(events.WorkerLeft(f"w{number}"))
    assert farm.stage(1) is QUEUED


def test_drained_workers_that_break_off_are_no_victims(farm: Farm) -> None:
    farm.ask(1)
    for number in range(20):
        farm.join(f"w{number}")
        farm.handle(events.DrainRequested(f"w{number}", draining=True))
        farm.handle(events.WorkerLost(f"w{number}"))
    assert farm.stage(1) is QUEUED


def test_a_silent_worker_is_evicted_and_its_work_runs_elsewhere(farm: Farm) -> None:
    farm.join("w1")
    farm.ask(1)
    farm.join("w2")
    farm.pass_time(5, "w2")
    assert [each.worker_id for each in farm.some(WorkerEvicted)] == ["w1"]
    assert farm.started() == [("w2", "op-1")]


def test_a_worker_that_can_resume_keeps_its_work_for_a_while(farm: Farm) -> None:
    farm.join("w1", can_resume=True)
    farm.ask(1)
    farm.join("w2")
    farm.handle(events.WorkerLost("w1"))
    farm.pass_time(4, "w2")
    assert farm.join("w1", running=("op-1",), can_resume=True) == []
    assert farm.killed() == []
    farm.finish("w1", "op-1")
    assert farm.view(1).response == b"done"


def test_a_worker_that_stays_away_loses_its_work(farm: Farm) -> None:
    farm.join("w1", can_resume=True)
    farm.ask(1)
    farm.join("w2")
    farm.handle(events.WorkerLost("w1"))
    farm.pass_time(5, "w2")
    assert farm.started() == [("w2", "op-1")]
    farm.join("w1", running=("op-1",), can_resume=True)
    assert farm.killed() == [("w1", "op-1")]


def test_what_a_worker_comes_back_without_runs_again(farm: Farm) -> None:
    farm.join("w1", can_resume=True)
    farm.ask(1)
    farm.handle(events.WorkerLost("w1"))
    assert farm.join("w1", can_resume=True) == [("w1", "op-1")]
    assert farm.view(1).attempts == 0


def test_a_new_worker_is_told_to_stop_what_nobody_gave_it(farm: Farm) -> None:
    farm.join("w", running=("op-8", "op-9"))
    assert farm.killed() == [("w", "op-8"), ("w", "op-9")]


def test_what_a_worker_still_runs_is_not_given_to_it_again(farm: Farm) -> None:
    farm.ask(1)
    assert farm.join("w", running=("op-1",)) == []
    farm.fail("w", "op-1", Code.ABORTED, "killed")
    assert farm.started() == [("w", "op-1")]


def test_results_of_those_who_do_not_have_the_operation_count_for_nothing(farm: Farm) -> None:
    farm.join("w1")
    farm.ask(1)
    farm.join("w2")
    before = take(farm.machine)
    farm.finish("w2", "op-1", b"a lie")
    farm.finish("stranger", "op-1", b"a lie")
    farm.fail("w2", "op-1")
    assert farm.effects == []
    assert take(farm.machine).operations == before.operations


def test_a_worker_that_runs_what_it_should_not_is_told_to_stop(farm: Farm) -> None:
    farm.join("w")
    farm.handle(events.ProcessEnded("w", "op-1"))
    assert farm.killed() == [("w", "op-1")]


def test_a_draining_worker_gets_nothing_new_until_it_is_undrained(farm: Farm) -> None:
    farm.join("w")
    farm.handle(events.DrainRequested("w", draining=True))
    farm.ask(1)
    assert farm.stage(1) is QUEUED
    assert farm.view(1).note == "every connected worker is being drained"
    farm.handle(events.DrainRequested("w", draining=False))
    assert farm.started() == [("w", "op-1")]


def test_what_a_draining_worker_hands_back_is_no_failed_try(farm: Farm) -> None:
    farm.join("w1")
    farm.ask(1)
    farm.join("w2")
    farm.handle(events.DrainRequested("w1", draining=True))
    farm.fail("w1", "op-1", Code.ABORTED, "the worker is shutting down")
    assert farm.started() == [("w2", "op-1")]
    assert farm.view(1).attempts == 0


# -- too long, and orders to stop ---------------------------------------------------------------


def test_a_worker_that_has_an_action_for_too_long_loses_it() -> None:
    farm = Farm(Policy(max_action_executing_timeout_s=10))
    farm.join("w1")
    farm.ask(1)
    farm.join("w2")
    farm.pass_time(10, "w1", "w2")
    assert farm.started() == [("w2", "op-1")]
    assert farm.killed() == [("w1", "op-1")]
    assert farm.view(1).attempts == 1


def test_an_order_to_stop_is_repeated_and_then_the_worker_is_evicted(farm: Farm) -> None:
    farm.join("w")
    farm.ask(1)
    farm.handle(events.CancelRequested("1"))
    farm.pass_time(59, "w")
    assert len(farm.killed()) == 11, "every 5 seconds"
    farm.pass_time(1, "w")
    assert [each.worker_id for each in farm.some(WorkerEvicted)] == ["w"]


def test_a_stopped_action_keeps_its_room_until_the_worker_answers(farm: Farm) -> None:
    farm.join("w", slots=1)
    farm.ask(1)
    farm.handle(events.CancelRequested("1"))
    farm.ask(2)
    assert farm.stage(2) is QUEUED
    farm.fail("w", "op-1", Code.ABORTED, "killed")
    assert farm.started() == [("w", "op-2")]


# -- room ---------------------------------------------------------------------------------------


def test_a_minimum_is_used_up_until_the_process_ends(farm: Farm) -> None:
    farm.join("w", cpu_count="4")
    for number in (1, 2, 3):
        farm.ask(action(number, cpu_count="2"))
    assert [farm.stage(number) for number in (1, 2, 3)] == [EXECUTING, EXECUTING, QUEUED]
    farm.handle(events.ProcessEnded("w", "op-1"))
    assert farm.started() == [("w", "op-3")]
    farm.finish("w", "op-1")
    assert farm.started() == []


def test_a_slot_is_taken_until_the_process_ends(farm: Farm) -> None:
    farm.join("w", slots=1)
    farm.ask(1)
    farm.ask(2)
    assert farm.stage(2) is QUEUED
    farm.handle(events.ProcessEnded("w", "op-1"))
    assert farm.started() == [("w", "op-2")]
    farm.finish("w", "op-1")
    assert farm.started() == []


def test_a_worker_that_cannot_store_what_it_makes_gets_no_more(farm: Farm) -> None:
    farm.join("w", slots=1)
    for number in range(1, 67):
        farm.ask(number)
    for number in range(1, 65):
        farm.handle(events.ProcessEnded("w", f"op-{number}"))
    assert farm.started() == []
    assert farm.stage(65) is QUEUED
    farm.finish("w", "op-1")
    assert farm.started() == [("w", "op-65")]


# -- what no worker could run ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "asked", "note"),
    [
        ([], {}, "no worker is connected"),
        (
            [{"cpu_count": "8"}, {"cpu_count": "16"}],
            {"cpu_count": "64"},
            "cpu_count=64 asked, the most that a worker offers is 16 (w1)",
        ),
        (
            [{"OSFamily": "linux"}],
            {"OSFamily": "windows"},
            "OSFamily=windows asked, w0 offers linux",
        ),
        ([{"OSFamily": "linux"}], {"tool": "x"}, "tool asked, no worker offers it"),
        (
            [{"OSFamily": "linux"}, {"cpu_count": "2", "OSFamily": "mac"}],
            {"OSFamily": "linux", "cpu_count": "1"},
            "cpu_count=1 asked, no worker that suits otherwise offers it",
        ),
        (
            [{"cpu_count": "8", "memory_kb": "1"}, {"cpu_count": "1", "memory_kb": "8"}],
            {"cpu_count": "8", "memory_kb": "8"},
            (
                "cpu_count=8, memory_kb=8 asked together, no single worker offers all of it; the "
                "nearest is w0 with cpu_count=8, memory_kb=1"
            ),
        ),
    ],
)
def test_the_property_that_no_worker_offers_is_named(
    farm: Farm, workers: list[dict[str, str]], asked: dict[str, str], note: str
) -> None:
    for number, offered in enumerate(workers):
        farm.join(f"w{number}", **offered)
    farm.ask(action(1, **asked))
    assert farm.view(1).note == note
    assert [each.reason for each in farm.some(Unschedulable)] == [note]


def test_what_no_worker_could_run_fails_after_a_time_that_says_why() -> None:
    farm = Farm(Policy(supported_properties=SUPPORTED, unschedulable_timeout_s=1200))
    farm.join("w", cpu_count="1")
    farm.ask(action(1, cpu_count="2"))
    farm.pass_time(1199, "w")
    assert farm.stage(1) is QUEUED
    farm.pass_time(1, "w")
    assert farm.failure(1).code is Code.FAILED_PRECONDITION
    assert "the most that a worker offers is 1 (w)" in farm.failure(1).message


def test_that_time_begins_anew_when_a_worker_could_have_run_it() -> None:
    farm = Farm(Policy(unschedulable_timeout_s=100))
    farm.ask(1)
    farm.ask(2)
    farm.pass_time(90)
    assert farm.join("w", slots=1) == [("w", "op-1")]
    assert farm.view(2).note == ""
    farm.pass_time(50, "w")
    farm.handle(events.WorkerLeft("w"))
    assert farm.view(2).note == "no worker is connected"
    farm.pass_time(99)
    assert farm.stage(2) is QUEUED
    farm.pass_time(1)
    assert farm.failure(2).code is Code.FAILED_PRECONDITION


def test_it_may_wait_for_ever() -> None:
    farm = Farm(Policy(unschedulable_timeout_s=0))
    farm.ask(1)
    farm.pass_time(10_000)
    assert farm.stage(1) is QUEUED


# -- defects of a driver ----------------------------------------------------------------------


def test_what_only_a_defect_can_cause_raises_and_changes_nothing(farm: Farm) -> None:
    farm.join("w")
    farm.ask(1)
    farm.handle(events.ClientDetached("1"))
    before = take(farm.machine)
    for event in (
        events.ExecuteRequested("1", "op-2", action(2)),
        events.ExecuteRequested("2", "op-1", action(2)),
        events.ClientDetached("1"),
    ):
        with pytest.raises(IllegalEventError):
            farm.machine.handle(event, farm.now)
    with pytest.raises(IllegalEventError, match="but it was"):
        farm.machine.handle(events.Tick(), farm.now - 1)
    assert take(farm.machine) == before


@pytest.mark.parametrize("value", ["-1", "1.5", "", "many", "18446744073709551616", "\u0661"])
def test_a_minimum_that_is_no_number_is_refused(farm: Farm, value: str) -> None:
    before = take(farm.machine)
    for event in (
        events.ExecuteRequested("1", "op-1", action(1, cpu_count=value)),
        events.WorkerJoined("w", (("cpu_count", value),)),
    ):
        with pytest.raises(NativeLinkError) as caught:
            farm.machine.handle(event, before.now)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert "cpu_count" in caught.value.message
    assert take(farm.machine).operations == before.operations
    assert farm.machine.workers() == []


def test_a_story_says_what_happened_and_why(farm: Farm) -> None:
    farm.ask(1)
    farm.join("w1")
    farm.handle(events.WorkerLost("w1"))
    farm.join("w2")
    farm.finish("w2", "op-1")
    assert [(entry.cause, entry.text) for entry in farm.machine.story("op-1")] == [
        ("ExecuteRequested", "asked for"),
        ("ExecuteRequested", "no worker could run it: no worker is connected"),
        ("WorkerJoined", "given to w1"),
        ("WorkerLost", "queued again: lost w1, its connection broke"),
        ("WorkerLost", "no worker could run it: no worker is connected"),
        ("WorkerJoined", "given to w2"),
        ("ExecutionFinished", "w2 finished it, exit code 0"),
    ]


def test_a_story_stays_short_however_long_it_gets() -> None:
    farm = Farm(Policy(unschedulable_timeout_s=0))
    farm.join("w")
    farm.ask(1)
    for _ in range(200):
        farm.fail("w", "op-1", Code.RESOURCE_EXHAUSTED)
        farm.pass_time(30, "w")
        assert farm.stage(1) is EXECUTING
    story = farm.machine.story("op-1")
    assert len(story) <= 64
    assert story[0].text == "asked for"


def test_the_statistics_add_up(farm: Farm) -> None:
    farm.join("w1", cpu_count="1")
    farm.join("w2", cpu_count="1")
    farm.handle(events.DrainRequested("w2", draining=True))
    for number in range(4):
        farm.ask(action(number, cpu_count="1"))
    farm.ask(action(9, cpu_count="5", OSFamily="linux"))
    farm.finish("w1", "op-0")
    found = farm.machine.statistics()
    assert (found.queued, found.executing, found.completed) == (3, 1, 1)
    assert (found.workers, found.connected, found.draining, found.active) == (2, 2, 1, 1)
    assert [(each.properties, each.queued) for each in found.platforms] == [
        ("OSFamily=linux cpu_count>=5", 1),
        ("cpu_count>=1", 2),
    ]
    assert found.unschedulable == 1
