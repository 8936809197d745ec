"""Limits on what an action uses, by control groups version 2 (cgroups(7)).

The server needs a control group of its own that it may divide (systemd: `Delegate=yes`; a container
with its own, writable cgroup namespace). It moves itself into a leaf, because a group with
processes has no limited children, and each action that has limits gets a group beside that leaf.
"""

# pathlib would be a good part of these small processes' memory.
# ruff: noqa: PTH102, PTH103, PTH106, PTH110, PTH119, PTH123, PTH208

from __future__ import annotations

import errno
import os
from time import sleep
from typing import NamedTuple

__all__ = ["Group", "Limited", "divide"]

CONTROLLERS = ("memory", "cpu", "pids")
#: The leaf of the server and of all its processes that are no actions.
_LEAF = "nativelink-server"
_PREFIX = "nativelink-action-"
#: Microseconds in which a share of the processors is measured; the kernel's default.
_PERIOD_US = 100_000
#: Seconds between two tries to remove a group: the first pause, doubled up to the last.
_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 1.0
#: The smallest quota that the kernel takes, in microseconds.
_LEAST_QUOTA_US = 1000


class Limited(NamedTuple):
    """A control group that can be divided.

    Attributes:
        base: its directory; empty if there is none.
        controllers: what can be limited in it.
        reason: why not everything can.
    """

    base: str
    controllers: tuple[str, ...]
    reason: str


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _own_group(process: str) -> tuple[str, str]:
    """Where cgroup v2 is mounted, and the path of this process in it; empty if it is not."""
    path = ""
    for line in _read(f"{process}/cgroup").splitlines():
        if line.startswith("0::"):
            path = line[3:]
    for line in _read(f"{process}/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 ") and path:
            root, point = before.split(" ")[3:5]
            inside = path if root == "/" else path.removeprefix(root)
            return point, inside.strip("/")
    return "", ""


def divide(process: str = "/proc/self") -> Limited:
    """Make the control group of this process ready for groups of actions.

    Args:
        process: this process in /proc.
    """
    try:
        point, path = _own_group(process)
    except OSError as error:
        return Limited("", (), f"/proc cannot be read: {error.strerror}")
    if not point:
        return Limited("", (), "cgroup v2 is not mounted")
    if path.rpartition("/")[2] == _LEAF:
        path = path.rpartition("/")[0]
    base = f"{point}/{path}".rstrip("/")
    try:
        there = _read(f"{base}/cgroup.controllers").split()
        controllers = [name for name in CONTROLLERS if name in there]
        if not controllers:
            return Limited("", (), f"{base} has none of the controllers {', '.join(CONTROLLERS)}")
        _settle(base, process, is_namespace_root=not path)
        return _enable(base, controllers)
    except OSError as error:
        what = error.filename or base
        return Limited("", (), f"{what}: {error.strerror}; the worker needs a delegated cgroup")
    except _SharedError as error:
        return Limited("", (), str(error))


class _SharedError(Exception):
    """There are other processes in the group."""


def _settle(base: str, process: str, *, is_namespace_root: bool) -> None:
    """Move this process into a leaf, if it is in the way."""
    for name in os.listdir(base):
        if name.startswith(_PREFIX):
            _remove(f"{base}/{name}")
    if not os.path.exists(f"{base}/cgroup.type"):
        # The root of the machine may have both processes and limited children.
        return
    own = os.path.basename(os.path.realpath(process))
    inhabitants = _read(f"{base}/cgroup.procs").split()
    if not is_namespace_root and (others := [pid for pid in inhabitants if pid != own]):
        raise _SharedError(
            f"{base} has other processes in it ({', '.join(others[:5])}); the worker needs a "
            "delegated cgroup of its own (systemd: Delegate=yes)"
        )
    os.makedirs(f"{base}/{_LEAF}", exist_ok=True)
    for pid in inhabitants:
        _write(f"{base}/{_LEAF}/cgroup.procs", pid)


def _enable(base: str, controllers: list[str]) -> Limited:
    enabled: list[str] = []
    reason = ""
    for name in controllers:
        try:
            _write(f"{base}/cgroup.subtree_control", f"+{name}")
            enabled.append(name)
        except OSError as error:
            reason = f"controller {name} cannot be enabled in {base}: {error.strerror}"
    missing = [name for name in CONTROLLERS if name not in controllers]
    if missing and not reason:
        reason = f"{base} has no controller {', '.join(missing)}"
    return Limited(base if enabled else "", tuple(enabled), reason)


def _remove(directory: str) -> bool:
    """Remove a group; False if it is still in use."""
    try:
        os.rmdir(directory)
    except OSError as error:
        # Of another server, whose action runs; or of a process that the kernel does not let go.
        return error.errno != errno.EBUSY
    return True


class Group:
    """The control group of one action."""

    def __init__(self, base: str, controllers: tuple[str, ...]) -> None:
        """Make it, without limits.

        Args:
            base: the directory of the group that is divided.
            controllers: what can be limited there.

        Raises:
            OSError: if it cannot be made.
        """
        self._base = base
        self._controllers = controllers
        self._directory = f"{base}/{_PREFIX}{os.urandom(8).hex()}"
        os.mkdir(self._directory)

    def limit(self, *, memory_bytes: int, cpus: float, pids: int) -> None:
        """Set what may be used; 0 is no limit.

        Raises:
            OSError: if the kernel refuses one of them.
        """
        if memory_bytes and "memory" in self._controllers:
            self._write("memory.max", str(memory_bytes))
            # Else what is beyond the limit would be swapped out, and the whole machine with it.
            self._write_if_there("memory.swap.max", "0")
            self._write_if_there("memory.oom.group", "1")
        if cpus and "cpu" in self._controllers:
            quota = max(_LEAST_QUOTA_US, round(cpus * _PERIOD_US))
            self._write("cpu.max", f"{quota} {_PERIOD_US}")
        if pids and "pids" in self._controllers:
            self._write("pids.max", str(pids))

    def enter(self) -> None:
        """Move this process into it: what it starts is born there."""
        self._write("cgroup.procs", "0")

    def leave(self) -> None:
        """Move this process back to the server's leaf, or the root."""
        leaf = f"{self._base}/{_LEAF}"
        _write(f"{leaf if os.path.exists(leaf) else self._base}/cgroup.procs", "0")

    def kill(self) -> None:
        """Kill all of it at once, where the kernel can (Linux 5.14)."""
        self._write_if_there("cgroup.kill", "1")

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed in it because of its memory limit."""
        try:
            events = _read(f"{self._directory}/memory.events")
        except OSError:
            return False
        return any(
            line.startswith("oom_kill ") and line != "oom_kill 0" for line in events.splitlines()
        )

    def remove(self) -> None:
        """Nobody is in it any more; to the kernel that may take a moment to be so."""
        pause_s = _PAUSE_S
        while not _remove(self._directory) and pause_s < _LONGEST_PAUSE_S:
            sleep(pause_s)
            pause_s *= 2

    def _write(self, name: str, text: str) -> None:
        _write(f"{self._directory}/{name}", text)

    def _write_if_there(self, name: str, text: str) -> None:
        if os.path.exists(f"{self._directory}/{name}"):
            try:
                self._write(name, text)
            except OSError:
                # A refinement only; the limit itself stands.
                pass
