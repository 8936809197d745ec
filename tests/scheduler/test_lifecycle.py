"""What becomes of operations: asked for, shared, cancelled, ended, forgotten, deleted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nativelink.core.errors import Code
from nativelink.scheduler import events
from nativelink.scheduler.effects import OperationForgotten, OperationUpdated
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.records import Name
from nativelink.scheduler.snapshot import take
from tests.scheduler.farm import COMPLETED, EXECUTING, QUEUED, Farm, action


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
