"""Processes of a farm that are killed or told to end while an action runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.testing.execution import ExecutionClient, status_of
from tests.clients.farm import FarmProcesses, open_processes
from tests.execution.gate import Gate, wait_for

# Processes of ours take a second to start.
pytestmark = pytest.mark.slow

EXECUTING = re.ExecutionStage.EXECUTING


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarmProcesses]:
    with open_processes(tmp_path_factory.mktemp("processes")) as running:
        yield running


@pytest.fixture
def client(farm: FarmProcesses) -> Iterator[ExecutionClient]:
    with farm.client() as one:
        yield one


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_an_action_of_a_worker_that_is_killed_runs_elsewhere_and_dies_here(
    farm: FarmProcesses, client: ExecutionClient, gate: Gate
) -> None:
    worker = farm.add_worker("killed", max_inflight_tasks=1)
    action = client.uploaded("sh", "-c", f"(setsid sleep 86400 &); {gate.script}")
    execution = client.execute(action)
    gate.wait()

    worker.kill()
    wait_for(lambda: is_gone(gate.arrived[0]), "the end of what the dead worker ran")
    other = farm.add_worker("heir", max_inflight_tasks=1)
    gate.wait(2)
    gate.open()
    response = execution.result()

    assert response.status.code == Code.OK
    assert response.result.execution_metadata.worker.startswith("heir")
    other.drain()
    assert other.process.wait(240) == 0


def test_a_worker_that_is_told_to_end_finishes_its_action_first(
    farm: FarmProcesses, client: ExecutionClient, gate: Gate
) -> None:
    worker = farm.add_worker("polite")
    execution = client.execute(client.uploaded("sh", "-c", f"{gate.script}; echo to the end"))
    gate.wait()

    worker.drain()
    wait_for(lambda: "draining" in worker.log.read_text(), "the beginning of the end")
    gate.open()
    response = execution.result()

    assert client.stdout(response.result) == b"to the end\n"
    assert worker.process.wait(240) == 0
    assert len(gate.arrived) == 1


def test_a_scheduler_that_is_killed_has_its_workers_back_when_it_runs_again(
    farm: FarmProcesses, gate: Gate
) -> None:
    worker = farm.add_worker("faithful")
    with farm.client() as before:
        action = before.uploaded("sh", "-c", f"{gate.script}; echo again")
        execution = before.execute(action)
        gate.wait()

        farm.server.kill()

        with pytest.raises(grpc.RpcError) as broken:
            execution.result()
        # A client knows by this that it is to ask again.
        assert status_of(broken.value).code == Code.UNAVAILABLE
    farm.server.start()
    farm.wait_until_ready()
    gate.open()
    with farm.client() as after:
        response = after.execute(action).result()

        assert after.stdout(response.result) == b"again\n"
        # The new scheduler knows of nothing that ran before.
        assert len(gate.arrived) == 2
        assert is_gone(gate.arrived[0])
    worker.drain()
    assert worker.process.wait(240) == 0
