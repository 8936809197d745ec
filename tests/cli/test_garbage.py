"""The collector freezes what survives a long full collection, and only then."""

import gc
from collections.abc import Iterator

import pytest

from nativelink.cli.garbage import freeze_what_stays


class Seconds:
    """A clock that advances by `step` at every look."""

    def __init__(self) -> None:
        self.now = 0.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock() -> Iterator[Seconds]:
    clock = Seconds()
    before, thresholds = gc.callbacks[:], gc.get_threshold()
    freeze_what_stays(clock)
    yield clock
    gc.callbacks[:] = before
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_what_is_there_is_frozen_at_once(clock: Seconds):
    assert gc.get_freeze_count() > 1000


def test_a_short_collection_freezes_nothing(clock: Seconds):
    kept = [[number] for number in range(5000)]
    before = gc.get_freeze_count()
    gc.collect()
    assert gc.get_freeze_count() <= before
    del kept


def test_a_long_full_collection_freezes_what_survived_it(clock: Seconds):
    kept = [[number] for number in range(5000)]
    before = gc.get_freeze_count()
    clock.step = 1
    gc.collect(0)
    assert gc.get_freeze_count() <= before
    gc.collect()
    assert gc.get_freeze_count() >= before + 5000
    assert len(kept) == 5000


def test_what_was_frozen_still_goes_when_nothing_refers_to_it(clock: Seconds):
    kept = [[number] for number in range(5000)]
    clock.step = 1
    gc.collect()
    before = gc.get_freeze_count()
    del kept
    assert gc.get_freeze_count() <= before - 5000
