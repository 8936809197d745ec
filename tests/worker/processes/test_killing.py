"""Nothing that an action started is left, however it and those who run it end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.testing.fakes import wait_until
from nativelink.worker.launch import Exit
from nativelink.worker.processes.launcher import Namespaces, ProcessLauncher
from nativelink.worker.processes.tree import children
from tests.worker.processes.launching import (
    FOREVER_S,
    SlotTime,
    Yard,
    is_gone,
    is_slot,
    parent,
    supervised,
    wait_until_ended,
)

#: Each tells its pid, or those of all that it makes, and would go on for ever.
SURVIVORS = {
    "a background process": "sleep 1000 & echo $! > told",
    "a session of its own": "setsid sh -c 'echo $$ > told; exec sleep 1000' &",
    "nohup": "nohup sh -c 'echo $$ > told; exec sleep 1000' > /dev/null 2>&1 &",
    "an orphan": "(sh -c 'echo $$ > told; exec sleep 1000' &)",
    "a daemon": "(setsid sh -c '(sh -c \"echo \\$\\$ > told; exec sleep 1000\" &)' &)",
    "one that ignores signals": 'sh -c \'trap "" TERM INT HUP; echo $$ > told; '
    "while :; do sleep 1000; done' &",
    "one that is stopped": "sh -c 'echo $$ > told; kill -STOP $$' &",
    "a thread's child": f"{sys.executable} -I -S -c '"
    "import os, subprocess, threading\n"
    'start = lambda: subprocess.Popen(["sh", "-c", "echo $$ > told; exec sleep 1000"]).wait()\n'
    "threading.Thread(target=start).start()' &",
}


@asynccontextmanager
async def running(
    launcher: ProcessLauncher, yard: Yard, script: str
) -> AsyncIterator[asyncio.Task[Exit]]:
    async with asyncio.TaskGroup() as group:
        yield group.create_task(launcher.run(yard.shell(script), timeout_s=FOREVER_S))


@pytest.mark.parametrize("script", SURVIVORS.values(), ids=SURVIVORS)
async def test_nothing_outlives_an_action_that_exits(
    launcher: ProcessLauncher, yard: Yard, script: str
) -> None:
    ended = await launcher.run(
        yard.shell(f"({script}); read pid < told; echo $pid > pid; exit 3"),
        timeout_s=FOREVER_S,
    )
    assert ended.exit_code == 3
    assert is_gone(int((yard.directory / "pid").read_text()))


@pytest.mark.parametrize("script", SURVIVORS.values(), ids=SURVIVORS)
async def test_nothing_outlives_an_action_that_is_cancelled(
    launcher: ProcessLauncher, yard: Yard, script: str
) -> None:
    async with running(launcher, yard, f"({script}); exec sleep 1000") as action:
        (pid,) = await yard.pids(1)
        assert not is_gone(pid)
        action.cancel()
        with pytest.raises(asyncio.CancelledError):
            await action
        assert is_gone(pid)


@pytest.mark.slow
async def test_nothing_outlives_the_time_limit(yard: Yard, slot_time: SlotTime) -> None:
    script = "; ".join(f"({survivor})" for survivor in SURVIVORS.values())
    async with (
        ProcessLauncher() as launcher,
        running(launcher, yard, f"{script}; exec sleep 1000") as action,
    ):
        pids = await yard.pids(len(SURVIVORS))
        slot_time.pass_an_hour()
        assert (await action).timed_out
        assert all(map(is_gone, pids))


async def test_a_cancelled_cancellation_still_waits_until_all_is_gone(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    action = asyncio.ensure_future(launcher.run(yard.shell(FAMILY), timeout_s=FOREVER_S))
    pids = await yard.pids(2)
    slot = next(filter(is_slot, pids))
    # So that nothing can be gone yet.
    os.kill(slot, signal.SIGSTOP)
    for _ in range(3):
        action.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not action.done()
    os.kill(slot, signal.SIGCONT)
    with pytest.raises(asyncio.CancelledError):
        await action
    assert all(is_gone(pid) for pid in pids if pid != slot)


@pytest.mark.slow
async def test_orphans_that_ended_do_not_stay_as_zombies(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    """A long action may leave thousands."""
    async with running(launcher, yard, "(sh -c 'echo $$ > told' &); exec sleep 1000") as action:
        (pid,) = await yard.pids(1)
        await wait_until(lambda: is_gone(pid))
        action.cancel()


@pytest.mark.parametrize("namespaces", [None, Namespaces()], ids=["plain", "namespaces"])
async def test_slots_end_when_there_is_nobody_left_to_end_them(
    yard: Yard, namespaces: Namespaces | None
) -> None:
    """A guard that does not get on is as good as one that was killed with its nursery."""
    async with ProcessLauncher(namespaces=namespaces) as launcher:
        launch = yard.shell("(setsid sleep 1000 &); echo > told; exec sleep 1000")
        action = asyncio.ensure_future(launcher.run(launch, timeout_s=FOREVER_S))
        await yard.lines(1)
        guard, nursery, (slot,) = supervised()
        processes = [slot, *children(slot)]
        os.kill(guard, signal.SIGSTOP)
        try:
            os.kill(nursery, signal.SIGKILL)
            for pid in processes:
                wait_until_ended(pid)
        finally:
            os.kill(guard, signal.SIGCONT)
        with pytest.raises(NativeLinkError, match="supervisor"):
            await action


async def test_a_slot_is_used_again_after_a_cancellation(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    async with running(launcher, yard, "echo $PPID > told; exec sleep 1000") as action:
        (slot,) = await yard.pids(1)
        action.cancel()
        with pytest.raises(asyncio.CancelledError):
            await action
    await launcher.run(yard.shell("echo $PPID"), timeout_s=FOREVER_S)
    assert int(yard.stdout.read_text()) == slot


async def test_cancelling_before_the_slot_has_read_the_request_runs_nothing_for_long(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    """More than the socket holds is still being sent when the cancellation comes."""
    launch = yard.launch("/bin/sh", "-c", "exec sleep 1000", "sh", *(["x" * 100_000] * 15))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(launcher.run(launch, timeout_s=FOREVER_S))
        await asyncio.sleep(0)
        task.cancel()
    assert launcher.statistics().running == 0
    assert (await launcher.run(yard.launch("/bin/true"), timeout_s=FOREVER_S)).exit_code == 0


@pytest.mark.slow
async def test_processes_that_fork_faster_than_they_can_be_followed_end(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    """Each process lives for a moment only, and has a successor by then."""
    runner = """
