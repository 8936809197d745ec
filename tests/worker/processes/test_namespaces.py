"""What an action in namespaces sees, what it cannot reach, and what stays of it: nothing."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.worker.processes import sandbox
from nativelink.worker.processes.launcher import Namespaces, ProcessLauncher
from nativelink.worker.processes.tree import children
from tests.worker.processes.launching import FOREVER_S, SlotTime, Yard, is_gone, supervised


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work directory with the directories of two actions."""
    for name in ("mine", "theirs"):
        (tmp_path / "work" / name).mkdir(parents=True)
        (tmp_path / "work" / name / "file").write_text(name)
    return tmp_path / "work"


@pytest.fixture
def yard(work: Path) -> Iterator[Yard]:
    yard = Yard(work / "mine")
    yield yard
    yard.close()


@pytest.fixture
async def launcher(work: Path) -> AsyncIterator[ProcessLauncher]:
    async with ProcessLauncher(namespaces=Namespaces(hidden=[work])) as launcher:
        yield launcher


async def output(launcher: ProcessLauncher, yard: Yard, script: str) -> str:
    ended = await launcher.run(yard.shell(script), timeout_s=FOREVER_S)
    assert ended.exit_code == 0, yard.stderr.read_text()
    return yard.stdout.read_text()


async def test_only_the_action_is_seen_in_proc(launcher: ProcessLauncher, yard: Yard) -> None:
    """Besides init, which is the slot."""
    found = await output(launcher, yard, "echo $$ $PPID; echo /proc/[0-9]*")
    own, seen = found.splitlines()
    pid, init = own.split()
    assert init == "1"
    assert sorted(seen.split()) == ["/proc/1", f"/proc/{pid}"]


async def test_other_actions_are_invisible(
    launcher: ProcessLauncher, yard: Yard, work: Path
) -> None:
    assert await output(launcher, yard, f"ls {work}; cat {work}/mine/file") == "mine\nmine"
    assert await output(launcher, yard, f"cat {work}/theirs/file || echo none") == "none\n"
    assert await output(launcher, yard, "cat ../theirs/file || echo none") == "none\n"


async def test_what_hides_cannot_be_written_to(
    launcher: ProcessLauncher, yard: Yard, work: Path
) -> None:
    script = f"touch {work}/x || chmod 777 {work} || mkdir ../y || echo none"
    assert await output(launcher, yard, script) == "none\n"


async def test_the_own_directory_is_the_real_one(
    launcher: ProcessLauncher, yard: Yard, work: Path
) -> None:
    await output(launcher, yard, "echo new > new; rm file")
    assert (work / "mine" / "new").read_text() == "new\n"
    assert not (work / "mine" / "file").exists()


