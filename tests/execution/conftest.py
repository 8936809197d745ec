"""What most tests of executions begin with: a farm in this process, a client, a gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nativelink.testing.execution import ExecutionClient
from tests.execution.farm import PATIENT, Farm, Ports, farm_config, open_farm
from tests.execution.gate import Gate


@pytest.fixture(scope="session")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """One for all tests that need nothing special of it."""
    folder, ports = tmp_path_factory.mktemp("farm"), Ports.free()
    worker = {"name": "local", "max_inflight_tasks": 4}
    config = farm_config(folder, ports, worker=worker, scheduler=PATIENT)
    with open_farm(folder, config, ports) as running:
        yield running


@pytest.fixture
def client(farm: Farm) -> Iterator[ExecutionClient]:
    with farm.client() as one:
        yield one


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Opened at the end, so that nothing is left waiting."""
    one = Gate(tmp_path / "gate")
    yield one
    one.open()
