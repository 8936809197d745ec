"""The process' own numbers, compared with what the operating system says elsewhere."""

import asyncio
import os
import resource
from pathlib import Path

from nativelink.telemetry.meter import HistogramPoint, NumberPoint, Registry
from nativelink.telemetry.process import observe_process, watch_event_loop


def observed() -> dict[str, float]:
    registry = Registry()
    observe_process(registry, version="9.9.9")
    return {
        series.definition.name: point.value
        for series in registry.collect()
        for point in series.points
        if isinstance(point, NumberPoint)
    }


def test_memory_is_resident_memory_in_bytes():
    status = Path("/proc/self/status").read_text(encoding="ascii")
    rss = next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmRSS" in line)
    assert abs(observed()["process.resident_memory"] - rss) < 8 * 2**20


def test_an_opened_file_is_counted():
    before = observed()["process.open_fds"]
    reading, writing = os.pipe()
    try:
        assert observed()["process.open_fds"] == before + 2
    finally:
        os.close(reading)
        os.close(writing)


def test_the_limit_of_file_descriptors_is_the_soft_one():
    assert observed()["process.max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_the_start_time_lies_before_now_and_after_the_machines():
    started = observed()["process.start_time"]
    uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    now = Path("/proc/self").stat().st_mtime
    assert started <= now + 1
    assert started > 0
    assert uptime > 0


def test_the_version_is_a_label_of_a_constant_one():
    registry = Registry()
    observe_process(registry, version="9.9.9")
    (info,) = (series for series in registry.collect() if series.definition.name == "build.info")
    assert ("version", "9.9.9") in info.points[0].attributes


async def test_a_loop_that_was_blocked_is_late(monkeypatch):
    times = iter([0.0, 0.75, 0.75])

    class Loop:
        @staticmethod
        def time() -> float:
            return next(times)

    waited = asyncio.Event()

    async def sleep(seconds: float) -> None:
        if waited.is_set():
            raise asyncio.CancelledError
        waited.set()

    monkeypatch.setattr("nativelink.telemetry.process.asyncio.get_running_loop", Loop)
    monkeypatch.setattr("nativelink.telemetry.process.asyncio.sleep", sleep)
    registry = Registry()
    try:
        await watch_event_loop(registry)
    except asyncio.CancelledError:
        pass
    (series,) = registry.collect()
    (point,) = series.points
    assert isinstance(point, HistogramPoint)
    assert point.sum == 0.25
