"""Executions as clients follow, share, find and end them."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest

from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.testing.execution import Execution, ExecutionClient, status_of
from nativelink.testing.reapi import digest_of
from tests import plain_http
from tests.execution.farm import Farm
from tests.execution.gate import Gate, wait_for

COMPLETED = re.ExecutionStage.COMPLETED
EXECUTING = re.ExecutionStage.EXECUTING


class Counter:
    """Counts how often an action runs, by a file outside of it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def script(self) -> str:
        return f"echo x >> {self._file}"

    @property
    def runs(self) -> int:
        return self._file.read_text().count("x") if self._file.exists() else 0


@pytest.fixture
def counter(tmp_path: Path) -> Counter:
    return Counter(tmp_path / "count")


def test_a_result_is_cached_and_a_second_request_gets_it(
    client: ExecutionClient, counter: Counter
) -> None:
    action = client.uploaded("sh", "-c", counter.script)

    first, second = client.execute(action).result(), client.execute(action).result()

    assert not first.cached_result
    assert second.cached_result
    assert second.result.stdout_digest == first.result.stdout_digest
    assert counter.runs == 1
    assert client.get_action_result(action).exit_code == 0


def test_a_request_may_skip_the_cache(client: ExecutionClient, counter: Counter) -> None:
    action = client.uploaded("sh", "-c", counter.script)
    client.execute(action).result()

    again = client.execute(action, skip_cache_lookup=True).result()

    assert not again.cached_result
    assert counter.runs == 2


def test_an_action_that_is_not_to_be_cached_runs_every_time(
    client: ExecutionClient, counter: Counter
) -> None:
    action = client.uploaded("sh", "-c", counter.script, do_not_cache=True)

    results = [client.execute(action).result() for _ in range(2)]

    assert counter.runs == 2
    assert not any(each.cached_result for each in results)
    with pytest.raises(grpc.RpcError) as absent:
        client.get_action_result(action)
    assert status_of(absent.value).code == Code.NOT_FOUND


def test_a_failure_is_not_cached(client: ExecutionClient, counter: Counter) -> None:
    action = client.uploaded("sh", "-c", f"{counter.script}; exit 1")

    results = [client.execute(action).result() for _ in range(2)]

    assert [each.result.exit_code for each in results] == [1, 1]
    assert counter.runs == 2


def test_a_cached_result_whose_output_is_gone_is_no_result(
    client: ExecutionClient, farm: Farm, counter: Counter
) -> None:
    name = f"gone {os.urandom(4).hex()}"
    action = client.uploaded("sh", "-c", f"{counter.script}; echo {name} > out", outputs=["out"])
    first = client.execute(action).result()
    farm.content_path(first.result.output_files[0].digest.hash).unlink()
    # The store finds out when somebody reads it.
    with pytest.raises(grpc.RpcError):
        client.outputs(first.result)

    second = client.execute(action).result()

    assert counter.runs == 2
    assert client.outputs(second.result)["out"] == f"{name}\n".encode()


def test_the_stages_and_all_times_of_an_execution_are_told_in_order(
    client: ExecutionClient, gate: Gate
) -> None:
    execution = client.execute(client.uploaded("sh", "-c", gate.script)).until(EXECUTING)
    gate.open()
    response = execution.result()

    stages = [Execution.stage_of(each) for each in execution.seen]
    assert stages == sorted(stages)
    assert stages[-1] == COMPLETED
    assert {each.name for each in execution.seen} == {execution.name}
    executing = execution.metadata_of(execution.seen[-2])
    assert executing.partial_execution_metadata.worker.startswith("local")
    metadata = response.result.execution_metadata
    steps = [
        metadata.queued_timestamp,
        metadata.worker_start_timestamp,
        metadata.input_fetch_start_timestamp,
        metadata.input_fetch_completed_timestamp,
        metadata.execution_start_timestamp,
        metadata.execution_completed_timestamp,
        metadata.output_upload_start_timestamp,
        metadata.output_upload_completed_timestamp,
        metadata.worker_completed_timestamp,
    ]
    times = [each.ToNanoseconds() for each in steps]
    assert times == sorted(times)
    assert times[0] > 0
    assert metadata.virtual_execution_duration.ToNanoseconds() > 0


