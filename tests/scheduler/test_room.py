"""Room: what a worker has, what it says it has not, and who waits for it."""

from __future__ import annotations

from nativelink.core.errors import Code
from nativelink.scheduler import events
from nativelink.scheduler.policy import Policy
from tests.scheduler.farm import COMPLETED, EXECUTING, QUEUED, Farm, action


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
