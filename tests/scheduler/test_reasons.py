"""What no worker could run: why, since when, and for how long it may wait."""

from __future__ import annotations

import pytest

from nativelink.core.errors import Code
from nativelink.scheduler import events
from nativelink.scheduler.effects import Unschedulable
from nativelink.scheduler.policy import Policy
from tests.scheduler.farm import QUEUED, SUPPORTED, Farm, action


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
