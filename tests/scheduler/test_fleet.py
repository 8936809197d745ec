"""Workers come and go: lost, evicted, resumed, draining, told to stop."""

from __future__ import annotations

from nativelink.core.errors import Code
from nativelink.scheduler import events
from nativelink.scheduler.effects import AttemptEnded, WorkerEvicted
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.snapshot import take
from tests.scheduler.farm import QUEUED, Farm

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
