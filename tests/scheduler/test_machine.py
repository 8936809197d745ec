"""The machine to its driver: what it refuses, the story of an operation, its figures."""

from __future__ import annotations

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.scheduler import events
from nativelink.scheduler.journal import IllegalEventError
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.snapshot import take
from tests.scheduler.farm import EXECUTING, Farm, action


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
