"""Our program with stores of a test's own, behind the services that a cache needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.clients.programs import running, wait_until_ready
from tests.ports import free_port

__all__ = ["Served", "services"]

_NATIVELINK = Path(sys.executable).with_name("nativelink")


def services(cas: str = "CAS", ac: str = "AC", *, instance: str = "main") -> dict[str, Any]:
    """A cache's services over two stores."""
    return {
        "cas": [{"instance_name": instance, "cas_store": cas}],
        "ac": [{"instance_name": instance, "ac_store": ac}],
        "bytestream": [{"instance_name": instance, "cas_store": cas}],
        "capabilities": [{"instance_name": instance}],
        "health": {},
    }


class Served:
    """A server process that may be killed, drained and started again.

    Args:
        folder: takes configuration and log.
        lifetimes: whoever leaves them ends it.
        config: a tree, whose `servers` are added if it has none; or the text of a file, in which
            `PORT` stands for the port.
        environment: variables for it.

    Attributes:
        port: where it listens.
        process: the one that runs now.
    """

    def __init__(
        self,
        folder: Path,
        lifetimes: ExitStack,
        config: Mapping[str, Any] | str,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log_file = folder / "log"
        self._file = folder / "config.json5"
        if not isinstance(config, str):
            listener = {"http": {"socket_address": "127.0.0.1:PORT"}}
            servers = [{"listener": listener, "services": services()}]
            config = json.dumps({"servers": servers, **config}, indent=2)
        self._file.write_text(config.replace("PORT", str(self.port)))
        self._lifetimes = lifetimes
        self._environment = {"HOME": os.environ.get("HOME", "/"), **(environment or {})}
        self.start()

    def start(self) -> None:
        """Run it, and wait until it answers."""
        self.process: subprocess.Popen[bytes] = self._lifetimes.enter_context(
            running([_NATIVELINK, self._file], self.log_file, environment=self._environment)
        )
        wait_until_ready(f"127.0.0.1:{self.port}", self.log_file, process=self.process)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(240)

    def restart(self) -> None:
        """End it as a deployment would, and start it again."""
        self.process.terminate()
        assert self.process.wait(240) == 0, self.log
        self.start()

    @property
    def bazel_flags(self) -> list[str]:
        """A Bazel that uses its cache, and has no second tries that would hide those of ours."""
        return [
            f"--remote_cache=grpc://127.0.0.1:{self.port}",
            "--remote_instance_name=main",
            # Longer than a back end is away.
            "--remote_timeout=120",
            "--remote_retries=0",
        ]

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self.log_file.read_text(errors="replace")
