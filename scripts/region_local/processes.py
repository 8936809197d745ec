"""Processes of this machine that belong together, and how they end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

__all__ = ["kill_tree", "tree_of", "using"]

_PROC = Path("/proc")


def tree_of(root: int) -> list[int]:
    """A process and all that it started, and what those did."""
    children: dict[int, list[int]] = {}
    for pid in _all():
        children.setdefault(_parent(pid), []).append(pid)
    found = [root]
    for pid in found:
        found += children.get(pid, ())
    return found


def kill_tree(root: int) -> None:
    """Take away the power: nobody in the tree runs another line."""
    for pid in tree_of(root):
        # Whoever is stopped starts nobody else while the others are killed.
        _signal(pid, signal.SIGSTOP)
    for pid in tree_of(root):
        _signal(pid, signal.SIGKILL)


def using(folder: Path) -> dict[int, str]:
    """Processes that were started with a folder in their command or environment, or are in it."""
    name = str(folder).encode()
    found: dict[int, str] = {}
    for pid in _all():
        with contextlib.suppress(OSError):
            place = _PROC / str(pid)
            said = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
            if name in said or str(folder) in str((place / "cwd").readlink()):
                found[pid] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    found.pop(os.getpid(), None)
    return found


def _all() -> Iterable[int]:
    return [int(each.name) for each in _PROC.iterdir() if each.name.isdigit()]


def _parent(pid: int) -> int:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    # The second field is a name in parentheses, which may hold anything.
    return int(text.rpartition(")")[2].split()[1])


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