import os
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork():
                os._exit(0)
with open("told", "w") as told: told.write(f"{os.getppid()}\\n")
"""
    async with asyncio.TaskGroup() as group:
        action = group.create_task(launcher.run(yard.python(runner), timeout_s=FOREVER_S))
        (slot,) = await yard.pids(1)
        assert (await action).exit_code == 0
    assert children(slot) == []


@pytest.mark.slow
async def test_a_fork_bomb_ends(launcher: ProcessLauncher, yard: Yard) -> None:
    """Every process of it makes others as long as it lives, up to a limit that spares the host."""
    bomb = """
import os, resource, time
count = os.open("count", os.O_RDWR | os.O_CREAT | os.O_APPEND)
while os.fstat(count).st_size < 400:
    os.write(count, b".")
    os.fork()
with open("told", "w") as told: told.write(f"{os.getpid()}\\n")
time.sleep(1000)
"""
    async with asyncio.TaskGroup() as group:
        action = group.create_task(launcher.run(yard.python(bomb), timeout_s=FOREVER_S))
        pids = await yard.pids(200)
        action.cancel()
    assert all(map(is_gone, pids))


#: Tells the pid of a process that left its family, and its slot's.
FAMILY = "(setsid sh -c 'echo $$ > told; exec sleep 1000' &) ; echo $PPID > told; exec sleep 1000"


async def test_a_killed_slot_takes_its_action_along(launcher: ProcessLauncher, yard: Yard) -> None:
    action = asyncio.ensure_future(launcher.run(yard.shell(FAMILY), timeout_s=FOREVER_S))
    pids = await yard.pids(2)
    os.kill(next(filter(is_slot, pids)), signal.SIGKILL)
    with pytest.raises(NativeLinkError, match="its supervisor was ended by SIGKILL") as caught:
        await action
    assert caught.value.code is Code.UNAVAILABLE
    assert all(map(is_gone, pids))
    assert (await launcher.run(yard.launch("/bin/true"), timeout_s=FOREVER_S)).exit_code == 0
    assert launcher.statistics().supervisors == 1


@pytest.mark.parametrize("generations", [1, 2], ids=["nursery", "guard"])
async def test_a_killed_supervisor_takes_all_actions_along_and_is_replaced(
    launcher: ProcessLauncher, yard: Yard, generations: int
) -> None:
    actions = [
        asyncio.ensure_future(launcher.run(yard.shell(FAMILY), timeout_s=FOREVER_S))
        for _ in range(2)
    ]
    pids = await yard.pids(4)
    victim = next(filter(is_slot, pids))
    for _ in range(generations):
        victim = parent(victim)
    os.kill(victim, signal.SIGKILL)
    for action in actions:
        with pytest.raises(NativeLinkError, match="supervisor") as caught:
            await action
        assert caught.value.code is Code.UNAVAILABLE
    assert all(map(is_gone, pids))
    assert (await launcher.run(yard.launch("/bin/true"), timeout_s=FOREVER_S)).exit_code == 0
    assert launcher.statistics().supervisors == 2


async def test_a_supervisor_that_died_unnoticed_is_replaced_before_anything_is_run(
    yard: Yard,
) -> None:
    async with ProcessLauncher() as launcher:
        await launcher.run(yard.shell("echo $PPID"), timeout_s=FOREVER_S)
        nursery = parent(int(yard.stdout.read_text()))
        guard = parent(nursery)
        launcher._idle.clear()
        os.kill(nursery, signal.SIGKILL)
        # The loop does not turn meanwhile, so nobody has heard of it.
        wait_until_ended(guard)
        assert (await launcher.run(yard.launch("/bin/true"), timeout_s=FOREVER_S)).exit_code == 0
        assert launcher.statistics().supervisors == 2


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


async def test_actions_and_supervisor_end_with_a_server_that_is_killed(yard: Yard) -> None:
    """Even by SIGKILL, after which it can do nothing."""
    script = "; ".join(f"({survivor})" for survivor in SURVIVORS.values())
    server = start_server(yard.directory, f"echo $PPID > told; {script}; exec sleep 1000")
    try:
        pids = await yard.pids(len(SURVIVORS) + 1)
        slot = next(filter(is_slot, pids))
        pids += [parent(slot), parent(parent(slot))]
    finally:
        kill(server)
    for pid in pids:
        wait_until_ended(pid)


def start_server(directory: Path, script: str) -> int:
    program = Path(__file__).parent / "programs" / "serve.py"
    arguments = [sys.executable, str(program), str(directory), script]
    return os.posix_spawn(sys.executable, arguments, os.environ)


async def test_closing_the_launcher_leaves_no_process(yard: Yard) -> None:
    async with ProcessLauncher() as launcher:
        await launcher.run(yard.shell("echo $PPID"), timeout_s=FOREVER_S)
        slot = int(yard.stdout.read_text())
        pids = [slot, parent(slot), parent(parent(slot))]
        assert parent(pids[2]) == os.getpid()
    assert all(map(is_gone, pids))
    with pytest.raises(NativeLinkError, match="closed"):
        await launcher.run(yard.launch("/bin/true"), timeout_s=FOREVER_S)


async def test_a_signal_for_the_whole_process_group_leaves_actions_alone(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    """Init systems send SIGTERM to all of a service; the server then lets its actions end."""
    os.mkfifo(yard.directory / "go")
    async with running(launcher, yard, "echo $PPID > told; read line < go; exit 5") as action:
        (slot,) = await yard.pids(1)
        for pid in (slot, parent(slot), parent(parent(slot))):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(pid, number)
        (yard.directory / "go").write_text("\n")
        assert (await action).exit_code == 5


async def test_idle_slots_end_after_a_while(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nativelink.worker.processes.launcher._IDLE_S", 0.05)
    async with ProcessLauncher() as launcher:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    launcher.run(
                        yard.shell("echo $PPID > told; exec sleep 1000"), timeout_s=FOREVER_S
                    )
                )
                for _ in range(8)
            ]
            slots = await yard.pids(8)
            assert len(set(slots)) == 8
            for task in tasks:
                task.cancel()
        assert launcher.statistics().idle == 8
        await wait_until(lambda: launcher.statistics().idle == 4)
        await wait_until(lambda: sum(map(is_gone, slots)) == 4)