async def test_the_network_is_the_own_loopback_only(launcher: ProcessLauncher, yard: Yard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = f"""
import errno, os, socket
for address in (("127.0.0.1", {server.getsockname()[1]}), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, timeout=10)
    except OSError as error:
        print(errno.errorcode[error.errno])
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
if os.path.exists("/proc/net/if_inet6"):
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        socket.create_connection(server.getsockname()[:2]).close()
print("loopback")
"""
        ended = await launcher.run(yard.python(script), timeout_s=FOREVER_S)
        assert ended.exit_code == 0, yard.stderr.read_text()
        assert yard.stdout.read_text().split() == ["ECONNREFUSED", "ENETUNREACH", "loopback"]


async def test_an_action_that_requires_the_network_has_the_hosts(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = f"import socket; socket.create_connection({server.getsockname()!r})"
        launch = yard.launch(sys.executable, "-I", "-S", "-c", script, network=True)
        assert (await launcher.run(launch, timeout_s=FOREVER_S)).exit_code == 0
        isolated = yard.launch(sys.executable, "-I", "-S", "-c", script)
        assert (await launcher.run(isolated, timeout_s=FOREVER_S)).exit_code == 1


async def test_ports_and_connections_of_the_last_action_are_gone(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    """The closed connection of the first would keep its port for a minute (TIME_WAIT)."""
    script = """
import os, socket
server = socket.socket()
server.bind(("127.0.0.1", 4000))
server.listen()
client = socket.create_connection(("127.0.0.1", 4000))
peer, _ = server.accept()
peer.close()
client.recv(1)
client.close()
print(os.getppid(), os.readlink("/proc/self/ns/net"))
"""
    namespaces: set[str] = set()
    for _ in range(2):
        ended = await launcher.run(yard.python(script), timeout_s=FOREVER_S)
        assert ended.exit_code == 0, yard.stderr.read_text()
        namespaces.add(yard.stdout.read_text())
    assert launcher.statistics().idle == 1
    assert len(namespaces) == 2


async def test_a_network_that_was_left_clean_is_kept(launcher: ProcessLauncher, yard: Yard) -> None:
    script = "readlink /proc/self/ns/net"
    assert await output(launcher, yard, script) == await output(launcher, yard, script)


async def test_system_v_objects_of_the_last_action_are_gone(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    script = "ipcmk -M 4096 -S 1 -Q > /dev/null; ipcs -m -s -q | grep -c 0x; exit 0"
    assert await output(launcher, yard, script) == "3\n"
    assert await output(launcher, yard, "ipcs -m -s -q | grep -c 0x; exit 0") == "0\n"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm")
async def test_shared_memory_of_others_is_neither_seen_nor_kept(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    name = f"nativelink-test-{os.getpid()}"
    for _ in range(2):
        assert await output(launcher, yard, f"ls /dev/shm; echo x > /dev/shm/{name}") == ""
    assert not os.access(f"/dev/shm/{name}", os.F_OK)


async def test_an_action_has_its_user_and_no_capabilities(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    found = await output(launcher, yard, "id -u; id -g; uname -n; grep -h Cap /proc/self/status")
    uid, gid, name, *capabilities = found.splitlines()
    assert (int(uid), int(gid), name) == (os.geteuid(), os.getegid(), "nativelink")
    assert len(capabilities) == 5
    assert {int(line.split(":")[1], 16) for line in capabilities} == {0}


@pytest.mark.parametrize(
    "script",
    [
        "mount -t tmpfs none .",
        "umount ..",
        "hostname other",
        "ip link add dummy0 type dummy",
        "echo x > /proc/sys/kernel/core_pattern",
        "kill -9 1; kill -TERM 1; cat /proc/1/mem",
        "cat /proc/1/environ",
        "ls /proc/1/root/",
        "readlink /proc/1/fd/0",
        "nsenter -t 1 -m true",
    ],
)
async def test_an_action_cannot_change_or_leave_its_namespaces(
    launcher: ProcessLauncher, yard: Yard, script: str
) -> None:
    ended = await launcher.run(yard.shell(script), timeout_s=FOREVER_S)
    assert ended.exit_code not in {0, 127, 137}
    assert await output(launcher, yard, "uname -n") == "nativelink\n"


async def test_a_read_only_file_is_read_only_for_an_action_of_root_too(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    (yard.directory / "file").chmod(0o444)
    assert await output(launcher, yard, "echo x >> file || echo refused") == "refused\n"


async def test_nothing_outlives_an_action_in_namespaces(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    script = "(setsid sh -c 'echo $$ > told; exec sleep 1000' &); read x < told; exit 3"
    assert (await launcher.run(yard.shell(script), timeout_s=FOREVER_S)).exit_code == 3
    found = await output(launcher, yard, "echo /proc/[0-9]*")
    assert len(found.split()) == 2
    assert launcher.statistics().idle == 1


async def test_an_end_by_a_signal_comes_through(launcher: ProcessLauncher, yard: Yard) -> None:
    for number in (signal.SIGTERM, signal.SIGABRT, signal.SIGKILL):
        ended = await launcher.run(yard.shell(f"kill -{number:d} $$"), timeout_s=FOREVER_S)
        assert (ended.exit_code, ended.signal) == (128 + number, number)


@pytest.mark.slow
async def test_time_limits_work_in_namespaces(work: Path, yard: Yard, slot_time: SlotTime) -> None:
    script = "echo so far; echo > told; sleep 1000"
    async with ProcessLauncher(namespaces=Namespaces(hidden=[work])) as launcher:
        running = asyncio.ensure_future(launcher.run(yard.shell(script), timeout_s=FOREVER_S))
        await yard.lines(1)
        slot_time.pass_an_hour()
        assert (await running).timed_out
        assert yard.stdout.read_text() == "so far\n"
        assert len((await output(launcher, yard, "echo /proc/[0-9]*")).split()) == 2


async def test_cancellations_work_in_namespaces(launcher: ProcessLauncher, yard: Yard) -> None:
    action = asyncio.ensure_future(
        launcher.run(yard.shell("echo $$ > told; sleep 1000 & wait"), timeout_s=FOREVER_S)
    )
    await yard.pids(1)
    action.cancel()
    with pytest.raises(asyncio.CancelledError):
        await action
    assert len((await output(launcher, yard, "echo /proc/[0-9]*")).split()) == 2


@pytest.mark.parametrize("generations", [0, 1, 2], ids=["slot", "nursery", "guard"])
async def test_a_killed_supervisor_takes_the_namespaces_along(
    launcher: ProcessLauncher, yard: Yard, generations: int
) -> None:
    action = asyncio.ensure_future(
        launcher.run(yard.shell("sleep 1000 & echo > told; wait"), timeout_s=FOREVER_S)
    )
    await yard.lines(1)
    guard, nursery, (slot,) = supervised()
    (shell,) = children(slot)
    (sleep,) = children(shell)
    os.kill((slot, nursery, guard)[generations], signal.SIGKILL)
    with pytest.raises(NativeLinkError, match="supervisor") as caught:
        await action
    assert caught.value.code is Code.UNAVAILABLE
    assert all(map(is_gone, (slot, shell, sleep)))
    assert await output(launcher, yard, "echo again") == "again\n"


async def test_without_hiding_everything_is_seen(yard: Yard, work: Path) -> None:
    async with ProcessLauncher(namespaces=Namespaces()) as launcher:
        assert await output(launcher, yard, f"cat {work}/theirs/file") == "theirs"
        assert (await output(launcher, yard, "echo $PPID")) == "1\n"


async def test_directories_below_hidden_ones_are_hidden_with_them(yard: Yard, work: Path) -> None:
    namespaces = Namespaces(hidden=[work, work.parent, work / "mine"])
    async with ProcessLauncher(namespaces=namespaces) as launcher:
        assert await output(launcher, yard, f"ls {work.parent} {work}; pwd; cat file") == (
            f"{work.parent}:\nwork\n\n{work}:\nmine\n{work}/mine\nmine"
        )


async def test_a_directory_that_cannot_be_hidden_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(NativeLinkError, match="nowhere") as caught:
        async with ProcessLauncher(namespaces=Namespaces(hidden=[tmp_path / "nowhere"])):
            pass
    assert caught.value.code is Code.UNAVAILABLE


def interpreter() -> str:
    """One that other users may execute too."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        base = Path(candidate).resolve()
        if all(parent.stat().st_mode & 0o001 for parent in base.parents):
            return str(base)
    pytest.skip("there is no interpreter that other users may execute")


def confined(kind: str) -> str:
    """What a program says that runs an action as `kind` of user."""
    program = Path(__file__).parent / "programs" / "confined.py"
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        ran = subprocess.run(
            [interpreter(), "-B", "-I", str(program), kind, directory],
            stdout=subprocess.PIPE,
            check=True,
            timeout=240,
        )
    text = json.loads(ran.stdout)
    assert isinstance(text, str)
    return text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_user_without_privileges_can_isolate_actions_too() -> None:
    uid, init, siblings, processes, secret = confined("nobody").splitlines()
    assert (uid, init, siblings, secret) == ("65534", "1", "action", "hidden")
    assert len(processes.split()) == 2


def test_a_host_that_forbids_user_namespaces_is_told_what_to_allow() -> None:
    said = confined("refused")
    assert said.startswith("UNAVAILABLE: creating namespaces: ")
    assert "sysctl user.max_user_namespaces=10000" in said
    assert "set use_namespaces to false" in said


@pytest.mark.parametrize(
    ("setting", "value", "advice"),
    [
        ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("user/max_net_namespaces", "0", "sysctl user.max_net_namespaces=10000"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor"),
        ("kernel/apparmor_restrict_unprivileged_userns", "0", "--security-opt"),
    ],
)
def test_advice_depends_on_what_the_host_forbids(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str, advice: str
) -> None:
    """Only one of them can be made to happen here."""
    settings = {f"/proc/sys/{setting}": value}
    monkeypatch.setattr(sandbox, "_read", lambda path: settings.get(path, ""))
    assert advice in sandbox._advice(PermissionError(1, "no"))
