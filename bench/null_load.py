"""The loader against a server that does nothing: above these rates the loader is the limit."""

from __future__ import annotations

import os
import subprocess
import sys

from bench.data import MIB
from bench.loader import run
from bench.requests import unique_batches, unique_results, unique_writes

__all__ = ["ceiling"]


def ceiling(server_core: int) -> dict[str, float]:
    """Calls per second per kind of unique write."""
    command = ["taskset", "-c", f"{server_core}", sys.executable, "-m", "bench.null_server"]
    kinds = {
        "Write 16 KiB, unique": (unique_writes(16 * 1024), 10000, 8),
        "Write 1 MiB, unique": (unique_writes(MIB), 400, 2),
        "UpdateActionResult, unique": (unique_results, 20000, 8),
        "BatchUpdateBlobs 10 x 4 KiB, unique": (unique_batches, 3000, 2),
    }
    rates = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        assert server.stdout is not None
        try:
            address = ("127.0.0.1", int(server.stdout.readline()))
            for name, (make, count, streams) in kinds.items():
                rates[name] = run(address, make(0, count), concurrency=streams).rate
        finally:
            server.kill()
    return rates
