"""What a person sees."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from scripts.region_local import view
from scripts.region_local.agent import Happening, Status
from scripts.region_local.machine import Stage
from scripts.region_local.resources import Group
from tests.region.test_watch import FROM_ZERO


def machine(number: int, stage: Stage, ends_at: float | None = None) -> Any:
    instance = SimpleNamespace(id=f"i-{number}", group="nl-workers")
    return SimpleNamespace(
        instance=instance,
        address=f"127.64.0.{number}",
        stage=stage,
        launched_at=90.0,
        ends_at=ends_at,
    )


STATUS = Status(
    [Group("nl-workers", 0, 3, 20, ("i-1", "i-2"), "", ())],
    [machine(1, Stage.IN_SERVICE, 112.0), machine(2, Stage.BOOTING)],
    [FROM_ZERO],
    {"nl-workers": {"QueuedActions": 160, "RunningActions": 24, "LoadRatio": 412}},
    {"nl-edge:50051": (1, 7)},
)


@pytest.fixture
def agent() -> Any:
    happenings = [Happening(0.0, f"event {number}") for number in range(40)]
    return SimpleNamespace(status=lambda: STATUS, happenings=happenings)


def test_the_picture_has_groups_instances_alarms_and_the_latest_events(agent: Any) -> None:
    console = Console(width=120, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(view.picture(agent, "grpc://127.65.1.1:50051", 100.0))
    text = capture.get()
    for part in ("nl-workers", "0 to 20", "160", "412 %", "in service", "gone in 12 s", "booting",
                 "from-zero OK", "event 39", "nl-edge:50051 1 healthy, 7 connections",
                 "grpc://127.65.1.1:50051"):  # fmt: skip
        assert part in text, part
    assert "event 0\n" not in text


def test_a_low_terminal_shows_fewer_events(agent: Any) -> None:
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        console.print(view.picture(agent, "title", 100.0, height=24))
    assert capture.get().count("  event ") == 3


def test_without_a_terminal_there_is_a_line() -> None:
    assert view.summary(STATUS) == "nl-workers 2/3 | 160 queued, 24 running | alarms: none"
    assert view.line(Happening(0.0, "i-1 is gone")).endswith("  i-1 is gone")


def test_a_picture_needs_nothing_from_elsewhere(agent: Any, tmp_path: Path) -> None:
    file = tmp_path / "view.svg"
    view.draw(agent, "title", 100.0, file)
    text = file.read_text()
    assert text.startswith("<svg")
    assert "@font-face" not in text
    assert "url(http" not in text
