"""Roles die and come back in the middle of real builds on workers, and no build fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.bazel import Bazel
from tests.clients.programs import CLIENT_TESTS
from tests.clients.stages import STAGE_ACTIONS, STAGES, Stages
from tests.execution.gate import wait_for
from tests.roles.region import Role, open_region

pytestmark = CLIENT_TESTS

_POOLS = json.dumps(
    [{"name": "default", "properties": {"ISA": "x86-64", "OSFamily": "Linux"}, "slots": 8}]
)


@dataclass(frozen=True)
class Farm:
    """A region with one machine of every role."""

    address: str
    cas: Role
    scheduler: Role
    worker: Role

    def flags(self) -> list[str]:
        """What a user would put into .bazelrc."""
        return [
            f"--remote_executor={self.address}",
            f"--remote_cache={self.address}",
            "--spawn_strategy=remote",
            "--remote_default_exec_properties=OSFamily=linux",
            # Enough for a process to start on a slow machine.
            "--remote_retries=30",
            "--remote_timeout=60",
        ]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with open_region(tmp_path_factory.mktemp("region")) as region:
        scheduler = region.start("scheduler", NATIVELINK_POOLS=_POOLS)
        cas = region.start("cas")
        worker = region.start("worker", "i-0789", NATIVELINK_JOBS="8", NATIVELINK_CPU_COUNT="8")
        wait_for(scheduler.workers, "the worker joins")
        yield Farm(f"grpc://127.0.0.1:{region.client_port}", cas, scheduler, worker)


@pytest.mark.parametrize("victim", ["cas", "scheduler", "worker"])
def test_a_role_that_is_killed_and_started_again_costs_a_build_nothing(
    farm: Farm, victim: str, bazel: Bazel, stages: Stages, tmp_path: Path
) -> None:
    role: Role = getattr(farm, victim)
    stages.close()
    bazel.clean()
    # What others of these tests made would be hits.
    flags = [*farm.flags(), f"--action_env=VICTIM={victim}"]
    log = tmp_path / "log"
    with bazel.start(*flags, targets=stages.targets, log=log) as build:
        for stage in range(STAGES):
            stages.wait(stage, build, log)
            # Its gate runs on the worker meanwhile; what comes next has to be asked for.
            if stage % 2 == 0:
                role.kill()
                stages.open(stage)
                role.start()
            else:
                stages.open(stage)
        code = build.wait(120)

    output = log.read_text()
    assert code == 0, output
    assert f"{STAGES * (STAGE_ACTIONS + 1)} remote" in output, output
    assert "failed" not in output.lower(), output
