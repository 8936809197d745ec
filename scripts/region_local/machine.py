"""One instance as a process that lives as long as the instance does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import nativelink
from nativelink.testing.imds import FakeImds
from scripts.region_local.processes import kill_tree
from scripts.region_local.resources import Instance

__all__ = ["Machine", "Stage"]

PROGRAM: Final = Path(sys.executable).with_name("nativelink")
CONFIGS: Final = Path(nativelink.__file__).parent / "configs"
METADATA_PORT: Final = 1338
#: After a program that failed, as the systemd unit has it.
_RESTART_S: Final = 2.0
#: Health checks in a row that fail until a machine is not healthy, as load balancers are deployed.
_UNHEALTHY: Final = 3
#: Of the machine's own environment; the rest of it is not the machine's.
_KEPT: Final = ("PATH", "LANG")


class Stage(StrEnum):
    """Where in its life a machine is."""

    BOOTING = "booting"
    STARTING = "starting"
    IN_SERVICE = "in service"
    LEAVING = "leaving"
    STOPPING = "stopping"
    GONE = "gone"


class Machine:
    """Not thread-safe.

    Args:
        instance: which.
        address: where it is on this machine.
        folder: its disk; removed with it.
        metadata: what its metadata service says at first.
        now: monotonic seconds.

    Attributes:
        role: known once it has booted.
        healthy: whether its load balancer may use it.
        ends_at: when its spot notice is over; None without.
    """

    def __init__(
        self,
        instance: Instance,
        address: str,
        folder: Path,
        metadata: Mapping[str, str],
        now: float,
    ) -> None:
        self.instance = instance
        self.address = address
        self.folder = folder
        self.stage = Stage.BOOTING
        self.role = ""
        self.launched_at = now
        self.ends_at: float | None = None
        self.healthy = False
        self._environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._restart_at: float | None = None
        self._kill_at = 0.0
        folder.mkdir(parents=True)
        self._imds = FakeImds(address, METADATA_PORT)
        self._imds.said |= metadata
        self._imds.__enter__()

    @property
    def metadata(self) -> str:
        """URL of its metadata service."""
        return self._imds.url

    @property
    def log(self) -> Path:
        """What its program says. Beside the disk: it outlives the machine."""
        return self.folder.with_suffix(".log")

    @property
    def pid(self) -> int | None:
        """Of its program while it runs."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._process else None

    # -- its program ---------------------------------------------------------------------------

    def start(self, environment: Mapping[str, str]) -> None:
        """It has booted: run the role's program."""
        self._environment = dict(environment)
        self.role = environment["NATIVELINK_ROLE"]
        self.stage = Stage.STARTING
        self._run()

    def _run(self) -> None:
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(PROGRAM), str(CONFIGS / f"{self.role}.json5")],
                cwd=self.folder,
                env={**kept, "HOME": str(self.folder), **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # The terminal's Ctrl-C is for us; machines are stopped in their turn.
                start_new_session=True,
            )

    def tend(self, now: float) -> str:
        """Start a program again that failed, as systemd does; gives what happened, if anything."""
        if self._process is None or self.stage in {Stage.LEAVING, Stage.STOPPING, Stage.GONE}:
            return ""
        code = self._process.poll()
        if code is None or code == 0:
            return ""
        if self._restart_at is None:
            self._restart_at = now + _RESTART_S
            return f"its program failed with code {code}; {_last_line(self.log)}"
        if now >= self._restart_at:
            self._restart_at = None
            self._run()
        return ""

    def examined(self, *, well: bool) -> None:
        """A load balancer asked how it is."""
        self._failures = 0 if well else self._failures + 1
        self.healthy = well or (self.healthy and self._failures < _UNHEALTHY)

    # -- its end -------------------------------------------------------------------------------

    def take_back(self, now: float, seconds: float, wall: float) -> None:
        """A spot notice: the machine is gone after so many seconds.

        Args:
            now: monotonic seconds.
            seconds: that are left.
            wall: seconds since the Unix epoch, of now.
        """
        self.ends_at = now + seconds
        time = datetime.fromtimestamp(wall + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._imds.said["spot/instance-action"] = json.dumps({"action": "terminate", "time": time})

    def leave(self) -> None:
        """Its group does not want it any more."""
        self.stage = Stage.LEAVING
        self._imds.said["autoscaling/target-lifecycle-state"] = "Terminated"

    def stop(self, now: float, patience_s: float) -> None:
        """Shut down: the program is asked to end, and killed when the patience is over."""
        self.stage = Stage.STOPPING
        self._kill_at = now + patience_s
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stopped(self, now: float) -> bool:
        """Whether shutting down is over; then the machine is gone."""
        running = self._process is not None and self._process.poll() is None
        if running and now < self._kill_at:
            return False
        self.kill()
        return True

    def kill(self) -> None:
        """Take away its power, and its disk."""
        if self._process is not None:
            if self._process.poll() is None:
                kill_tree(self._process.pid)
            self._process.wait()
        if self.stage is not Stage.GONE:
            self._imds.__exit__(None, None, None)
        self.stage = Stage.GONE
        self.healthy = False
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
