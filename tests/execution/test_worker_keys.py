"""What the keys of a worker do to actions: each seen from a client."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nativelink.core.errors import Code
from nativelink.testing.execution import Blobs, ExecutionClient, make_action
from tests import plain_http
from tests.execution.farm import Farm, Json, Ports, farm_config, open_farm
from tests.execution.gate import Gate, program, wait_for
from tests.worker.processes.launching import SlotTime

pytestmark = pytest.mark.slow

ENTRYPOINT = """\
#!/bin/sh
echo before "$1"
exec "$@"
"""


@contextmanager
def worker(folder: Path, *, scheduler: Json | None = None, **keys: object) -> Iterator[Farm]:
    """A farm whose only worker has these keys."""
    ports = Ports.free()
    config = farm_config(folder, ports, worker={"name": "one", **keys}, scheduler=scheduler)
    with open_farm(folder, config, ports) as running:
        yield running


def shell(client: ExecutionClient, script: str, **action: object) -> bytes:
    response = client.run("sh", "-c", script, **action)
    assert response.status.code == Code.OK, response.status.message
    return client.stdout(response.result)


def test_actions_run_where_and_how_the_keys_say(tmp_path: Path) -> None:
    keys = {
        "work_directory": str(tmp_path / "somewhere"),
        "entrypoint": program(tmp_path / "entrypoint", ENTRYPOINT),
        "max_action_timeout_s": 7,
        "max_inflight_tasks": 2,
        "platform_properties": {
            "OSFamily": {"values": ["linux"]},
            "made": {"query_cmd": "printf 'first\\nsecond\\n'"},
        },
        "additional_environment": {
            "FIXED": {"value": "a text"},
            "ASKED": {"property": "made"},
            "MILLIS": "timeout_millis",
        },
    }
    scheduler = {"supported_platform_properties": {"made": "exact", "OSFamily": "exact"}}
    with worker(tmp_path, scheduler=scheduler, **keys) as farm, farm.client() as client:
        platform = {"made": "second"}
        said = shell(
            client,
            'echo "$PWD|$FIXED|$ASKED|$MILLIS"',
            platform=platform,
            timeout_s=3,
        )
        before, line = said.decode().splitlines()
        here, *variables = line.split("|")
        assert before == "before sh"
        assert here.startswith(f"{tmp_path}/somewhere/")
        assert variables == ["a text", "second", "3000"]
        refused = client.run("true", timeout_s=8)
        assert refused.status.code == Code.INVALID_ARGUMENT
        assert "7 s" in refused.status.message
        shown = plain_http.get(f"http://127.0.0.1:{farm.ports.public}/admin/workers").text
        assert "one" in shown


def test_what_the_entrypoint_answers_for_ends_at_the_workers_own_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {
        "timeout_handled_externally": True,
        "entrypoint": program(tmp_path / "entrypoint", ENTRYPOINT),
        "max_action_timeout_s": 1000,
    }
    time, gate = SlotTime(tmp_path, monkeypatch), Gate(tmp_path / "gate")
    with worker(tmp_path, **keys) as farm, farm.client() as client:
        execution = client.execute(client.uploaded("sh", "-c", gate.script, timeout_s=600))
        gate.wait(1)
        # Also over is what it asked for: the entrypoint, which here does nothing, was to see to it.
        time.pass_an_hour()
        ended = execution.result().status
    assert ended.code == Code.DEADLINE_EXCEEDED
    assert "1000 s" in ended.message


def test_while_the_precondition_fails_actions_wait(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    ready = program(
        tmp_path / "ready", f"#!/bin/sh\necho asked >> {seen}\ntest $(wc -l < {seen}) -ge 3\n"
    )
    keys = {"experimental_precondition_script": ready}
    with worker(tmp_path, **keys) as farm, farm.client() as client:
        assert shell(client, "echo ran") == b"ran\n"
    assert seen.read_text().count("asked") >= 3


def test_precondition_scripts_that_take_their_time_keep_no_disk_work_waiting(
    tmp_path: Path,
) -> None:
    """More scripts than the disk has threads; then an action whose outputs need one of those."""
    gate, held = Gate(tmp_path / "gate"), 6
    script = program(tmp_path / "script", f'#!/bin/sh\n[ -z "$HOLD" ] && exit\n{gate.script}\n')
    keys = {
        "experimental_precondition_script": script,
        "additional_environment": {"HOLD": {"property": "hold"}},
        "max_inflight_tasks": held + 1,
    }
    scheduler = {"supported_platform_properties": {"hold": "ignore"}}
    with worker(tmp_path, scheduler=scheduler, **keys) as farm, farm.client() as client:
        blobs = Blobs()
        actions = [
            make_action(["true"], blobs, platform={"hold": str(number)})
            for number in range(1, held + 1)
        ]
        client.upload(blobs)
        waiting = [client.execute(action) for action in actions]
        gate.wait(held)

        done = client.run("sh", "-c", "head -c 300000 /dev/zero > out", outputs=["out"])

        assert done.result.output_files[0].digest.size_bytes == 300_000
        assert len(gate.arrived) == held
        gate.open()
        assert all(each.result().status.code == Code.OK for each in waiting)


@pytest.mark.parametrize(
    ("strategy", "code", "cached"),
    [("success_only", 0, True), ("success_only", 3, False), ("never", 0, False),
     ("failures_only", 3, True), ("everything", 3, True)],
)  # fmt: skip
def test_results_are_cached_by_the_strategy(
    strategy: str, code: int, *, cached: bool, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    keys = {"upload_action_result": {"ac_store": "AC", "upload_ac_results_strategy": strategy}}
    with worker(tmp_path, **keys) as farm, farm.client() as client:
        for _ in range(2):
            response = client.run("sh", "-c", f"echo ran >> {runs}; exit {code}")
            assert response.result.exit_code == code
    assert runs.read_text().count("ran") == (1 if cached else 2)


def test_history_is_kept_where_the_keys_say_and_told_to_the_client(tmp_path: Path) -> None:
    keys = {
        "upload_action_result": {
            "ac_store": "AC",
            "historical_results_store": "AC_DISK",
            "upload_historical_results_strategy": "everything",
            "success_message_template": "good {historical_results_hash}",
            "failure_message_template": "bad {historical_results_hash} {digest_function}",
        }
    }
    with worker(tmp_path, **keys) as farm, farm.client() as client:
        good = client.run("true")
        bad = client.run("false")
    word, digest = good.message.split(" ")
    assert word == "good"
    kept = [path.name for path in (tmp_path / "AC_DISK/content/d").iterdir()]
    assert any(name.startswith(digest) for name in kept)
    word, digest, function = bad.message.split(" ")
    assert (word, function.lower()) == ("bad", "sha256")
    assert any(name.startswith(digest) for name in kept)


def test_inputs_that_never_arrive_are_given_up(tmp_path: Path) -> None:
    ports = Ports.free()
    keys = {"max_input_fetch_timeout_s": 1}
    config = farm_config(tmp_path, ports, worker=keys, scheduler={"max_job_retries": 1})
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        where = f"grpc://127.0.0.1:{deaf.getsockname()[1]}"
        (cas,) = (each for each in config["stores"] if each["name"] == "WORKER_CAS")
        cas["fast_slow"] = {
            "fast": {
                "filesystem": {
                    "content_path": str(tmp_path / "own/content"),
                    "temp_path": str(tmp_path / "own/temp"),
                }
            },
            "slow": {"grpc": {"endpoints": [{"address": where}], "store_type": "cas"}},
        }
        with open_farm(tmp_path, config, ports) as farm, farm.client() as client:
            response = client.run("true", inputs={"input": "input"})
    assert response.status.code == Code.DEADLINE_EXCEEDED
    assert "max_input_fetch_timeout_s" in response.status.message, response.status.message


def test_an_upload_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    ports = Ports.free()
    keys = {"max_upload_timeout_s": 1}
    config = farm_config(tmp_path, ports, worker=keys, scheduler={"max_job_retries": 1})
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        # It takes connections and answers nothing.
        where = f"grpc://127.0.0.1:{deaf.getsockname()[1]}"
        (cas,) = (each for each in config["stores"] if each["name"] == "WORKER_CAS")
        cas["fast_slow"]["slow"] = {
            "grpc": {"endpoints": [{"address": where}], "store_type": "cas"}
        }
        with open_farm(tmp_path, config, ports) as farm, farm.client() as client:
            response = client.run("sh", "-c", "echo made > out", outputs=["out"])
    assert response.status.code != Code.OK
    assert "1 s" in response.status.message, response.status.message


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_directories_are_kept_where_the_keys_say(tmp_path: Path) -> None:
    keys = {
        "directory_cache": {
            "cache_root": str(tmp_path / "kept"),
            "max_entries": 1,
            "max_concurrent_fetches": 2,
            "experimental_get_tree_prefetch": True,
        }
    }
    with worker(tmp_path, **keys) as farm, farm.client() as client:
        for name in ("one", "two"):
            # So many that they are not copied.
            inputs = {"in": {name: name, **{str(number): "" for number in range(20)}}}
            assert shell(client, "cat in/*", inputs=inputs) == name.encode()

        def kept() -> list[str]:
            found = [name for _, _, names in os.walk(tmp_path / "kept") for name in names]
            return [name for name in found if name in {"one", "two"}]

        # What goes goes when its action is over, which may be after its answer.
        wait_for(lambda: kept() == ["two"], "the end of the first one")


@pytest.mark.parametrize("whole", [True, False])
def test_namespaces_hide_as_much_as_the_keys_say(tmp_path: Path, *, whole: bool) -> None:
    keys = {
        "use_namespaces": True,
        "use_mount_namespace": whole,
        "use_network_namespace": whole,
    }
    with worker(tmp_path, **keys) as farm, farm.client() as client:
        said = shell(
            client,
            f"test -d /proc/{os.getpid()} && echo the server; "
            f"ls {tmp_path}/DISK/content/d | grep -q . && echo its files; "
            "test $(wc -l < /proc/net/dev) -gt 3 && echo its network; :",
        ).decode()
    seen = said.splitlines()
    assert "the server" not in seen
    assert ("its files" in seen) is not whole
    assert ("its network" in seen) is not whole
