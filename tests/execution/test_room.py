"""Workers that have no room: what they turn away runs elsewhere, and does not wait for ever."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nativelink.core.errors import Code
from nativelink.testing.execution import ExecutionClient
from tests.execution.farm import Farm, Json, Ports, farm_config, open_farm, worker_config
from tests.execution.gate import program, wait_for

# Each opens a system of its own.
pytestmark = pytest.mark.slow

PATIENCE_S = 2


@contextmanager
def open_worker(folder: Path, ports: Ports, name: str) -> Iterator[None]:
    """A worker elsewhere, connected."""
    with open_farm(folder, worker_config(folder, ports, name=name), ports) as other:
        agent = other.system.workers[0].agent
        wait_for(lambda: agent.statistics().connected, "a connected worker")
        yield


@pytest.fixture
def refusing(tmp_path: Path) -> Json:
    """Keys of a worker that turns everything away."""
    script = program(tmp_path / "no", "#!/bin/sh\necho the licence server is away; exit 1\n")
    return {"name": "full", "experimental_precondition_script": script}


@pytest.fixture
def farm(tmp_path: Path, refusing: Json) -> Iterator[Farm]:
    """A farm whose own worker turns everything away."""
    ports = Ports.free()
    scheduler = {"unschedulable_timeout_s": PATIENCE_S, "max_job_retries": 1}
    folder = tmp_path / "farm"
    config = farm_config(folder, ports, worker=refusing, scheduler=scheduler)
    with open_farm(folder, config, ports) as running:
        yield running


@pytest.fixture
def client(farm: Farm) -> Iterator[ExecutionClient]:
    with farm.client() as one:
        yield one


def test_what_no_worker_has_room_for_fails_and_says_who_turned_it_away(
    client: ExecutionClient,
) -> None:
    response = client.run("true")
    assert response.status.code == Code.FAILED_PRECONDITION
    assert "the licence server is away" in response.status.message
    assert "unschedulable_timeout_s is 2" in response.status.message
    assert "full" in response.status.message


def test_what_one_worker_has_no_room_for_runs_on_another_one(
    farm: Farm, client: ExecutionClient, tmp_path: Path
) -> None:
    with open_worker(tmp_path / "good", farm.ports, "good"):
        for number in range(20):
            result = client.run("echo", str(number)).result
            assert client.stdout(result) == b"%d\n" % number
            assert result.execution_metadata.worker.startswith("good")


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "little"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nobody here may mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_what_does_not_fit_on_a_workers_disk_runs_where_it_does(
    tmp_path: Path, little_disk: Path
) -> None:
    ports = Ports.free()
    scheduler = {"unschedulable_timeout_s": PATIENCE_S, "max_job_retries": 1}
    config = farm_config(tmp_path / "farm", ports, scheduler=scheduler)
    with (
        open_farm(tmp_path / "farm", config, ports) as farm,
        farm.client() as client,
        open_worker(little_disk, ports, "full"),
    ):
        action = client.uploaded("wc", "-c", "big", inputs={"big": b"x" * (8 << 20)})
        response = client.execute(action).result()
        assert response.status.code == Code.FAILED_PRECONDITION, response
        assert "No space left on device" in response.status.message
        with open_worker(tmp_path / "good", ports, "good"):
            result = client.execute(action).result().result
            assert result.execution_metadata.worker.startswith("good")
