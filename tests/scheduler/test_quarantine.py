"""A worker that fails what others can do gets nothing for a while."""

from __future__ import annotations

from nativelink.core.errors import Code
from nativelink.scheduler import events
from nativelink.scheduler.effects import WorkerQuarantined
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.snapshot import restore, take
from tests.scheduler.farm import COMPLETED, EXECUTING, QUEUED, Farm


def fail_here_and_finish_there(farm: Farm, number: int, bad: str, good: str) -> None:
    """An action fails on one worker, which must get it first, and is executed by the other."""
    farm.handle(events.DrainRequested(good, draining=True))
    farm.ask(number)
    assert farm.started() == [(bad, f"op-{number}")]
    farm.handle(events.DrainRequested(good, draining=False))
    farm.fail(bad, f"op-{number}", Code.INTERNAL, "cannot write")
    assert farm.started() == [(good, f"op-{number}")]
    farm.finish(good, f"op-{number}")


def quarantined(farm: Farm) -> list[str]:
    return [worker.worker_id for worker in farm.machine.workers() if worker.quarantined]


def bad_and_good(**settings: float) -> Farm:
    """A farm with a worker that is in quarantine from now on."""
    farm = Farm(Policy(quarantine_s=10, longest_quarantine_s=40, **settings))
    farm.join("bad")
    farm.join("good")
    for number in (1, 2, 3):
        assert quarantined(farm) == []
        fail_here_and_finish_there(farm, number, "bad", "good")
    return farm


def test_what_fails_there_and_goes_well_elsewhere_three_times_in_a_row_quarantines_it() -> None:
    farm = bad_and_good()
    assert farm.some(WorkerQuarantined) == [
        WorkerQuarantined("bad", 10, "3 actions in a row failed there and went well elsewhere")
    ]
    assert quarantined(farm) == ["bad"]
    farm.join("other")
    for number in (4, 5, 6, 7):
        farm.ask(number)
        assert [worker for worker, _ in farm.started()] != ["bad"]


def test_a_result_in_between_shows_that_it_can_do_its_work() -> None:
    farm = Farm()
    farm.join("bad")
    farm.join("good")
    for number in (1, 2, 4, 5):
        if number == 4:
            farm.handle(events.DrainRequested("good", draining=True))
            farm.ask(3)
            farm.finish("bad", "op-3")
            farm.handle(events.DrainRequested("good", draining=False))
        fail_here_and_finish_there(farm, number, "bad", "good")
    assert quarantined(farm) == []


def test_what_fails_everywhere_is_nobodys_fault() -> None:
    farm = Farm(Policy(max_job_retries=1))
    farm.join("w1")
    farm.join("w2")
    for number in range(10):
        farm.ask(number)
        for _ in range(2):
            (running,) = [worker for worker in farm.machine.workers() if worker.running]
            farm.fail(running.worker_id, f"op-{number}", Code.INTERNAL, "the cache is down")
        assert farm.stage(number) is COMPLETED
    assert quarantined(farm) == []


def test_neither_a_lack_of_room_nor_a_lost_connection_counts() -> None:
    farm = Farm()
    farm.join("good")
    for number in range(5):
        farm.handle(events.DrainRequested("good", draining=True))
        farm.join("bad")
        farm.ask(number)
        farm.handle(events.DrainRequested("good", draining=False))
        if number % 2:
            farm.fail("bad", f"op-{number}", Code.RESOURCE_EXHAUSTED, "full")
        farm.handle(events.WorkerLeft("bad"))
        farm.finish("good", f"op-{number}")
    farm.join("bad")
    assert quarantined(farm) == []


def test_then_it_is_tried_with_one_action_at_a_time_until_one_succeeds() -> None:
    farm = bad_and_good()
    farm.handle(events.DrainRequested("good", draining=True))
    farm.ask(4)
    farm.ask(5)
    farm.pass_time(9.5, "bad", "good")
    assert (farm.stage(4), farm.stage(5)) == (QUEUED, QUEUED)
    farm.pass_time(0.5, "bad", "good")
    assert farm.started() == [("bad", "op-4")]
    assert farm.stage(5) is QUEUED
    assert quarantined(farm) == ["bad"]
    farm.finish("bad", "op-4")
    assert farm.started() == [("bad", "op-5")]
    assert quarantined(farm) == []
    farm.ask(6)
    assert farm.started() == [("bad", "op-6")]


def test_each_failure_then_quarantines_it_for_twice_as_long() -> None:
    farm = bad_and_good(max_job_retries=100)
    farm.handle(events.DrainRequested("good", draining=True))
    farm.ask(4)
    farm.pass_time(10, "bad", "good")
    for length in (20, 40, 40):
        farm.fail("bad", "op-4", Code.INTERNAL, "still broken")
        (told,) = farm.some(WorkerQuarantined)
        assert (told.worker_id, told.seconds) == ("bad", length)
        assert told.reason == "it failed again, INTERNAL: still broken"
        farm.pass_time(length - 0.5, "bad", "good")
        assert farm.stage(4) is QUEUED
        farm.pass_time(0.5, "bad", "good")
        assert farm.stage(4) is EXECUTING