def test_two_clients_share_an_execution_and_one_may_leave(
    farm: Farm, client: ExecutionClient, gate: Gate, counter: Counter
) -> None:
    action = client.uploaded("sh", "-c", f"{counter.script}; {gate.script}; echo done")
    with farm.client() as other:
        first = client.execute(action).until(EXECUTING)
        second = other.execute(action).until(EXECUTING)
        gate.wait()

        first.leave()
        gate.open()
        response = second.result()

        assert other.stdout(response.result) == b"done\n"
        assert counter.runs == 1


def test_a_client_comes_back_for_its_execution(
    farm: Farm, client: ExecutionClient, gate: Gate, counter: Counter
) -> None:
    action = client.uploaded("sh", "-c", f"{counter.script}; {gate.script}")
    with farm.client() as before:
        name = before.execute(action).until(EXECUTING).name

    waiting = client.wait_execution(name)
    gate.open()

    assert waiting.result().status.code == Code.OK
    assert counter.runs == 1
    # And again, when it is long over.
    assert client.wait_execution(name).result().status.code == Code.OK
    assert client.operation(name).done


def test_an_operation_that_nobody_knows_is_not_found(client: ExecutionClient) -> None:
    with pytest.raises(grpc.RpcError) as unknown:
        client.wait_execution("main/nobody").result()

    assert status_of(unknown.value).code == Code.NOT_FOUND
    assert "main/nobody" in status_of(unknown.value).message


def test_a_cancelled_operation_ends_and_its_process_dies_and_there_is_room_again(
    client: ExecutionClient, farm: Farm, gate: Gate
) -> None:
    def workers() -> dict[str, set[str]]:
        shown = plain_http.get(f"http://127.0.0.1:{farm.ports.public}/admin/workers").json()
        return {
            worker["worker_id"]: set(worker["running"])
            for scheduler in shown.values()
            for worker in scheduler
        }

    before = workers()
    execution = client.execute(client.uploaded("sh", "-c", gate.script))
    execution.until(EXECUTING)
    gate.wait()
    (pid,) = gate.arrived
    ((mine, where),) = [
        (each, name) for name, running in workers().items() for each in running - before[name]
    ]

    client.cancel(execution.name)

    assert execution.result().status.code == Code.CANCELLED
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the process")
    # The same worker: it has said so, and was not given up.
    wait_for(lambda: mine not in workers()[where], "the worker's word that it has stopped")


def test_operations_are_listed_by_what_they_are(client: ExecutionClient, gate: Gate) -> None:
    running = client.execute(client.uploaded("sh", "-c", gate.script)).until(EXECUTING)
    over = client.execute(client.uploaded("true", salt=os.urandom(4)))
    over.result()

    def names(wanted: str) -> set[str]:
        return {each.name for each in client.operations(wanted)}

    assert running.name in names("stage=EXECUTING")
    assert over.name not in names("stage=EXECUTING")
    assert over.name in names("stage=COMPLETED")
    assert {running.name, over.name} <= names("")
    metadata = running.metadata_of(running.seen[-1])
    assert names(f"action={metadata.action_digest.hash}") == {running.name}


def test_an_operation_can_be_waited_for_so_long_and_no_longer(
    client: ExecutionClient, gate: Gate
) -> None:
    name = client.execute(client.uploaded("sh", "-c", gate.script)).until(EXECUTING).name
    request = operations_pb2.WaitOperationRequest(name=name)
    request.timeout.FromMilliseconds(50)
    path = "/google.longrunning.Operations/WaitOperation"

    assert not client.unary(path, request, operations_pb2.Operation).done
    gate.open()
    request.timeout.FromSeconds(30)
    assert client.unary(path, request, operations_pb2.Operation).done


def test_an_action_that_names_no_digest_is_refused(client: ExecutionClient) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        client.execute(re.Digest(hash="none", size_bytes=1)).result()

    assert status_of(refused.value).code == Code.INVALID_ARGUMENT


def test_an_instance_that_executes_nothing_is_named(farm: Farm) -> None:
    with (
        ExecutionClient(f"127.0.0.1:{farm.ports.public}", instance="nobody") as stranger,
        pytest.raises(grpc.RpcError) as refused,
    ):
        stranger.execute(digest_of(b"x")).result()

    assert "nobody" in status_of(refused.value).message
