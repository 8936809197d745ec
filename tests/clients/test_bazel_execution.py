"""Real Bazel 4.2.3 and 2.1.0 build real C programs on our workers."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.bazel import Bazel, Build
from tests.clients.checks import GATED, TESTS
from tests.clients.farm import FarmProcesses, Program, open_processes
from tests.clients.programs import CLIENT_TESTS
from tests.execution.gate import Gate, wait_for

pytestmark = CLIENT_TESTS

#: What the issue of this build asks for.
MINIMUM_ACTIONS = 150
JOBS = 16
EVERYTHING = ["//:all", "//checks:all"]
#: Of 160; so both workers die a few times.
ACTIONS_PER_KILL = 20


def flags(farm: FarmProcesses) -> list[str]:
    """What a user would put into .bazelrc."""
    return [
        f"--remote_executor=grpc://127.0.0.1:{farm.ports.public}",
        "--remote_instance_name=main",
        "--spawn_strategy=remote",
        f"--jobs={JOBS}",
        "--remote_timeout=120",
    ]


def where(build: Build) -> dict[str, int]:
    """How many actions ran where, by the execution log."""
    found: dict[str, int] = {}
    for spawn in build.spawns:
        runner = str(spawn["runner"])
        found[runner] = found.get(runner, 0) + 1
    return found


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarmProcesses]:
    worker = {"name": "local", "max_inflight_tasks": 4}
    with open_processes(tmp_path_factory.mktemp("farm"), worker=worker) as running:
        yield running


@pytest.fixture(scope="module")
def cold(farm: FarmProcesses, bazel: Bazel) -> Build:
    """The first build, with its tests."""
    bazel.clean()
    return bazel.build(*flags(farm), targets=EVERYTHING, command="test", log=True)


def test_every_action_runs_on_a_worker(cold: Build) -> None:
    assert set(where(cold)) == {"remote"}, where(cold)
    assert len(cold.spawns) >= MINIMUM_ACTIONS
    assert f"Executed {TESTS} out of {TESTS} tests: {TESTS} tests pass" in cold.output
    # What actions print reaches the user.
    assert "said on stderr" in cold.output
    assert "line 1999 of much output" in cold.output


def test_outputs_are_those_of_a_local_build_bit_for_bit(
    cold: Build, bazel: Bazel, other_bazel: Bazel
) -> None:
    other_bazel.clean()

    local = other_bazel.build("--jobs=2", targets=EVERYTHING, log=True)

    remote = cold.outputs()
    assert local.outputs() == {path: remote[path] for path in local.outputs()}
    assert len(local.outputs()) > MINIMUM_ACTIONS
    # Links and modes are in no digest.
    for name in ("tree/d/link.sh", "lua_link"):
        assert bazel.file(name).is_symlink() == other_bazel.file(name).is_symlink(), name
    for name in ("tree/a/run.sh", "lua", "script.sh"):
        assert bazel.file(name).stat().st_mode & 0o111, name


def test_another_output_base_gets_everything_from_the_cache(
    farm: FarmProcesses, cold: Build, other_bazel: Bazel
) -> None:
    other_bazel.clean()

    warm = other_bazel.build(*flags(farm), targets=EVERYTHING, command="test", log=True)

    assert other_bazel.file("tree/d/link.sh").is_symlink()
    assert set(where(warm)) == {"remote cache hit"}, where(warm)
    assert warm.outputs() == cold.outputs()


def test_a_changed_header_runs_again_what_includes_it_and_nothing_else(
    farm: FarmProcesses, cold: Build, bazel: Bazel, workspace: Path
) -> None:
    header = workspace / "lua" / "lopcodes.h"
    before = header.read_text()
    header.write_text(before + "/* A remark that changes no object. */\n")
    try:
        changed = bazel.build(*flags(farm), targets=EVERYTHING, command="test", log=True)
    finally:
        header.write_text(before)

    ran = [spawn for spawn in changed.spawns if not spawn["remoteCacheHit"]]
    assert {spawn["mnemonic"] for spawn in ran} == {"CCompile"}
    names = [str(spawn["listedOutputs"]) for spawn in ran]
    assert not [name for name in names if "/z_" in name]
    expected = [
        spawn
        for spawn in cold.spawns
        if spawn["mnemonic"] == "CCompile" and "/z_" not in str(spawn["listedOutputs"])
    ]
    assert len(ran) == len(expected) > 60


def test_a_failing_action_says_why(farm: FarmProcesses, bazel: Bazel) -> None:
    build = bazel.build(*flags(farm), targets=["//checks:broken"], ok=False)

    assert build.code == 1
    assert "what went wrong" in build.output
    assert "Exit 7" in build.output or "exit code 7" in build.output, build.output


def test_a_failing_test_keeps_its_log(farm: FarmProcesses, bazel: Bazel) -> None:
    build = bazel.build(
        *flags(farm), "--test_output=errors", targets=["//checks:fails"], command="test", ok=False
    )

    assert build.code == 3
    assert "the reason" in build.output
    assert "FAILED" in build.output


def test_a_test_that_hangs_is_reported_as_timeout_with_its_log(
    farm: FarmProcesses, bazel: Bazel
) -> None:
    build = bazel.build(
        *flags(farm),
        # Bash, Bazel's scripts and the test come first.
        "--test_timeout=10",
        "--test_output=errors",
        targets=["//checks:hangs"],
        command="test",
        ok=False,
    )

    assert build.code == 3
    assert "TIMEOUT" in build.output
    assert "before the hang" in build.output, build.output


def test_a_test_may_run_many_times(farm: FarmProcesses, bazel: Bazel, cold: Build) -> None:
    build = bazel.build(
        *flags(farm),
        "--runs_per_test=8",
        targets=["//checks:test1"],
        command="test",
        log=True,
    )

    # Each run has a second action, which writes its XML.
    runs = [spawn for spawn in build.spawns if "test-setup.sh" in str(spawn["commandArgs"])]
    assert len(runs) == 8
    assert {spawn["runner"] for spawn in runs} == {"remote"}


def test_an_interrupted_build_goes_on_where_it_was(
    farm: FarmProcesses, bazel: Bazel, gate: Gate, tmp_path: Path
) -> None:
    targets = [f"//checks:gated{number}" for number in range(GATED)]
    gate.close()
    with bazel.start(*flags(farm), targets=targets, log=tmp_path / "log") as build:
        gate.wait(GATED)
        build.send_signal(signal.SIGINT)
        code = build.wait(240)
    assert code == 8, (tmp_path / "log").read_text()
    gate.open()

    resumed = bazel.build(*flags(farm), targets=targets, log=True)

    assert set(where(resumed)) <= {"remote", "remote cache hit"}
    assert len(resumed.spawns) == GATED
    # The executions that were under way were joined, not begun again.
    assert len(gate.arrived) == GATED


def test_bazel_2_builds_on_workers_and_then_from_the_cache(
    tmp_path: Path, cold: Build, old_bazel: Bazel
) -> None:
    old_bazel.clean()
    # A farm of its own: what the newer Bazel left would be hits.
    with open_processes(tmp_path / "farm", worker={"max_inflight_tasks": 4}) as farm:
        first = old_bazel.build(*flags(farm), log=True)
        broken = old_bazel.build(*flags(farm), targets=["//checks:broken"], ok=False)
        old_bazel.clean()
        second = old_bazel.build(*flags(farm), log=True)

    assert set(where(first)) == {"remote"}, where(first)
    assert {path: cold.outputs()[path] for path in first.outputs()} == first.outputs()
    assert broken.code == 1
    assert "what went wrong" in broken.output
    assert set(where(second)) == {"remote cache hit"}, where(second)


def kill_now_and_then(
    farm: FarmProcesses,
    victims: list[Program],
    leaver: Program,
    build: subprocess.Popen[bytes],
) -> int:
    """While the build goes on, kill one worker after the other; how often that was.

    Progress drives it, not time: each of the first kills waits until some actions more are done,
    whether the machine is fast or slow.
    """
    kills = 0
    with farm.client() as client:

        def completed() -> int:
            return len(client.operations("stage=COMPLETED"))

        while True:
            goal = completed() + ACTIONS_PER_KILL
            wait_for(
                lambda goal=goal: build.poll() is not None or completed() >= goal,
                "progress of the build",
                timeout_s=240,
            )
            if build.poll() is not None:
                return kills
            victim = victims[kills % len(victims)]
            victim.kill()
            victim.start()
            if kills == 0:
                leaver.drain()
            kills += 1


def test_a_build_survives_workers_that_die_and_leave(tmp_path: Path, other_bazel: Bazel) -> None:
    other_bazel.clean()
    # A dead worker is noticed at once by its connection; three share what there is to do.
    with open_processes(tmp_path / "farm", scheduler={"retain_completed_for_s": 600}) as farm:
        workers = [
            farm.add_worker(name, max_inflight_tasks=4) for name in ("first", "second", "leaver")
        ]
        log = tmp_path / "build.log"
        with other_bazel.start(*flags(farm), targets=EVERYTHING, log=log) as build:
            kills = kill_now_and_then(farm, workers[:2], workers[2], build)
            code = build.wait()

        output = log.read_text()
        assert code == 0, output
        assert "failed" not in output.lower(), output
        (summary,) = re.findall(r"INFO: \d+ processes: (.*)\.", output)
        assert re.fullmatch(r"\d+ internal, \d+ remote", summary), summary
        assert kills >= 3
        assert workers[2].process.wait(240) == 0
        with farm.client() as client:
            ended = [each.response for each in client.operations("stage=COMPLETED")]
        assert len(ended) >= MINIMUM_ACTIONS - TESTS
