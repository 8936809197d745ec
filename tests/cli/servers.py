"""Our program as a process, watched through its pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NATIVELINK = Path(sys.executable).with_name("nativelink")

MEMORY = """{
  stores: [{ name: "CAS", memory: { eviction_policy: { max_bytes: "64mb" } } },
           { name: "AC", memory: { eviction_policy: { max_bytes: "8mb" } } }],
  servers: [{
    listener: { http: { socket_address: "127.0.0.1:0" } },
    services: {
      cas: [{ instance_name: "main", cas_store: "CAS" }],
      ac: [{ instance_name: "main", ac_store: "AC" }],
      bytestream: [{ instance_name: "main", cas_store: "CAS" }],
      capabilities: [{ instance_name: "main" }],
      health: {},
      admin: {},
    },
  }],
}"""


@dataclass
class Running:
    """A process and what it has printed so far."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        """`host:port` of the first listener."""
        scheme = "grpc://"
        return next(line.strip().split()[0] for line in self.lines if scheme in line)[len(scheme) :]

    @property
    def output(self) -> str:
        """All of it."""
        return "".join(self.lines)

    def wait_for(self, text: str) -> None:
        """Read until a line holds `text`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        raise AssertionError(f"{text!r} was never printed, but:\n{self.output}")

    def end(self, number: int) -> int:
        """Send a signal, read the rest, and wait; the exit code."""
        self.process.send_signal(number)
        return self.join()

    def join(self) -> int:
        """Read the rest and wait; the exit code."""
        assert self.process.stdout is not None
        self.lines += list(self.process.stdout)
        return self.process.wait(120)


def command(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(
        [NATIVELINK, *arguments],
        env=_environment(environ),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@contextmanager
def running(file: Path, *, until: str = "Ctrl-C", **environ: str) -> Iterator[Running]:
    """A server, from the moment at which it printed `until`."""
    process = subprocess.Popen(
        [NATIVELINK, file],
        env=_environment(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # A server that says nothing more and does not end must not hold up the tests.
    watchdog = threading.Timer(240, process.kill)
    watchdog.start()
    server = Running(process)
    try:
        server.wait_for(until)
        yield server
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _environment(changes: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return {**kept, "NO_COLOR": "1", "COLUMNS": "200", **changes}
