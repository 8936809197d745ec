"""A farm of processes, as people run one: cache and scheduler here, workers there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from nativelink.testing.execution import ExecutionClient
from tests.clients.programs import running, wait_until_ready
from tests.execution.farm import Json, Ports, farm_config, worker_config

__all__ = ["NATIVELINK", "FarmProcesses", "Program", "open_processes"]

NATIVELINK = Path(sys.executable).with_name("nativelink")


class Program:
    """Our program with a configuration; it may be killed and started again.

    Args:
        folder: takes the configuration and the log.
        config: what it runs.
        lifetimes: whoever leaves them ends it.

    Attributes:
        process: the one that runs now.
        log: what all of them say.
    """

    def __init__(self, folder: Path, config: Json, lifetimes: ExitStack) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        self._file = folder / "config.json5"
        self._file.write_text(json.dumps(config, indent=2))
        self._lifetimes = lifetimes
        self.start()

    def start(self) -> None:
        """Run it."""
        environment = {"HOME": os.environ.get("HOME", "/")}
        self.process: subprocess.Popen[bytes] = self._lifetimes.enter_context(
            running([NATIVELINK, self._file], self.log, environment=environment)
        )

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(240)

    def drain(self) -> None:
        """Ask it to leave."""
        self.process.send_signal(signal.SIGTERM)


class FarmProcesses:
    """Cache and scheduler in one process, workers in others.

    Attributes:
        ports: where clients and workers connect.
        server: cache and scheduler.
    """

    def __init__(self, folder: Path, ports: Ports, server: Program, lifetimes: ExitStack) -> None:
        self.ports = ports
        self.server = server
        self._folder = folder
        self._lifetimes = lifetimes

    def add_worker(self, name: str, **worker: Any) -> Program:
        """Start a worker."""
        folder = self._folder / name
        config = worker_config(folder, self.ports, name=name, worker=worker)
        return Program(folder, config, self._lifetimes)

    def client(self) -> ExecutionClient:
        """A client; use it as a context manager."""
        return ExecutionClient(f"127.0.0.1:{self.ports.public}", instance="main")

    def wait_until_ready(self) -> None:
        """Wait until the server answers."""
        wait_until_ready(
            f"127.0.0.1:{self.ports.public}", self.server.log, process=self.server.process
        )


@contextmanager
def open_processes(
    folder: Path, *, worker: Json | None = None, scheduler: Json | None = None
) -> Iterator[FarmProcesses]:
    """Start cache and scheduler, with a worker in the same process if `worker` is given."""
    ports = Ports.free()
    config = farm_config(folder, ports, worker=worker, scheduler=scheduler)
    with ExitStack() as lifetimes:
        farm = FarmProcesses(folder, ports, Program(folder, config, lifetimes), lifetimes)
        farm.wait_until_ready()
        yield farm
