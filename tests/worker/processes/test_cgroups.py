"""Limits, on a directory that looks like the kernel's, and on the kernel's where it has them."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nativelink.worker.launch import Limits
from nativelink.worker.processes import cgroups
from nativelink.worker.processes.cgroups import Group, Limited, divide
from nativelink.worker.processes.launcher import Namespaces, ProcessLauncher
from tests.worker.processes.launching import FOREVER_S, Yard

PID = "4711"
LEAF = "nativelink-server"


class FakeHost:
    """A process in /proc and its control group, made of plain files."""

    def __init__(self, root: Path, path: str = "/service", controllers: str = "cpu memory pids"):
        self.process = root / "proc" / PID
        self.process.mkdir(parents=True)
        self.mount = root / "cgroup"
        self.base = self.mount / path.strip("/")
        self.base.mkdir(parents=True)
        self.be_in(path)
        (self.process / "mountinfo").write_text(
            "20 1 0:4 / /proc rw - proc proc rw\n"
            f"30 24 0:27 / {self.mount} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
        )
        (self.base / "cgroup.controllers").write_text(f"cpuset io {controllers}\n")
        (self.base / "cgroup.type").write_text("domain\n")
        (self.base / "cgroup.procs").write_text(f"{PID}\n")

    def be_in(self, path: str) -> None:
        (self.process / "cgroup").write_text(f"4:memory:/legacy\n0::{path}\n")

    def divide(self) -> Limited:
        return divide(str(self.process))


def test_the_server_moves_into_a_leaf_and_enables_what_is_there(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    assert host.divide() == Limited(str(host.base), ("memory", "cpu", "pids"), "")
    assert (host.base / LEAF / "cgroup.procs").read_text() == PID
    # Each is written by itself; the last is what a plain file keeps.
    assert (host.base / "cgroup.subtree_control").read_text() == "+pids"


def test_a_server_that_is_in_the_leaf_already_divides_the_group_above(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.divide()
    host.be_in(f"/service/{LEAF}")
    assert host.divide().base == str(host.base)


def test_missing_controllers_are_named(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, controllers="memory")
    limited = host.divide()
    assert limited.controllers == ("memory",)
    assert limited.reason.endswith("has no controller cpu, pids")


def test_without_controllers_nothing_is_limited_or_moved(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, controllers="")
    limited = host.divide()
    assert (limited.base, limited.controllers) == ("", ())
    assert "none of the controllers memory, cpu, pids" in limited.reason
    assert not (host.base / LEAF).exists()


def test_other_processes_are_not_moved(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    (host.base / "cgroup.procs").write_text(f"1\n{PID}\n22\n")
    limited = host.divide()
    assert limited.controllers == ()
    assert "has other processes in it (1, 22)" in limited.reason
    assert "Delegate=yes" in limited.reason


def test_in_a_containers_own_group_all_processes_are_moved(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, path="/")
    (host.base / "cgroup.procs").write_text(f"1\n{PID}\n")
    assert host.divide().controllers == ("memory", "cpu", "pids")
    assert (host.base / LEAF / "cgroup.procs").read_text() == PID


def test_the_root_of_the_machine_needs_no_leaf(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, path="/")
    (host.base / "cgroup.type").unlink()
    assert host.divide().controllers == ("memory", "cpu", "pids")
    assert not (host.base / LEAF).exists()


def test_groups_that_a_killed_server_left_are_removed(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    (host.base / "nativelink-action-0").mkdir()
    (host.base / "unrelated").mkdir()
    host.divide()
    assert not (host.base / "nativelink-action-0").exists()
    assert (host.base / "unrelated").exists()


def test_a_host_without_version_2_is_told_so(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    (host.process / "cgroup").write_text("4:memory:/legacy\n")
    assert host.divide() == Limited("", (), "cgroup v2 is not mounted")


def test_a_group_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    (host.base / LEAF).write_text("in the way")
    assert str(host.base / LEAF) in host.divide().reason


def test_each_limit_becomes_what_the_kernel_reads(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    group = Group(str(host.base), ("memory", "cpu", "pids"))
    (directory,) = host.base.glob("nativelink-action-*")
    for name in ("memory.swap.max", "memory.oom.group", "cgroup.kill"):
        (directory / name).touch()
    group.limit(memory_bytes=1 << 30, cpus=1.5, pids=100)
    group.enter()
    group.kill()
    assert {path.name: path.read_text() for path in directory.iterdir()} == {
        "memory.max": str(1 << 30),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cpu.max": "150000 100000",
        "pids.max": "100",
        "cgroup.procs": "0",
        "cgroup.kill": "1",
    }


def test_a_group_that_is_busy_for_a_moment_is_removed_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group(str(tmp_path), ())
    rmdir, answers = os.rmdir, [errno.EBUSY, errno.EBUSY, 0]

    def busy(path: str) -> None:
        if number := answers.pop(0):
            raise OSError(number, "busy", path)
        rmdir(path)

    monkeypatch.setattr(os, "rmdir", busy)
    group.remove()
    assert answers == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_unlimited_or_cannot_be_limited_is_not_written(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    group = Group(str(host.base), ("memory",))
    group.limit(memory_bytes=0, cpus=1, pids=1)
    (directory,) = host.base.glob("nativelink-action-*")
    assert list(directory.iterdir()) == []


@pytest.fixture
def real() -> Iterator[Path]:
    """A group of the kernel's own, without controllers if version 1 has them."""
    point, _ = cgroups._own_group("/proc/self")
    if not point or not os.access(point, os.W_OK):
        pytest.skip("no control group of version 2 can be made here")
    base = Path(point) / f"nativelink-test-{os.getpid()}"
    base.mkdir()
    yield base
    for path in sorted(base.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
    base.rmdir()


def let_divide(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give launchers a group whose controllers do not matter."""
    limited = Limited(str(base), (), "")
    monkeypatch.setattr("nativelink.worker.processes.launcher._divide", lambda: limited)


def action_groups(base: Path) -> list[Path]:
    return list(base.glob("nativelink-action-*"))


@pytest.mark.parametrize("namespaces", [None, Namespaces()], ids=["plain", "namespaces"])
async def test_an_action_with_limits_is_born_in_a_group_that_goes_with_it(
    real: Path, yard: Yard, namespaces: Namespaces | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_divide(real, monkeypatch)
    script = "grep 0:: /proc/self/cgroup; (setsid sleep 1000 &)"
    launch = yard.launch("/bin/sh", "-c", script, limits=Limits(pids=10))
    async with ProcessLauncher(namespaces=namespaces, limited=True) as launcher:
        for _ in range(2):
            assert (await launcher.run(launch, timeout_s=FOREVER_S)).exit_code == 0
            assert f"/{real.name}/nativelink-action-" in yard.stdout.read_text()
            # A group can only be removed if the slot has left it too.
            assert action_groups(real) == []
        unlimited = yard.launch("/bin/sh", "-c", script)
        assert (await launcher.run(unlimited, timeout_s=FOREVER_S)).exit_code == 0
        assert "nativelink-action-" not in yard.stdout.read_text()


async def test_an_action_in_namespaces_cannot_leave_its_group(
    real: Path, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_divide(real, monkeypatch)
    launch = yard.launch(
        "/bin/sh", "-c", f"echo 0 > {real}/cgroup.procs || echo no", limits=Limits(pids=10)
    )
    async with ProcessLauncher(namespaces=Namespaces(), limited=True) as launcher:
        assert (await launcher.run(launch, timeout_s=FOREVER_S)).exit_code == 0
    assert yard.stdout.read_text() == "no\n"


async def test_where_nothing_can_be_limited_actions_run_and_the_log_says_why(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        "nativelink.worker.processes.launcher.cgroups.divide",
        lambda: Limited("", (), "cgroup v2 is not mounted"),
    )
    launch = yard.launch("/bin/true", limits=Limits(memory_bytes=1 << 30))
    async with ProcessLauncher(limited=True) as launcher:
        assert (await launcher.run(launch, timeout_s=FOREVER_S)).exit_code == 0
    assert "not all limits of actions are kept: cgroup v2 is not mounted" in caplog.text


async def test_an_action_that_the_kernel_killed_for_its_memory_is_told_so(
    tmp_path: Path, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group is made of plain files, into which the action writes what the kernel would."""
    base = tmp_path / "group"
    base.mkdir()
    let_divide(base, monkeypatch)
    launch = yard.launch(
        "/bin/sh",
        "-c",
        "group=$(echo group/nativelink-action-*); echo oom_kill 1 > $group/memory.events; "
        "kill -9 $$",
        limits=Limits(memory_bytes=1 << 20),
    )
    async with ProcessLauncher(limited=True) as launcher:
        ended = await launcher.run(launch, timeout_s=FOREVER_S)
    assert (ended.out_of_memory, ended.signal) == (True, 9)
    shutil.rmtree(base)
