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

__all__ = ["FarmProcesses", "WorkerProcess", "open_processes"]

_NATIVELINK = Path(sys.executable).with_name("nativelink")


class WorkerProcess:
    """One worker; it may be killed and started again.

    Args:
        folder: its own.
        ports: of the farm.
        name: what its id begins with.
        worker: fields of its configuration.
        lifetimes: whoever leaves them ends it.
    """

    def __init__(
        self, folder: Path, ports: Ports, name: str, worker: Json, lifetimes: ExitStack
    ) -> None:
        folder.mkdir(parents=True)
        self.name = name
        self.log = folder / "log"
        self._file = folder / "worker.json5"
        self._file.write_text(
            json.dumps(worker_config(folder, ports, name=name, worker=worker), indent=2)
        )
        self._lifetimes = lifetimes
        self.start()

    def start(self) -> None:
        """Run it."""
        environment = {"HOME": os.environ.get("HOME", "/")}
        self.process: subprocess.Popen[bytes] = self._lifetimes.enter_context(
            running([_NATIVELINK, self._file], self.log, environment=environment)
        )

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(30)

    def drain(self) -> None:
        """Ask it to leave."""
        self.process.send_signal(signal.SIGTERM)


class FarmProcesses:
    """Cache and scheduler in one process, workers in others.

    Attributes:
        ports: where clients and workers connect.
        log: what the scheduler's process says.
    """

    def __init__(self, folder: Path, ports: Ports, log: Path, lifetimes: ExitStack) -> None:
        self.ports = ports
        self.log = log
        self._folder = folder
        self._lifetimes = lifetimes

    def add_worker(self, name: str, **worker: Any) -> WorkerProcess:
        """Start a worker."""
        return WorkerProcess(self._folder / name, self.ports, name, worker, self._lifetimes)

    def client(self) -> ExecutionClient:
        """A client; use it as a context manager."""
        return ExecutionClient(f"127.0.0.1:{self.ports.public}", instance="main")


@contextmanager
def open_processes(
    folder: Path, *, worker: Json | None = None, scheduler: Json | None = None
) -> Iterator[FarmProcesses]:
    """Start cache and scheduler, with a worker in the same process if `worker` is given."""
    folder.mkdir(parents=True, exist_ok=True)
    ports, file, log = Ports.free(), folder / "farm.json5", folder / "log"
    file.write_text(
        json.dumps(farm_config(folder, ports, worker=worker, scheduler=scheduler), indent=2)
    )
    environment = {"HOME": os.environ.get("HOME", "/")}
    with (
        running([_NATIVELINK, file], log, environment=environment) as process,
        ExitStack() as lifetimes,
    ):
        wait_until_ready(f"127.0.0.1:{ports.public}", log, process=process)
        yield FarmProcesses(folder, ports, log, lifetimes)
