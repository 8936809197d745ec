"""One farm in this process for all tests that need nothing special of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nativelink.testing.execution import ExecutionClient
from tests.execution.farm import PATIENT, Farm, Ports, farm_config, open_farm


@pytest.fixture(scope="session")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    folder, ports = tmp_path_factory.mktemp("farm"), Ports.free()
    worker = {"name": "local", "max_inflight_tasks": 4}
    config = farm_config(folder, ports, worker=worker, scheduler=PATIENT)
    with open_farm(folder, config, ports) as running:
        yield running


@pytest.fixture
def client(farm: Farm) -> Iterator[ExecutionClient]:
    with farm.client() as one:
        yield one
