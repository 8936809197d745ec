"""What tests of processes need: launches, and news from the processes without sleeping."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from nativelink.worker.launch import Launch, Limits
from nativelink.worker.processes import supervisor
from nativelink.worker.processes.tree import children

#: Long enough that only a defect reaches it, also on a machine that is busy with other things.
FOREVER_S = 200.0
PATH = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


class Yard:
    """A directory of an action, with a pipe through which its processes tell their pids."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stdout = directory / "stdout"
        self.stderr = directory / "stderr"
        self.told = directory / "told"
        os.mkfifo(self.told)
        self._reader = os.open(self.told, os.O_RDWR | os.O_NONBLOCK)
        self._received = b""

    def close(self) -> None:
        os.close(self._reader)

    def launch(
        self,
        *arguments: str,
        environment: Mapping[str, str] = PATH,
        working_directory: Path | None = None,
        network: bool = False,
        limits: Limits | None = None,
    ) -> Launch:
        return Launch(
            arguments=arguments,
            environment=environment,
            working_directory=working_directory or self.directory,
            action_directory=self.directory,
            stdout=self.stdout,
            stderr=self.stderr,
            network=network,
            limits=limits or Limits(),
        )

    def shell(self, script: str) -> Launch:
        return self.launch("/bin/sh", "-c", script)

    def python(self, script: str) -> Launch:
        return self.launch(sys.executable, "-I", "-S", "-c", script)

    async def lines(self, count: int) -> list[str]:
        """The next lines that processes wrote to `told`."""
        loop = asyncio.get_running_loop()
        while self._received.count(b"\n") < count:
            readable: asyncio.Future[None] = loop.create_future()
            loop.add_reader(self._reader, readable.set_result, None)
            try:
                await readable
            finally:
                loop.remove_reader(self._reader)
            self._received += os.read(self._reader, 65536)
        *lines, rest = self._received.split(b"\n", count)
        self._received = rest
        return [line.decode() for line in lines]

    async def pids(self, count: int) -> list[int]:
        """The pids that processes wrote to `told`."""
        return [int(line) for line in await self.lines(count)]


class SlotTime:
    """The clock by which slots of launchers that start from now on measure time limits.

    It is that of other processes: a file tells them that an hour is over. So a limit ends an action
    when the test knows that it has done what it was to do, however long that took.

    Args:
        folder: for the file; slots must see it.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._over = folder / "an hour is over"
        clock = (
            "import os, time; really = time.monotonic; "
            f"time.monotonic = lambda: really() + 3600 * os.path.exists({str(self._over)!r}); "
        )
        monkeypatch.setattr(supervisor, "_BOOT", clock + supervisor._BOOT)

    def pass_an_hour(self) -> None:
        """Let it be over."""
        self._over.touch()


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def wait_until_ended(pid: int) -> None:
    """Wait until a process has ended, whoever has to reap it."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        assert poll.poll(60_000), f"process {pid} does not end"
    finally:
        os.close(handle)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def started_at(pid: int) -> int:
    """When a process began, in ticks since the machine did."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def is_slot(pid: int) -> bool:
    """Whether a process is a slot, or the nursery or the guard, which look alike."""
    try:
        return "nativelink.worker.processes" in Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        # One of others that ended meanwhile.
        return False


def supervised() -> tuple[int, int, list[int]]:
    """The guard, the nursery and the slots of this process' youngest launcher.

    Tests elsewhere that ran in this process may have left theirs to a later teardown.
    """
    guard = max(filter(is_slot, children(os.getpid())), key=started_at)
    (nursery,) = children(guard)
    return guard, nursery, children(nursery)
