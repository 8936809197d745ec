"""What the process itself uses: memory, CPU time, file descriptors, and how late its loop is."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from nativelink.telemetry.meter import Observation, Registry
from nativelink.telemetry.metrics import (
    BUILD_INFO,
    EVENT_LOOP_LAG,
    PROCESS_CPU_TIME,
    PROCESS_FILE_DESCRIPTORS,
    PROCESS_MAX_FILE_DESCRIPTORS,
    PROCESS_MEMORY,
    PROCESS_START_TIME,
)

__all__ = ["observe_process", "watch_event_loop"]

_STAT: Final = Path("/proc/self/stat")
_DESCRIPTORS: Final = Path("/proc/self/fd")
#: Fields of /proc/self/stat after the program's name, counted from 0 (proc(5)).
_STARTTIME: Final = 19
_RSS: Final = 21
#: Often enough to see a stall of a second, rare enough to cost nothing (1 us each).
_LAG_INTERVAL_S: Final = 0.5


def observe_process(registry: Registry, *, version: str) -> None:
    """Let a registry's collections ask the operating system; nothing is counted in between.

    Linux's /proc gives all of them; elsewhere only the CPU time and the versions are there.
    """
    registry.observe(BUILD_INFO, lambda: [((version, platform.python_version()), 1)])
    registry.observe(PROCESS_CPU_TIME, _cpu_time)
    if not _STAT.exists():
        return
    started = _boot_time() + int(_stat()[_STARTTIME]) / os.sysconf("SC_CLK_TCK")
    page = os.sysconf("SC_PAGE_SIZE")
    registry.observe(PROCESS_MEMORY, lambda: [((), int(_stat()[_RSS]) * page)])
    registry.observe(PROCESS_FILE_DESCRIPTORS, _open_descriptors)
    registry.observe(
        PROCESS_MAX_FILE_DESCRIPTORS,
        lambda: [((), resource.getrlimit(resource.RLIMIT_NOFILE)[0])],
    )
    registry.observe(PROCESS_START_TIME, lambda: [((), started)])


async def watch_event_loop(registry: Registry) -> None:
    """Record how much later than asked the loop wakes up, until cancelled."""
    record = registry.histogram(EVENT_LOOP_LAG).bind().record
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_INTERVAL_S
        await asyncio.sleep(_LAG_INTERVAL_S)
        record(max(0.0, loop.time() - due))


def _stat() -> list[str]:
    # The program's name stands in parentheses and may hold anything, so split after the last one.
    return _STAT.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()


def _boot_time() -> float:
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def _cpu_time() -> Iterable[Observation]:
    times = os.times()
    return [((), times.user + times.system)]


def _open_descriptors() -> Iterable[Observation]:
    # The listing itself holds one open.
    return [((), sum(1 for _ in _DESCRIPTORS.iterdir()) - 1)]
