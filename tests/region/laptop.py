"""`make region-local` as a process, as a person uses it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.execution.gate import wait_for

__all__ = ["PATIENCE_S", "Laptop", "alarms", "changed", "pools", "running_region"]

ROOT = Path(__file__).parents[2]
GROUP = "nl-minimal-worker-x86"
#: With anything here, on a machine with other things to do.
PATIENCE_S = 900


class Laptop:
    """A region that was started, and what it said.

    Attributes:
        folder: its disks and logs.
        started_at: monotonic seconds when there was nothing yet.
        seen: how many workers there were, whenever that changed.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.started_at = time.monotonic()
        self.seen: list[int] = []
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)
            if found := re.search(rf"{GROUP} (\d+)/", line):
                self.seen.append(int(found[1]))

    @property
    def said(self) -> str:
        """All that it printed so far."""
        return "".join(self._lines)

    def wait_until_up(self) -> None:
        """Return when it serves."""

        def up() -> bool:
            assert self.process.poll() is None, self.said
            return "serving after" in self.said and "# .bazelrc" in self.said

        wait_for(up, "the region serves", timeout_s=PATIENCE_S, every_s=0.5)

    @property
    def bazelrc(self) -> str:
        """The lines for .bazelrc."""
        lines = self.said.partition("# .bazelrc\n")[2].splitlines(keepends=True)
        return "".join(line for line in lines if line.startswith("build "))

    def client(self, service: str) -> Any:
        """boto3's client of a service of AWS."""
        endpoint = re.search(r"AWS at (\S+)", self.said)
        assert endpoint
        return boto3.client(
            service,
            endpoint_url=endpoint[1],
            region_name="eu-central-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
            config=Config(s3={"addressing_style": "path"}),
        )

    def wait_until_nobody_works(self) -> None:
        """Return when the group has no worker any more."""
        client = self.client("autoscaling")

        def is_empty() -> bool:
            found = client.describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])
            (group,) = found["AutoScalingGroups"]
            return not group["Instances"]

        wait_for(is_empty, "all workers leave", timeout_s=PATIENCE_S, every_s=1)
        client.close()

    def keys(self, bucket: str) -> set[str]:
        """Names of all objects."""
        client = self.client("s3")
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        found = {each["Key"] for page in pages for each in page.get("Contents", ())}
        client.close()
        return found

    def interrupt(self) -> bool:
        """`make interrupt`; False if there is no worker to interrupt."""
        done = subprocess.run(
            [sys.executable, "-m", "scripts.region_local", "interrupt", "--folder", self.folder],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or "no worker" in done.stderr, done.stderr
        return done.returncode == 0

    def stop(self) -> int:
        """Ctrl-C; gives its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        return code


def environment() -> dict[str, str]:
    """Of the command."""
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'app'}:{ROOT}", "PYTHONUNBUFFERED": "1"}


@contextmanager
def running_region(folder: Path, *arguments: str) -> Iterator[Laptop]:
    """A region, up; killed at the end if it still runs."""
    command = [sys.executable, "-m", "scripts.region_local", "--folder", str(folder), *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        laptop = Laptop(process, folder)
        try:
            laptop.wait_until_up()
            yield laptop
        finally:
            laptop.stop()


def pools(laptop: Laptop) -> dict[str, list[str]]:
    """Pools whose metrics CloudWatch has, by the metrics' names."""
    client = laptop.client("cloudwatch")
    found: dict[str, list[str]] = {}
    for page in client.get_paginator("list_metrics").paginate(Namespace="NativeLink/minimal"):
        for each in page["Metrics"]:
            # Those of the cas role have no dimension; interruptions are counted by others too.
            pool = [pair["Value"] for pair in each["Dimensions"] if pair["Name"] == "Pool"]
            found.setdefault(each["MetricName"], []).extend(pool)
    client.close()
    return found


def alarms(laptop: Laptop) -> dict[str, dict[str, Any]]:
    """What CloudWatch says of every alarm, by name."""
    client = laptop.client("cloudwatch")
    pages = client.get_paginator("describe_alarms").paginate()
    found = {each["AlarmName"]: each for page in pages for each in page["MetricAlarms"]}
    client.close()
    return found


def changed(laptop: Laptop) -> set[tuple[str, str]]:
    """Alarms that changed, each with its new state."""
    return set(re.findall(r"alarm (\S+): \w+ -> (\w+)", laptop.said))
