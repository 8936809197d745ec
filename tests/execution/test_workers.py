"""Workers elsewhere: ones that die, leave, lose their connection or know another time; foreigners.

Farm and workers are systems of their own, connected by sockets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.clock import SystemClock
from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.testing.execution import ExecutionClient
from tests.execution.farm import PATIENT, Farm, Ports, farm_config, open_farm, worker_config
from tests.execution.foreign import ForeignScheduler, ForeignWorker
from tests.execution.gate import Gate, wait_for
from tests.execution.proxy import Proxy

# Each opens at least one system more.
pytestmark = pytest.mark.slow

EXECUTING = re.ExecutionStage.EXECUTING


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A farm without workers."""
    folder, ports = tmp_path_factory.mktemp("base"), Ports.free()
    with open_farm(folder, farm_config(folder, ports, scheduler=PATIENT), ports) as running:
        yield running


@pytest.fixture
def client(base: Farm) -> Iterator[ExecutionClient]:
    with base.client() as one:
        yield one


@contextmanager
def open_worker(
    folder: Path, ports: Ports, *, name: str = "elsewhere", skew_s: float = 0, **worker: Any
) -> Iterator[Farm]:
    # It misses its scheduler when the connection breaks, and no sooner because all are slow.
    endpoint = {"uri": f"grpc://127.0.0.1:{ports.workers}", "timeout": 60}
    worker = {"worker_api_endpoint": endpoint, **worker}
    config = worker_config(folder, ports, name=name, worker=worker)
    with open_farm(folder, config, ports, clock=SkewedClock(skew_s)) as running:
        agent = running.system.workers[0].agent
        wait_for(lambda: agent.statistics().connected, "a connected worker")
        yield running


class SkewedClock(SystemClock):
    """The clock of a machine that nobody set."""

    def __init__(self, skew_s: float) -> None:
        self._skew_s = skew_s

    def time(self) -> float:
        return super().time() + self._skew_s


def test_a_worker_elsewhere_fetches_inputs_and_brings_outputs(
    base: Farm, client: ExecutionClient, tmp_path: Path
) -> None:
    tree = {"d": {"input": "from afar"}}

    with open_worker(tmp_path / "w", base.ports):
        response = client.run("cp", "-r", "d", "out", inputs=tree, outputs=["out"])

    (directory,) = response.result.output_directories
    (file,) = client.tree(directory).root.files
    assert client.read(file.digest) == b"from afar"
    assert response.result.execution_metadata.worker.startswith("elsewhere")


def test_an_action_that_changed_its_inputs_runs_again_with_fresh_ones(
    base: Farm, client: ExecutionClient, tmp_path: Path
) -> None:
    # The farm's CAS still has what the action spoilt on the worker's disk.
    script = "chmod u+w input; echo more >> input; cp input out"

    with open_worker(tmp_path / "w", base.ports):
        response = client.run(
            "sh", "-c", script, inputs={"input": "once\n"}, outputs=["out"], salt=b"changed"
        )

    assert response.status.code == Code.OK, response.status
    assert client.outputs(response.result) == {"out": b"once\nmore\n"}


@pytest.mark.parametrize("skew_s", [-86400.0 * 365, 86400.0 * 365])
def test_a_worker_whose_clock_is_wrong_works_all_the_same(
    base: Farm, client: ExecutionClient, tmp_path: Path, skew_s: float
) -> None:
    with open_worker(tmp_path / "w", base.ports, skew_s=skew_s):
        in_time = client.run("sh", "-c", "echo made > out", outputs=["out"], timeout_s=300)
        late = client.run("sh", "-c", "sleep 86400", timeout_s=0.1, salt=str(skew_s).encode())

    assert client.outputs(in_time.result) == {"out": b"made\n"}
    assert 0 <= in_time.result.execution_metadata.virtual_execution_duration.ToSeconds() < 300
    assert late.status.code == Code.DEADLINE_EXCEEDED


def test_a_result_crosses_a_broken_connection_once(
    base: Farm, client: ExecutionClient, tmp_path: Path, gate: Gate
) -> None:
    with Proxy(base.ports.workers) as proxy, ExitStack() as workers:
        through = Ports(base.ports.public, proxy.port)
        worker = workers.enter_context(open_worker(tmp_path / "w", through))
        agent = worker.system.workers[0].agent
        execution = client.execute(client.uploaded("sh", "-c", f"{gate.script}; echo done"))
        execution.until(EXECUTING)
        gate.wait()

        proxy.cut()
        wait_for(lambda: not agent.statistics().connected, "the loss of the connection")
        gate.open()
        wait_for(lambda: agent.statistics().executed == 1, "the end of the action")
        proxy.mend()
        response = execution.result()

        assert client.stdout(response.result) == b"done\n"
        assert len(gate.arrived) == 1
        assert agent.statistics().connections == 2


def test_an_action_outlives_a_connection_that_comes_back(
    base: Farm, client: ExecutionClient, tmp_path: Path, gate: Gate
) -> None:
    with Proxy(base.ports.workers) as proxy, ExitStack() as workers:
        through = Ports(base.ports.public, proxy.port)
        worker = workers.enter_context(open_worker(tmp_path / "w", through))
        agent = worker.system.workers[0].agent
        execution = client.execute(client.uploaded("sh", "-c", gate.script)).until(EXECUTING)
        gate.wait()

        proxy.cut()
        proxy.mend()
        wait_for(lambda: agent.statistics().connections == 2, "another connection")
        gate.open()

        assert execution.result().status.code == Code.OK
        assert len(gate.arrived) == 1


