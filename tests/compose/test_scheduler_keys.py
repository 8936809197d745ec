"""What keys of a scheduler and of its worker API do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nativelink.compose.environment import Environment
from nativelink.compose.schedulers import SchedulerBuilder
from nativelink.compose.stores import StoreBuilder
from nativelink.config.specs_services import WorkerApiSpec
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2
from nativelink.scheduler.policy import Policy
from tests.compose.making import served
from tests.execution.farm import Ports, farm_config, open_farm
from tests.execution.gate import Gate, wait_for

pytestmark = pytest.mark.slow


async def test_every_key_of_a_simple_scheduler_arrives_where_it_is_heeded(
    environment: Environment,
):
    spec = {
        "supported_platform_properties": {"cpu": "minimum", "os": "exact"},
        "retain_completed_for_s": 11,
        "client_action_timeout_s": 12,
        "worker_timeout_s": 13,
        "max_action_executing_timeout_s": 14,
        "unacknowledged_kill_timeout_s": 15,
        "max_job_retries": 16,
        "unschedulable_timeout_s": 17,
        "allocation_strategy": "most_recently_used",
        "worker_match_logging_interval_s": 18,
    }
    config = served([], {}, schedulers=[{"name": "S", "simple": spec}])
    seen: dict[str, Any] = {}

    def recorded(policy: Policy, **keys: Any) -> Any:
        seen.update(policy=policy, **keys)
        raise KeyError("seen")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nativelink.compose.schedulers.LocalScheduler", recorded)
        builder = SchedulerBuilder(
            config.schedulers or (),
            StoreBuilder(config.stores, environment),
            environment,
            worker_apis=[
                WorkerApiSpec(scheduler="S", kill_revoked_operations_interval_s=21),
                WorkerApiSpec(scheduler="S", kill_revoked_operations_interval_s=20),
                WorkerApiSpec(scheduler="other", disable_kill_revoked_operations=True),
            ],
        )
        with pytest.raises(KeyError, match="seen"):
            await builder.build_all()
    policy = seen["policy"]
    assert {name: kind.value for name, kind in policy.supported_properties.items()} == {
        "cpu": "minimum",
        "os": "exact",
    }
    assert policy.retain_completed_for_s == 11
    assert policy.client_action_timeout_s == 12
    assert policy.worker_timeout_s == 13
    assert policy.max_action_executing_timeout_s == 14
    assert policy.unacknowledged_kill_timeout_s == 15
    assert policy.max_job_retries == 16
    assert policy.unschedulable_timeout_s == 17
    assert policy.allocation.value == "most_recently_used"
    assert (policy.kill_revoked, policy.kill_interval_s) == (True, 20)
    assert seen["worker_match_logging_interval_s"] == 18


@pytest.mark.parametrize("spared", [False, True])
def test_an_action_that_nobody_waits_for_any_more_is_stopped_unless_the_worker_api_spares_it(
    tmp_path: Path, *, spared: bool
):
    ports, gate, end = Ports.free(), Gate(tmp_path / "gate"), tmp_path / "end"
    config = farm_config(tmp_path, ports, worker={})
    config["servers"][1]["services"]["worker_api"]["disable_kill_revoked_operations"] = spared
    script = f"{gate.script}; echo whole > {end}"
    with open_farm(tmp_path, config, ports) as farm, farm.client() as client:
        action = client.uploaded("sh", "-c", script)
        running = client.execute(action).until(re_pb2.ExecutionStage.EXECUTING)
        gate.wait()
        (pid,) = gate.arrived
        client.cancel(running.name)
        if not spared:
            wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the process")
        else:
            gate.open()
            wait_for(end.exists, "the end of the action")
    assert end.exists() is spared
