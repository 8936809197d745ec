"""What it takes to run a process for an action, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["Exit", "Launch", "Launcher", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What an action may use at most; None is no limit. Kept where the host allows (cgroup v2)."""

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """A process to run.

    Attributes:
        arguments: argv; the first is the program, looked up as execvpe does: with a slash
            relative to `working_directory`, else in the PATH of `environment`.
        environment: all of it.
        working_directory: absolute.
        action_directory: the directory that belongs to the action: what else is hidden in its
            own mount namespace stays visible below it.
        stdout: file that is created, or emptied, and written; below `action_directory` where
            namespaces hide directories.
        stderr: likewise.
        network: whether it may use the network where namespaces isolate it.
        limits: what it may use.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    working_directory: Path
    action_directory: Path
    stdout: Path
    stderr: Path
    network: bool = False
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Exit:
    """A process that ended, together with everything it started.

    Attributes:
        timed_out: it was still running at the time limit, and was killed.
        exit_code: 0 to 255; 128 + N if signal N ended it, as shells, Bazel and Buildbarn have it
            (NativeLink v1.6.6 says 9 for every signal).
        signal: the signal, 0 if it exited.
        out_of_memory: the kernel killed in it because it reached its memory limit.
        cpu_time_ms: user and system time of the whole tree.
        peak_memory_kb: largest sum of resident memory seen in the tree.
        sampled: whether memory was measured at all.
        started_at: seconds since the Unix epoch.
        ended_at: likewise.
    """

    timed_out: bool
    exit_code: int
    signal: int = 0
    out_of_memory: bool = False
    cpu_time_ms: int = 0
    peak_memory_kb: int = 0
    sampled: bool = False
    started_at: float = 0.0
    ended_at: float = 0.0


class Launcher(Protocol):
    """Runs processes so that nothing of them is left, whatever happens."""

    async def run(self, launch: Launch, *, timeout_s: float) -> Exit:
        """Run a process to its end and kill whatever it left behind.

        Cancelling kills the whole tree and waits until it is gone.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for empty arguments, a NUL byte in one, or a program
                that no kernel executes; NOT_FOUND or PERMISSION_DENIED naming the program that
                cannot be started, or the working directory; UNAVAILABLE if this machine cannot
                start processes now, or if what ran the action was killed.
        """
        ...
