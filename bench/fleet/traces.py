"""What builds ask for, and what EC2 does meanwhile: the four days that the simulator plays.

A build is not a pile of actions: Bazel sends as many as `--jobs` allows, and the next one when one
ends. So a pool that is too small makes builds slower, and does not make the queue longer for ever.
All numbers come from one seeded generator: the same trace is the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

__all__ = ["TRACES", "Build", "Drought", "Trace", "working_day"]

HOUR: Final = 3600.0
_SEED: Final = 20261121
#: Bazel's `--jobs` in our documentation, and what CI machines use.
_JOBS: Final = 100
_CI_JOBS: Final = 400
_LONGEST_ACTION_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class Build:
    """One build.

    Attributes:
        start: when it begins, in seconds of the day.
        durations: of its actions that the cache does not have, in the order in which they come.
        jobs: so many at a time.
    """

    start: float
    durations: tuple[float, ...]
    jobs: int


@dataclass(frozen=True, slots=True)
class Drought:
    """A time in which spot machines are hard to get.

    Attributes:
        start, end: seconds of the day.
        interrupted: part of the pool that is taken back in its first ten minutes.
        granted: part of the requested spot machines that are given.
    """

    start: float
    end: float
    interrupted: float
    granted: float


@dataclass(frozen=True, slots=True)
class Trace:
    """A day.

    Attributes:
        name: for files and tables.
        story: one sentence.
        builds: by start.
        droughts: of spot machines.
    """

    name: str
    story: str
    builds: Sequence[Build]
    droughts: Sequence[Drought] = ()


def _durations(random: Random, count: int) -> tuple[float, ...]:
    """Compilations and tests: half take less than 4 s, one in a hundred more than a minute."""
    return tuple(
        min(_LONGEST_ACTION_S, random.lognormvariate(math.log(4.0), 1.15)) for _ in range(count)
    )


def _size(random: Random, median: float, *, most: int) -> int:
    """How many actions of a build are not in the cache: mostly few, sometimes nearly all."""
    return max(1, min(most, round(random.lognormvariate(math.log(median), 1.5))))


def _arrivals(random: Random, rate: Callable[[float], float], peak: float) -> list[float]:
    """Times of a day at a rate per hour that changes (thinning)."""
    found: list[float] = []
    at = 0.0
    while (at := at + random.expovariate(peak / HOUR)) < 24 * HOUR:
        if random.random() < rate(at / HOUR) / peak:
            found.append(at)
    return found


def _office(hour: float) -> float:
    """How many of those who work at the busiest time do now."""
    bumps = ((10.5, 1.4, 1.0), (15.0, 1.9, 1.0), (19.5, 1.2, 0.18))
    busy = sum(height * math.exp(-(((hour - at) / width) ** 2) / 2) for at, width, height in bumps)
    return max(0.01, min(1.0, busy))


def _people(random: Random, builds_per_hour: float, median: float) -> list[Build]:
    return [
        Build(at, _durations(random, _size(random, median, most=4000)), _JOBS)
        for at in _arrivals(random, lambda hour: builds_per_hour * _office(hour), builds_per_hour)
    ]


def _ci(random: Random, builds_per_hour: float, median: float) -> list[Build]:
    return [
        Build(at, _durations(random, _size(random, median, most=12_000)), _CI_JOBS)
        for at in _arrivals(random, lambda hour: builds_per_hour * _office(hour), builds_per_hour)
    ]


def _sorted(*parts: Sequence[Build]) -> Sequence[Build]:
    return tuple(sorted((build for part in parts for build in part), key=lambda each: each.start))


def _day(random: Random, developers: int = 60) -> Sequence[Build]:
    """People, a pre-merge CI, a nightly build of a tree that has grown with their number."""
    times = developers / 60
    nightly = Build(2 * HOUR, _durations(random, round(20_000 * times)), _CI_JOBS)
    return _sorted(_people(random, 300 * times, 15), _ci(random, 40 * times, 60), [nightly])


def working_day(developers: int = 60, *, seed: int = _SEED) -> Trace:
    """A day like any other; another seed is another day of the same kind."""
    return Trace(
        "working-day",
        "Sixty developers from eight to eight, CI for every change, a build from nothing at night.",
        _day(Random(seed), developers),
    )


def _release_rush() -> Trace:
    random = Random(_SEED + 1)
    rush = [
        Build(14 * HOUR + 90 * number, _durations(random, 5000), _CI_JOBS) for number in range(12)
    ]
    return Trace(
        "release-rush",
        "The same, and twelve release branches are built from nothing at two in the afternoon.",
        _sorted(_day(Random(_SEED)), rush),
    )


def _monorepo_change() -> Trace:
    random = Random(_SEED + 2)
    everything = Build(11 * HOUR, _durations(random, 60_000), 2 * _CI_JOBS)
    everyone = [
        Build(11.5 * HOUR + random.uniform(0, 2 * HOUR), _durations(random, 1500), _JOBS)
        for _ in range(60)
    ]
    return Trace(
        "monorepo-change",
        "A header that everything includes changes: CI builds 60,000 actions, then each developer "
        "1,500.",
        _sorted(_day(Random(_SEED)), [everything], everyone),
    )


def _spot_drought() -> Trace:
    return Trace(
        "spot-drought",
        "The working day, and from half past one to three EC2 takes back six in ten machines and "
        "grants one in ten that are asked for.",
        _day(Random(_SEED)),
        (Drought(13.5 * HOUR, 15 * HOUR, 0.6, 0.1),),
    )


TRACES: Final[dict[str, Callable[[], Trace]]] = {
    "working-day": working_day,
    "release-rush": _release_rush,
    "monorepo-change": _monorepo_change,
    "spot-drought": _spot_drought,
}
