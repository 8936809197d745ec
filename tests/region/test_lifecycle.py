"""Lifecycle hooks: completed, kept waiting, over."""

from __future__ import annotations

from nativelink.testing.fakes import FakeClock
from scripts.region_local.lifecycle import Lifecycle, Outcome
from scripts.region_local.resources import LAUNCHING, Hook

READY = Hook("workers", "ready", LAUNCHING, 300.0, goes_on=False)


def test_who_completes_an_action_ends_the_waiting_once() -> None:
    lifecycle = Lifecycle(FakeClock().monotonic)
    assert not lifecycle.complete("ready", "i-1", goes_on=True)
    lifecycle.wait_at(READY, "i-1")
    assert lifecycle.outcome(READY, "i-1") is None
    assert not lifecycle.complete("drain", "i-1", goes_on=True)
    assert lifecycle.complete("ready", "i-1", goes_on=True)
    assert not lifecycle.complete("ready", "i-1", goes_on=True)
    assert lifecycle.outcome(READY, "i-1") == Outcome(by_time=False, goes_on=True)


def test_nobody_means_what_the_hook_says_after_its_time() -> None:
    clock = FakeClock()
    lifecycle = Lifecycle(clock.monotonic)
    lifecycle.wait_at(READY, "i-1")
    clock.advance(299)
    assert lifecycle.heartbeat("ready", "i-1")
    clock.advance(299)
    assert lifecycle.outcome(READY, "i-1") is None
    clock.advance(2)
    assert lifecycle.outcome(READY, "i-1") == Outcome(by_time=True, goes_on=False)
    assert not lifecycle.heartbeat("ready", "i-1")


def test_an_instance_that_is_gone_waits_nowhere() -> None:
    lifecycle = Lifecycle(FakeClock().monotonic)
    lifecycle.wait_at(READY, "i-1")
    lifecycle.wait_at(READY, "i-2")
    lifecycle.forget("i-1")
    assert not lifecycle.complete("ready", "i-1", goes_on=True)
    assert lifecycle.complete("ready", "i-2", goes_on=True)
