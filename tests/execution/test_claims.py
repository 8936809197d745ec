"""Workers of a process: what they claim for themselves, and what is measured of them."""

from __future__ import annotations

import fcntl
import os
import urllib.request
from pathlib import Path

import pytest

from nativelink.compose.stores import StoreBuilder
from nativelink.compose.system import open_system
from nativelink.config import Config
from nativelink.core.clock import SystemClock
from nativelink.core.errors import Code, NativeLinkError
from nativelink.testing.execution import ExecutionClient
from tests.execution.farm import Farm, Ports, farm_config
from tests.execution.gate import wait_for


async def test_a_work_directory_that_another_process_uses_stops_us_before_anything_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    (work / "running").mkdir(parents=True)
    monkeypatch.setattr(StoreBuilder, "build_all", None)  # a store empties its own directories
    config = Config.model_validate(farm_config(tmp_path, Ports.free(), worker={"name": "local"}))
    claim = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(claim, fcntl.LOCK_EX)

        with pytest.raises(NativeLinkError, match="in use by another process") as caught:
            async with open_system(config, version="1", environ={}, clock=SystemClock()):
                pass
    finally:
        os.close(claim)

    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.message.startswith("workers/local: work_directory")
    assert (work / "running").is_dir()


def test_the_metrics_say_what_each_worker_of_the_process_does(
    farm: Farm, client: ExecutionClient
) -> None:
    client.run("true", salt=os.urandom(8))
    name = 'worker_name="local"'

    def measured() -> dict[str, str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{farm.ports.public}/metrics") as answer:
            page = answer.read().decode()
        return dict(line.rsplit(" ", 1) for line in page.splitlines() if "worker_local" in line)

    def at_rest() -> bool:
        return measured()[f"nativelink_worker_local_running{{{name}}}"] == "0"

    # It cleans up after this action, and after those of other tests, when they are answered.
    wait_for(at_rest, "the end of all actions")
    values = measured()
    assert values[f"nativelink_worker_local_connected{{{name}}}"] == "1"
    assert values[f"nativelink_worker_local_connections_total{{{name}}}"] == "1"
    assert int(values[f"nativelink_worker_local_executed_total{{{name}}}"]) > 0


@pytest.mark.slow
def test_the_metrics_say_what_actions_used(farm: Farm, client: ExecutionClient) -> None:
    def measured(name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{farm.ports.public}/metrics") as answer:
            page = answer.read().decode()
        found = [line for line in page.splitlines() if line.startswith(f"nativelink_{name}_sum{{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    names = ("execution_cpu_time_seconds", "execution_peak_memory_bytes")
    seconds, size = map(measured, names)
    # In a child that nobody asks for its usage.
    program = (
        "import os, time\n"
        "reading, writing = os.pipe()\n"
        "if os.fork():\n"
        "    os.close(writing)\n"
        "    os.read(reading, 1)\n"
        "else:\n"
        "    held = b'x' * (64 << 20)\n"
        "    while time.process_time() < 0.5: pass\n"
    )
    response = client.run("python3", "-c", program, salt=os.urandom(8))
    assert response.result.exit_code == 0, response
    assert measured(names[0]) - seconds > 0.4
    assert measured(names[1]) - size > 64 << 20
