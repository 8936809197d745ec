"""What keys of a worker do, seen from outside of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2
from nativelink.stores.remote.grpc_cas import GrpcCasStore
from tests.clients.certificates import Certificates
from tests.execution.farm import Ports, farm_config, open_farm, worker_config
from tests.execution.gate import Gate

pytestmark = pytest.mark.slow


def test_a_worker_runs_as_many_actions_as_it_says(tmp_path: Path):
    ports, gate = Ports.free(), Gate(tmp_path / "gate")
    config = farm_config(tmp_path, ports, worker={"max_inflight_tasks": 2})
    with open_farm(tmp_path, config, ports) as farm, farm.client() as client:
        actions = [client.uploaded("sh", "-c", gate.script, salt=b"%d" % n) for n in range(3)]
        running = [client.execute(action) for action in actions]
        gate.wait(2)
        # The third one is in the queue, and stays there.
        running[2].until(re_pb2.ExecutionStage.QUEUED)
        assert len(gate.arrived) == 2
        gate.open()
        for each in running:
            assert each.result().status.code == Code.OK
    assert len(gate.arrived) == 3


@pytest.mark.parametrize("count", [1, 3])
def test_a_worker_fetches_as_many_inputs_at_once_as_the_key_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
):
    ports = Ports.free()
    fetching = most = 0
    real = GrpcCasStore.get

    async def counted(self: GrpcCasStore, key: Any, *arguments: Any, **keys: Any) -> None:
        nonlocal fetching, most
        fetching += 1
        most = max(most, fetching)
        await asyncio.sleep(0)
        try:
            await real(self, key, *arguments, **keys)
        finally:
            fetching -= 1

    inputs = {f"{n}": b"input %d" % n for n in range(12)}
    cache = {"max_concurrent_fetches": count, "cache_root": str(tmp_path / "worker/kept")}
    with (
        open_farm(tmp_path / "farm", farm_config(tmp_path / "farm", ports), ports) as farm,
        farm.client() as client,
    ):
        worker = worker_config(tmp_path / "worker", ports, worker={"directory_cache": cache})
        with open_farm(tmp_path / "worker", worker, ports):
            # What an action is made of comes first, and is none of its inputs.
            assert client.run("true").result.exit_code == 0
            monkeypatch.setattr(GrpcCasStore, "get", counted)
            assert client.run("cat", *inputs, inputs=inputs).result.exit_code == 0
            monkeypatch.undo()
    assert most == count


def test_a_worker_shows_its_certificate_to_its_scheduler(
    tmp_path: Path, certificates: Certificates
):
    ports = Ports.free()
    config = farm_config(tmp_path / "farm", ports)
    api = config["servers"][1]["listener"]["http"]
    api["tls"] = {
        "cert_file": str(certificates.server.certificate),
        "key_file": str(certificates.server.key),
        "client_ca_file": str(certificates.authority),
    }
    tls = {
        "ca_file": str(certificates.authority),
        "cert_file": str(certificates.client.certificate),
        "key_file": str(certificates.client.key),
    }
    endpoint = {"uri": f"grpcs://localhost:{ports.workers}", "tls_config": tls}
    with open_farm(tmp_path / "farm", config, ports) as farm, farm.client() as client:
        worker = worker_config(tmp_path / "worker", ports, worker={"worker_api_endpoint": endpoint})
        with open_farm(tmp_path / "worker", worker, ports):
            assert client.run("true").result.exit_code == 0
