"""Programs of the operator: they ask this machine something, before or between actions."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nativelink.core.errors import Code, NativeLinkError, unavailable

__all__ = ["ScriptResult", "run_script"]

_MAX_OUTPUT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ScriptResult:
    """What a script said.

    Attributes:
        exit_code: 0 to 255; negative if a signal ended it.
        stdout: what it printed, at most 1 MiB.
        stderr: likewise.
    """

    exit_code: int
    stdout: str
    stderr: str


def run_script(
    arguments: Sequence[str], environment: Mapping[str, str], *, timeout_s: float
) -> ScriptResult:
    """Run a program to its end; blocks, so it belongs on a thread.

    Raises:
        NativeLinkError: UNAVAILABLE if it cannot be started; DEADLINE_EXCEEDED after `timeout_s`,
            when it and the processes of its group have been killed.
    """
    name = arguments[0]
    try:
        # Popen, not a fork: its cost does not grow with this process' memory.
        process = subprocess.Popen(
            list(arguments),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise unavailable(f"cannot run {name!r}: {error.strerror}") from error
    with process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise NativeLinkError(
                Code.DEADLINE_EXCEEDED, f"{name!r} did not end within {timeout_s:g} seconds"
            ) from None
    return ScriptResult(process.returncode, _text(stdout), _text(stderr))


def _text(output: bytes) -> str:
    return output[:_MAX_OUTPUT_BYTES].decode("utf-8", "replace")