def test_a_result_that_comes_late_ends_it() -> None:
    farm = Farm()
    farm.join("bad")
    farm.ask(100)
    farm.join("good")
    for number in (1, 2, 3):
        fail_here_and_finish_there(farm, number, "bad", "good")
    assert quarantined(farm) == ["bad"]
    farm.finish("bad", "op-100")
    assert quarantined(farm) == []


def long_test_on(farm: Farm, number: int, bad: str, good: str) -> None:
    """An action runs on one worker for as long as it likes."""
    farm.handle(events.DrainRequested(good, draining=True))
    farm.ask(number)
    assert farm.started() == [(bad, f"op-{number}")]
    farm.handle(events.DrainRequested(good, draining=False))


def test_what_it_ran_before_does_not_keep_it_from_being_tried() -> None:
    farm = Farm(Policy(quarantine_s=10))
    farm.join("bad")
    farm.join("good")
    long_test_on(farm, 100, "bad", "good")
    for number in (1, 2, 3):
        fail_here_and_finish_there(farm, number, "bad", "good")
    farm.handle(events.DrainRequested("good", draining=True))
    farm.ask(4)
    farm.ask(5)
    farm.pass_time(9.5, "bad", "good")
    assert farm.stage(4) is QUEUED
    farm.pass_time(0.5, "bad", "good")
    assert farm.started() == [("bad", "op-4")]
    assert farm.stage(5) is QUEUED
    assert quarantined(farm) == ["bad"]


def test_it_is_tried_with_one_at_a_time_when_it_comes_back_without_the_first() -> None:
    farm = bad_and_good()
    farm.handle(events.DrainRequested("good", draining=True))
    farm.ask(4)
    farm.ask(5)
    farm.pass_time(10, "bad", "good")
    assert farm.join("bad") == [("bad", "op-4")]
    assert farm.stage(5) is QUEUED
    farm.machine = restore(farm.machine.policy, take(farm.machine))
    farm.ask(6)
    assert (farm.stage(5), farm.stage(6)) == (QUEUED, QUEUED)


def test_what_it_ran_before_and_fails_in_one_moment_is_not_one_trial_after_the_other() -> None:
    farm = Farm(Policy(quarantine_s=10, longest_quarantine_s=40, max_job_retries=100))
    farm.join("bad")
    farm.join("good")
    old = range(100, 105)
    for number in old:
        long_test_on(farm, number, "bad", "good")
    for number in (1, 2, 3):
        fail_here_and_finish_there(farm, number, "bad", "good")
    assert [told.seconds for told in farm.some(WorkerQuarantined)] == [10]
    for number in old:
        farm.fail("bad", f"op-{number}", Code.INTERNAL, "cannot write")
        assert farm.some(WorkerQuarantined) == []
    farm.handle(events.DrainRequested("good", draining=True))
    farm.ask(4)
    farm.pass_time(10, "bad", "good")
    assert farm.started() == [("bad", "op-4")]
    farm.fail("bad", "op-4", Code.INTERNAL, "still broken")
    assert [told.seconds for told in farm.some(WorkerQuarantined)] == [20]


def test_failures_from_before_it_gave_a_result_are_not_held_against_it() -> None:
    farm = Farm()
    farm.join("blip")
    farm.join("slow")
    for number in (1, 2, 3):
        farm.handle(events.DrainRequested("slow", draining=True))
        farm.ask(number)
        farm.handle(events.DrainRequested("slow", draining=False))
        farm.fail("blip", f"op-{number}", Code.INTERNAL, "connection reset")
        assert farm.started() == [("slow", f"op-{number}")]
    farm.machine = restore(farm.machine.policy, take(farm.machine))
    for number in (4, 5, 6):
        long_test_on(farm, number, "blip", "slow")
        farm.finish("blip", f"op-{number}")
    for number in (1, 2, 3):
        farm.finish("slow", f"op-{number}")
    assert quarantined(farm) == []
    for number in (7, 8, 9):
        assert quarantined(farm) == []
        fail_here_and_finish_there(farm, number, "blip", "slow")
    assert quarantined(farm) == ["blip"]


def test_work_that_only_quarantined_workers_could_do_moves_after_the_longest_quarantine() -> None:
    farm = bad_and_good(max_job_retries=100)
    farm.handle(events.WorkerLeft("good"))
    farm.ask(4)
    for _ in range(5):
        farm.pass_time(40, "bad")
        assert farm.stage(4) is EXECUTING
        farm.fail("bad", "op-4", Code.INTERNAL, "still broken")
        assert farm.stage(4) is QUEUED


def test_it_outlives_a_broken_connection_and_a_snapshot() -> None:
    farm = bad_and_good()
    farm.machine = restore(farm.machine.policy, take(farm.machine))
    farm.join("bad")
    assert quarantined(farm) == ["bad"]
    farm.handle(events.DrainRequested("good", draining=True))
    farm.ask(4)
    assert farm.stage(4) is QUEUED
    farm.pass_time(10, "bad", "good")
    assert farm.started() == [("bad", "op-4")]


def test_it_can_be_switched_off() -> None:
    farm = Farm(Policy(quarantine_after=0))
    farm.join("bad")
    farm.join("good")
    for number in range(6):
        fail_here_and_finish_there(farm, number, "bad", "good")
    assert quarantined(farm) == []
