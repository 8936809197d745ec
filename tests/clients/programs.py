"""Where the client programs are, and what a test does where one is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["CLIENT_TESTS", "ROOT", "TOOLS", "program", "run", "running", "wait_until"]

#: Marks of every module here: real clients are slow, and share one server, so that one worker of
#: pytest-xdist runs them all.
CLIENT_TESTS = [pytest.mark.clients, pytest.mark.slow, pytest.mark.xdist_group("clients")]

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"


def program(name: str, *, tool: str | None = None) -> Path:
    """The path of an installed program.

    A missing one skips the test on a developer's machine; in CI it fails, so that a test that
    never runs is noticed.
    """
    for candidate in (TOOLS / "bin" / name, TOOLS / name, shutil.which(name)):
        if candidate is not None and Path(candidate).is_file():
            return Path(candidate)
    message = f"{name} is not installed: run scripts/tools.py {tool or name}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def run(command: Sequence[object], *, timeout: float = 60, check: bool = True) -> str:
    """Standard output and error of a command; its whole output in the failure."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode:
        pytest.fail(f"{command}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


@contextmanager
def running(
    command: Sequence[object], log: Path, *, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs beside the test, its output in `log`; SIGTERM ends it."""
    with (
        log.open("ab") as output,
        subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until(
    done: Callable[[], bool], what: Callable[[], str], *, process: subprocess.Popen[bytes]
) -> None:
    """Wait for another process to do its part; it may take a minute on a loaded machine."""
    deadline = time.monotonic() + 60
    while not done():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"exit code {process.poll()}: {what()}")
        time.sleep(0.02)
