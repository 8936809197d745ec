"""Workers as a server shows them, read back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nativelink.cli import workers as shown
from nativelink.client import workers
from nativelink.scheduler.scheduler import WorkerView
from nativelink.services.farm import worker_document

IDLE = WorkerView(
    worker_id="w",
    address="10.0.0.1",
    properties=(("OSFamily", "linux"), ("cpu_count", "4")),
    max_inflight_tasks=4,
    running=(),
    draining=False,
    paused=False,
    connected=True,
    connected_at=1.0,
    last_seen_at=2.0,
)


@pytest.mark.parametrize("field", ["draining", "paused", "connected", "quarantined"])
def test_nothing_is_lost_on_the_way(field: str) -> None:
    view = replace(IDLE, running=("a",), **{field: not getattr(IDLE, field)})

    assert workers._view(worker_document(view)) == view


def test_servers_that_know_no_quarantine_have_none() -> None:
    document = worker_document(IDLE)
    del document["quarantined"]

    assert workers._view(document) == IDLE


@pytest.mark.parametrize(
    ("view", "state"),
    [
        (IDLE, "idle"),
        (replace(IDLE, running=("a",)), "busy"),
        (replace(IDLE, running=("a",), quarantined=True), "quarantined"),
        (replace(IDLE, paused=True), "full"),
        (replace(IDLE, quarantined=True, draining=True), "draining"),
        (replace(IDLE, draining=True, connected=False), "lost"),
    ],
)
def test_a_state_is_the_one_that_says_most(view: WorkerView, state: str) -> None:
    assert shown._state(view).plain == state