def test_a_connection_that_died_in_silence_is_noticed_by_both_sides(
    base: Farm, client: ExecutionClient, tmp_path: Path, gate: Gate
) -> None:
    with Proxy(base.ports.workers) as proxy, ExitStack() as workers:
        through = Ports(base.ports.public, proxy.port)
        endpoint = {"uri": f"grpc://127.0.0.1:{proxy.port}", "timeout": 1}
        worker = workers.enter_context(
            open_worker(tmp_path / "w", through, worker_api_endpoint=endpoint)
        )
        agent = worker.system.workers[0].agent
        execution = client.execute(client.uploaded("sh", "-c", gate.script)).until(EXECUTING)
        gate.wait()

        proxy.freeze()
        # A machine that is slow may make it miss more than this one.
        wait_for(lambda: agent.statistics().connections >= 2, "another connection")
        gate.open()

        assert execution.result().status.code == Code.OK
        assert len(gate.arrived) == 1


def test_a_worker_that_leaves_finishes_what_it_has(
    base: Farm, client: ExecutionClient, tmp_path: Path, gate: Gate
) -> None:
    with open_worker(tmp_path / "leaving", base.ports) as leaving:
        execution = client.execute(client.uploaded("sh", "-c", gate.script)).until(EXECUTING)
        gate.wait()
        gate.open()
        assert leaving.call(leaving.system.workers[0].agent.leave(30))

    assert execution.result().status.code == Code.OK
    assert len(gate.arrived) == 1


def test_what_a_leaving_worker_cannot_finish_runs_elsewhere_at_once(
    base: Farm, client: ExecutionClient, tmp_path: Path, gate: Gate
) -> None:
    with open_worker(tmp_path / "leaving", base.ports, name="leaving") as leaving:
        execution = client.execute(client.uploaded("sh", "-c", gate.script)).until(EXECUTING)
        gate.wait()
        with open_worker(tmp_path / "staying", base.ports, name="staying"):
            assert not leaving.call(leaving.system.workers[0].agent.leave(0.05))
            gate.wait(2)
            gate.open()
            response = execution.result()

    assert response.status.code == Code.OK
    assert response.result.execution_metadata.worker.startswith("staying")


def test_an_action_that_no_worker_can_run_says_so_and_runs_when_one_comes(
    base: Farm, client: ExecutionClient, tmp_path: Path
) -> None:
    action = client.uploaded("echo", "at last", platform={"OSFamily": "plan9"})
    with open_worker(tmp_path / "linux", base.ports):
        execution = client.execute(action).until(re.ExecutionStage.QUEUED)

        def note() -> bytes:
            return client.operation(execution.name).metadata.value

        wait_for(lambda: b"OSFamily" in note(), "a word about the property")
        properties = {"OSFamily": {"values": ["plan9"]}}
        with open_worker(tmp_path / "plan9", base.ports, platform_properties=properties):
            response = execution.result()

    assert client.stdout(response.result) == b"at last\n"


def test_a_foreign_worker_executes_for_our_scheduler(base: Farm, client: ExecutionClient) -> None:
    with base.client() as cas, ForeignWorker(base.ports.workers, cas) as worker:
        execution = client.execute(client.uploaded("sh", "-c", "echo foreign; exit 3"))
        response = execution.result()

        (order,) = worker.orders
        assert order.worker_id == worker.worker_id
        assert order.execute_request.instance_name == "main"
        assert order.HasField("queued_timestamp")
    assert worker.worker_id.startswith("foreign-")
    assert response.result.exit_code == 3
    assert client.stdout(response.result) == b"foreign\n"
    assert response.result.execution_metadata.worker == worker.worker_id


def test_our_worker_executes_for_a_foreign_scheduler(
    base: Farm, client: ExecutionClient, tmp_path: Path, gate: Gate
) -> None:
    quick = client.uploaded("sh", "-c", "echo ours > out", outputs=["out"])
    waiting = client.uploaded("sh", "-c", gate.script)

    def request(action: re.Digest) -> re.ExecuteRequest:
        return re.ExecuteRequest(
            instance_name="main",
            action_digest=action,
            digest_function=re.DigestFunction.SHA256,
        )

    with ForeignScheduler() as scheduler:
        ports = Ports(base.ports.public, scheduler.port)
        with open_worker(tmp_path / "w", ports, name="ours", max_inflight_tasks=3):
            hello = scheduler.hellos.get(timeout=60)
            assert hello.worker_id_prefix == "ours"
            assert hello.max_inflight_tasks == 3
            assert {(each.name, each.value) for each in hello.properties} == {("OSFamily", "linux")}

            scheduler.start("one", request(quick))
            result = scheduler.result()
            assert result.operation_id == "one"
            response = result.execute_response
            assert client.outputs(response.result) == {"out": b"ours\n"}
            # NativeLink takes no result without these.
            metadata = response.result.execution_metadata
            stamps = [field.name for field, _ in metadata.ListFields()]
            assert len([name for name in stamps if name.endswith("_timestamp")]) == 9
            assert response.result.HasField("stdout_digest")
            assert response.result.HasField("stderr_digest")

            scheduler.start("two", request(waiting))
            gate.wait()
            scheduler.kill("two")
            (pid,) = gate.arrived
            wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the process")
            killed = scheduler.result()
            assert (killed.operation_id, killed.internal_error.code) == ("two", Code.ABORTED)

            # It does not resume anything: a worker that comes back is a new one to it.
            scheduler.start("three", request(waiting))
            gate.wait(2)
            scheduler.hang_up()
            scheduler.hellos.get(timeout=60)
            wait_for(lambda: not Path(f"/proc/{gate.arrived[1]}").exists(), "its end too")
            scheduler.start("four", request(quick))
            assert scheduler.result().operation_id == "four"
