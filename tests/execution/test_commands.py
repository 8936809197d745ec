"""How commands are run, and what becomes of what they leave behind: seen through gRPC."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.testing.execution import ExecutionClient, File
from tests.execution.farm import Farm, Ports, farm_config, open_farm
from tests.execution.gate import wait_for
from tests.worker.processes.launching import SlotTime


def shell(client: ExecutionClient, script: str, **action: object) -> re.ExecuteResponse:
    return client.run("sh", "-c", script, **action)


def assert_ended(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_a_command_prints_and_its_exit_code_come_back(client: ExecutionClient) -> None:
    response = shell(client, "echo out; echo err >&2; exit 3")

    assert response.status.code == Code.OK
    assert response.result.exit_code == 3
    assert client.stdout(response.result) == b"out\n"
    assert client.stderr(response.result) == b"err\n"


def test_arguments_are_passed_as_they_are(client: ExecutionClient) -> None:
    odd = ["", " ", "a b", "'", '"', "$HOME", "*", "\\", "é", "-n", "\n"]

    response = client.run("printf", "[%s]", *odd)

    assert client.stdout(response.result).decode() == "".join(f"[{each}]" for each in odd)


def test_the_environment_is_what_the_command_asks_for_and_nothing_else(
    client: ExecutionClient,
) -> None:
    response = client.run("env", environment={"PATH": "/bin:/usr/bin", "B": "2=3", "A": ""})

    lines = client.stdout(response.result).decode().splitlines()
    assert sorted(lines) == ["A=", "B=2=3", "PATH=/bin:/usr/bin"]


def test_a_command_runs_in_its_working_directory(client: ExecutionClient) -> None:
    response = shell(
        client,
        'cat ../input; echo made > out; basename "$PWD"',
        inputs={"deep": {"input": "the input\n", "er": {}}},
        outputs=["out"],
        working_directory="deep/er",
    )

    assert client.stdout(response.result) == b"the input\ner\n"
    assert client.outputs(response.result) == {"out": b"made\n"}


def test_a_program_among_the_inputs_is_found_from_the_working_directory(
    client: ExecutionClient,
) -> None:
    script = File(b"#!/bin/sh\necho ran $0 $1\n", executable=True)

    response = client.run(
        "../run.sh", "me", inputs={"run.sh": script, "w": {}}, working_directory="w"
    )

    assert client.stdout(response.result) == b"ran ../run.sh me\n"


@pytest.mark.parametrize("program", ["no-such-program", "./no-such-program", "/no/such/program"])
def test_a_program_that_is_not_there_fails_the_action_by_its_name(
    client: ExecutionClient, program: str
) -> None:
    response = client.run(program)

    assert response.status.code == Code.INVALID_ARGUMENT
    assert program in response.status.message


def test_a_file_that_is_no_program_fails_the_action(client: ExecutionClient) -> None:
    response = client.run("./data", inputs={"data": "neither script nor binary"})

    assert response.status.code == Code.INVALID_ARGUMENT
    assert "./data" in response.status.message


def test_a_command_without_arguments_is_refused(client: ExecutionClient) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        client.run()

    assert isinstance(refused.value, grpc.Call)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no arguments" in str(refused.value.details())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_death_by_a_signal_is_an_exit_code_and_keeps_what_was_printed(
    client: ExecutionClient, number: signal.Signals
) -> None:
    response = shell(client, f"echo before; kill -{number.value} $$", outputs=["never"])

    assert response.status.code == Code.OK
    assert response.result.exit_code == 128 + number
    assert client.stdout(response.result) == b"before\n"


@pytest.mark.parametrize(
    "script",
    [
        "sleep 86400 & echo $! > pid",
        "setsid sh -c 'echo $$ > pid; exec sleep 86400' & while [ ! -s pid ]; do :; done",
        # Two forks and a session of its own: init adopts it.
        "(setsid sh -c 'sleep 86400 & echo $! > pid' &) ; while [ ! -s pid ]; do :; done",
        (
            "sh -c 'trap \"\" TERM HUP; echo $$ > pid; while :; do sleep 1; done' & "
            "while [ ! -s pid ]; do :; done"
        ),
    ],
    ids=["child", "session", "daemon", "deaf"],
)
def test_nothing_that_a_command_started_survives_it(client: ExecutionClient, script: str) -> None:
    response = shell(client, script, outputs=["pid"])

    assert response.result.exit_code == 0, client.stderr(response.result)
    assert_ended(int(client.outputs(response.result)["pid"]))


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Farm, SlotTime]]:
    """A farm in which time passes when the test says so."""
    time, ports = SlotTime(tmp_path, monkeypatch), Ports.free()
    folder = tmp_path / "farm"
    with open_farm(folder, farm_config(folder, ports, worker={}), ports) as running:
        yield running, time


@pytest.mark.slow
def test_at_the_timeout_everything_dies_and_what_there_is_is_kept(
    timed: tuple[Farm, SlotTime], tmp_path: Path
) -> None:
    farm, time = timed
    done = tmp_path / "done"
    script = (
        "echo so far; echo and this >&2; echo half > out; mkdir d; echo deep > d/file; "
        f"(setsid sh -c 'echo $$ > pid; touch {done}; exec sleep 86400' &); sleep 86400"
    )
    outputs = ["out", "d", "pid", "never"]
    with farm.client() as client:
        action = client.uploaded("sh", "-c", script, outputs=outputs, timeout_s=600.5)
        execution = client.execute(action)
        wait_for(done.exists, "all that the action does")
        time.pass_an_hour()
        response = execution.result()
        check_what_was_kept(client, response)


def check_what_was_kept(client: ExecutionClient, response: re.ExecuteResponse) -> None:
    assert response.status.code == Code.DEADLINE_EXCEEDED
    assert "600.5 s" in response.status.message
    result = response.result
    assert result.exit_code != 0
    assert client.stdout(result) == b"so far\n"
    assert client.stderr(result) == b"and this\n"
    outputs = client.outputs(result)
    assert outputs["out"] == b"half\n"
    assert_ended(int(outputs["pid"]))
    (directory,) = result.output_directories
    assert [each.name for each in client.tree(directory).root.files] == ["file"]


def test_a_timeout_is_never_answered_from_the_cache(client: ExecutionClient) -> None:
    action = client.uploaded("sleep", "86400", timeout_s=0.05, salt=b"timeout")

    first = client.execute(action).result()
    second = client.execute(action).result()

    assert first.status.code == second.status.code == Code.DEADLINE_EXCEEDED
    assert not second.cached_result


def test_a_longer_timeout_than_the_worker_allows_is_refused_with_both_numbers(
    client: ExecutionClient,
) -> None:
    response = client.run("true", timeout_s=1201)

    assert response.status.code == Code.INVALID_ARGUMENT
    assert "1201 s" in response.status.message
    assert "1200 s" in response.status.message


def test_nothing_of_an_action_stays_on_the_worker(client: ExecutionClient, farm: Farm) -> None:
    script = "mkdir -p d/e && echo x > d/e/f && chmod 500 d/e d && chmod 000 d && echo $PWD"

    response = shell(client, script)

    here = Path(client.stdout(response.result).decode().strip())
    assert here.is_relative_to(farm.work)
    wait_for(lambda: not here.exists(), "the end of the action's directory")


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


@pytest.mark.slow
def test_a_gibibyte_of_stdout_costs_no_memory(client: ExecutionClient) -> None:
    # The worker, the cache and this client are one process.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_bytes()

    response = client.run("head", "-c", str(1 << 30), "/dev/zero", salt=b"gibibyte")

    assert response.status.code == Code.OK
    assert response.result.stdout_digest.size_bytes == 1 << 30
    assert _peak_bytes() - before < 64 << 20
    read = sum(map(len, client.read_chunks(response.result.stdout_digest, limit=100 << 20)))
    assert read == 100 << 20
