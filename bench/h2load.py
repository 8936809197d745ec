"""h2load: repeats one request as fast as the server answers, or at a given rate."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.servers import LOAD_CORE

__all__ = ["Load", "repeat"]


class H2loadError(Exception):
    """h2load's run is worthless: failed requests, or none at all."""


@dataclass(frozen=True)
class Load:
    """What one run of h2load measured.

    Attributes:
        rate: requests per second, after warm-up.
        data_per_call: bytes of DATA per answer; answers that end during warm-up blur it a little.
        latencies_us: sorted; only of runs at a given rate.
    """

    rate: float
    data_per_call: float
    latencies_us: tuple[int, ...] = ()


def repeat(
    url: str,
    body: bytes,
    *,
    connections: int,
    streams: int,
    seconds: float,
    warm_up_s: float,
    rate: float | None = None,
) -> Load:
    """Send one request again and again.

    Args:
        url: whole URL; `https` is not verified, as h2load never does.
        body: gRPC-framed messages.
        rate: calls per second over all connections, or None for as many as go.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder, "body"), Path(folder, "log")
        data.write_bytes(body)
        command = ["taskset", "-c", str(LOAD_CORE), "h2load", "-c", f"{connections}"]
        command += [
            "-m",
            f"{streams}",
            "-D",
            f"{seconds * 1000:.0f}ms",
            f"--warm-up-time={warm_up_s * 1000:.0f}ms",
        ]
        command += ["-w", "24", "-W", "26", "-d", str(data)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        if rate is not None:
            command += [f"--rps={max(1.0, rate / connections):.1f}", f"--log-file={log}"]
        done = subprocess.run([*command, url], capture_output=True, text=True, check=False)
        text = done.stdout + done.stderr
        latencies: tuple[int, ...] = ()
        if rate is not None and log.exists():
            latencies = tuple(sorted(int(line.split("\t")[2]) for line in log.open()))
    calls = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    speed = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", text)
    traffic = re.search(r"\((\d+)\) data", text)
    if not (calls and speed and traffic) or int(calls[1]) == 0:
        raise H2loadError(f"{' '.join(command)} {url}\n{text}")
    if any(int(calls[n]) for n in (2, 3, 4)):
        raise H2loadError(f"failed requests: {calls[0]}\n{text}")
    return Load(float(speed[1]), int(traffic[1]) / int(calls[1]), latencies)
