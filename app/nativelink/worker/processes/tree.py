"""All that came of a program: measured while it runs, killed when it ends."""

# pathlib would be a good part of these small processes' memory.
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import os
import select
import signal
from resource import struct_rusage
from time import monotonic

__all__ = ["Tree", "children", "end", "wait_for"]

_PAGE_KB = os.sysconf("SC_PAGESIZE") // 1024
#: Seconds between two looks at processes that were killed and are not gone yet.
_PATIENCE_S = 0.05


def children(pid: int) -> list[int]:
    """The children of a process, zombies included; empty if it is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                found += map(int, file.readall().split())
        except OSError:
            continue
    return found


def _resident_kb(pid: int) -> int:
    """Resident memory of a process, in KiB; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            return int(file.readall().split()[1]) * _PAGE_KB
    except (OSError, IndexError):
        return 0


def end(pid: int) -> None:
    """Kill a child of this process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:
        # A program that became another user's; it ends by itself, or stays and is told.
        pass


def wait_for(pid: int, within_s: float) -> None:
    """Wait until a process has ended, but not longer than `within_s` seconds; reaps nobody."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll(within_s * 1000)
    finally:
        os.close(handle)


class Tree:
    """The descendants of this process, a child subreaper without any other children.

    Attributes:
        main: the process that counts: its end is the program's end.
        status: how `main` ended, as wait(2) has it; None while it runs.
        cpu_us: user and system time of those that were waited for, and of what they waited for.
        peak_kb: largest memory seen, in KiB; 0 if nothing was seen.
    """

    def __init__(self, main: int, *, alone: bool, floor_kb: int) -> None:
        """Watch what comes of `main`.

        Args:
            main: a child of this process.
            alone: whether this process is init of a pid namespace, so that kill(-1) is the tree.
            floor_kb: resident memory of this process at its largest. A process that it starts
                without copying itself is accounted as if it had used as much, so only larger
                values tell something.
        """
        self.main = main
        self.status: int | None = None
        self.cpu_us = 0
        self.peak_kb = 0
        self._alone = alone
        self._floor_kb = floor_kb

    def _count(self, pid: int, status: int, usage: struct_rusage) -> None:
        self.cpu_us += int((usage.ru_utime + usage.ru_stime) * 1e6)
        if usage.ru_maxrss > self._floor_kb:
            self.peak_kb = max(self.peak_kb, usage.ru_maxrss)
        if pid == self.main:
            self.status = status

    def reap(self) -> bool:
        """Wait for whoever has ended. Whether anyone is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._count(pid, status, usage)

    def members(self) -> list[int]:
        """Everyone now in the tree, parents before their children."""
        found = children(os.getpid())
        for pid in found:
            found += children(pid)
        return found

    def sample(self) -> None:
        """Look at the memory of the whole tree."""
        self.peak_kb = max(self.peak_kb, sum(map(_resident_kb, self.members())))

    def kill(self, within_s: float) -> list[int]:
        """Kill everyone.

        Returns:
            Those that are still there after `within_s` seconds, because the kernel does not let
            go of them; empty if, as ECHILD proves, nobody is.
        """
        until = monotonic() + within_s
        while self.reap():
            if monotonic() > until:
                return self.members()
            self._kill_once()
            if not self.reap():
                break
            self._wait_for_one()
        return []

    def _kill_once(self) -> None:
        """Kill all that can be killed now.

        Only children: the pid of one of ours cannot be used again before we wait for it, and those
        further down become our children when their parents end. Forking takes a process much
        longer than killing takes us, so there is an end to it.
        """
        if self._alone:
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                # Those that are left are zombies already.
                pass
            return
        for pid in children(os.getpid()):
            end(pid)

    @staticmethod
    def _wait_for_one() -> None:
        """Wait until one of our children ends, or for a short time."""
        for pid in children(os.getpid()):
            wait_for(pid, _PATIENCE_S)
            return
