"""Where the client programs are, and what a test does where one is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

__all__ = [
    "CLIENT_TESTS",
    "ROOT",
    "TOOLS",
    "ended",
    "program",
    "run",
    "running",
    "wait_until_ready",
]

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


def ended(
    command: Sequence[object],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 240,
) -> subprocess.CompletedProcess[str]:
    """A command that has ended, whatever came of it; its `stdout` is all that it said."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def run(
    command: Sequence[object],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 240,
    check: bool = True,
) -> str:
    """Standard output and error of a command; its whole output in the failure."""
    done = ended(command, directory=directory, environment=environment, timeout=timeout)
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
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until_ready(
    address: str,
    log: Path,
    *,
    process: subprocess.Popen[bytes],
    credentials: grpc.ChannelCredentials | None = None,
) -> None:
    """Wait until a process speaks gRPC at an address; its log in the failure.

    It fails when the process ends, or after two minutes, which a loaded machine may need.
    """
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 20),
        ("grpc.max_reconnect_backoff_ms", 100),
    ]
    channel = (
        grpc.insecure_channel(address, options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options)
    )
    ready = grpc.channel_ready_future(channel)

    def give_up_when_it_ends() -> None:
        process.wait()
        ready.cancel()

    threading.Thread(target=give_up_when_it_ends, daemon=True).start()
    with channel:
        try:
            ready.result(timeout=120)
        except (grpc.FutureTimeoutError, grpc.FutureCancelledError):
            pytest.fail(f"exit code {process.poll()}: {log.read_text(errors='replace')}")
