"""Actions that say that they run, and wait: files outside of every build."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Gate", "program", "wait_for"]


def wait_for(
    condition: Callable[[], object], what: str, *, timeout_s: float = 120, every_s: float = 0.02
) -> None:
    """Wait until something is so, which is looked at every so many seconds."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"not within {timeout_s:g} s: {what}"
        time.sleep(every_s)


def program(path: Path, text: str) -> str:
    """A file that can be executed; its name."""
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


class Gate:
    """A place where actions wait until the test opens it.

    Args:
        folder: made for its files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._reached = folder / "reached"
        self._open = folder / "open"

    @property
    def script(self) -> str:
        """Shell commands that wait for the gate to open."""
        return f"echo $$ >> {self._reached}; while [ ! -e {self._open} ]; do sleep 0.02; done"

    @property
    def arrived(self) -> list[int]:
        """The processes that came to the gate so far."""
        if not self._reached.exists():
            return []
        return [int(line) for line in self._reached.read_text().splitlines()]

    def wait(self, count: int = 1) -> None:
        """Wait until so many came."""
        wait_for(lambda: len(self.arrived) >= count, f"{count} actions at the gate")

    def open(self) -> None:
        """Let everyone through from now on."""
        self._open.touch()

    def close(self) -> None:
        """Let nobody through from now on, and forget who came."""
        self._open.unlink(missing_ok=True)
        self._reached.unlink(missing_ok=True)
