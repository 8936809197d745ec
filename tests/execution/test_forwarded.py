"""A server that executes nothing itself: it passes executions on to a farm elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.testing.execution import Blobs, ExecutionClient, make_action
from tests.execution.farm import Farm, Json, Ports, open_farm, public_services
from tests.execution.gate import Gate

# Opens a system more.
pytestmark = pytest.mark.slow


def front_config(farm: Ports, ports: Ports) -> Json:
    """A server whose stores and scheduler are those of a farm."""
    upstream = {
        "instance_name": "main",
        "endpoints": [{"address": f"grpc://127.0.0.1:{farm.public}"}],
    }
    return {
        "stores": [
            {"name": "CAS", "grpc": {**upstream, "store_type": "cas"}},
            {"name": "AC", "grpc": {**upstream, "store_type": "ac"}},
        ],
        "schedulers": [
            {"name": "FAR", "grpc": {"endpoint": {"address": f"grpc://127.0.0.1:{farm.public}"}}}
        ],
        "servers": [
            {
                "listener": {"http": {"socket_address": f"127.0.0.1:{ports.public}"}},
                "services": public_services("FAR"),
            }
        ],
    }


@contextmanager
def open_front(farm: Farm, folder: Path) -> Iterator[ExecutionClient]:
    ports = Ports.free()
    with (
        open_farm(folder, front_config(farm.ports, ports), ports) as front,
        front.client() as client,
    ):
        yield client


def test_an_execution_is_passed_on_and_its_result_comes_back(farm: Farm, tmp_path: Path) -> None:
    with open_front(farm, tmp_path) as client:
        response = client.run(
            "sh", "-c", "cat in; echo said >&2; cp in out; exit 3",
            inputs={"in": "from afar\n"},
            outputs=["out"],
        )  # fmt: skip
        assert response.status.code == Code.OK, response.status.message
        assert response.result.exit_code == 3
        assert client.stdout(response.result) == b"from afar\n"
        assert client.stderr(response.result) == b"said\n"
        assert client.outputs(response.result) == {"out": b"from afar\n"}


def test_what_is_passed_on_is_looked_after_by_its_name(farm: Farm, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with open_front(farm, tmp_path) as client:
        action = client.uploaded("sh", "-c", gate.script)
        execution = client.execute(action).until(re.ExecutionStage.EXECUTING)
        gate.wait()
        name = execution.name
        assert name in {each.name for each in client.operations("stage=EXECUTING")}
        assert not client.operation(name).done
        execution.leave()
        again = client.wait_execution(name).until(re.ExecutionStage.EXECUTING)
        client.cancel(name)
        assert again.result().status.code == Code.CANCELLED
        with farm.client() as direct:
            assert direct.operation(name).done, "it is the farm's own"


def test_missing_inputs_are_named_to_who_can_upload_them(farm: Farm, tmp_path: Path) -> None:
    with open_front(farm, tmp_path) as client:
        blobs = Blobs()
        action = make_action(["cat", "in"], blobs, inputs={"in": f"never uploaded {tmp_path}"})
        missing = Blobs().add(f"never uploaded {tmp_path}".encode())
        del blobs.data[missing.hash]
        client.upload(blobs)
        status = client.execute(action).result().status
        assert status.code == Code.FAILED_PRECONDITION
        assert missing.hash in str(status.details)
