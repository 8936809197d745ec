"""Tries that fail: tried again where it has not failed, given up, or the client's business."""

from __future__ import annotations

import pytest

from nativelink.core.digest import Digest
from nativelink.core.errors import Code
from nativelink.scheduler import events
from nativelink.scheduler.effects import AttemptEnded, StartExecution
from nativelink.scheduler.operation import Failure
from tests.scheduler.farm import Farm


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


def test_only_some_of_those_who_failed_are_avoided(farm: Farm) -> None:
    """As many as a fleet has would make every decision slow."""
    names = [f"w{number:02}" for number in range(40)]
    farm.ask(1)
    for name in names:
        farm.join(name)
    for _ in names:
        farm.fail(farm.view(1).worker_id, "op-1", Code.RESOURCE_EXHAUSTED)
    assert len(farm.machine.lifecycle.operations["op-1"].failed_on) == 16
