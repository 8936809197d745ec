"""`python -m bench.http_cache`: a blob of 16 KiB by plain HTTP, compared with the ByteStream.

One server of the memory configuration answers the same questions in turns: over HTTP/2 by gRPC,
over HTTP/2 and HTTP/1.1 without. The figure is processor time per call, the least of all rounds.
Writes are of new blobs by gRPC, and of an entry that is replaced by HTTP (h2load repeats one
request); both are stored in memory, only the blob is not hashed: neither configuration verifies.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import loader
from bench.cases import CASES
from bench.data import blob, digests, populate
from bench.requests import unique_writes
from bench.servers import LOAD_CORE, ROOT, Server, start_ours

SIZE = 16 * 1024
_HTTP2 = ("-m", "8")
_HTTP1 = ("--h1",)


def ask(server: Server, path: str, calls: int, *options: str) -> None:
    """The same plain request again and again, over four connections."""
    command = ["taskset", "-c", str(LOAD_CORE), "h2load", "-n", str(calls), "-c", "4", *options]
    command += ["-w", "24", "-W", "26", f"http://{server.host}:{server.port}{path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if f"status codes: {calls} 2xx" not in done.stdout:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def cases(server: Server, calls: int, body: Path) -> dict[str, Callable[[int], None]]:
    """What is asked, by name; each is given the number of the round."""
    read = next(case for case in CASES if case.name == "Read 16 KiB")
    assert read.message is not None
    message = read.message()[5:]
    put = ("-H", ":method: PUT", "-d", str(body))
    blob_path = f"/cas/{digests(SIZE, 1)[0].hash}"

    def by_grpc(requests: list[loader.Request]) -> None:
        loader.run((server.host, server.port), requests, connections=4, concurrency=8)

    return {
        "read, ByteStream": lambda _: by_grpc([loader.Request.of(read.path, (message,))] * calls),
        "read, HTTP/2": lambda _: ask(server, blob_path, calls, *_HTTP2),
        "read, HTTP/1.1": lambda _: ask(server, blob_path, calls, *_HTTP1),
        "write, ByteStream": lambda turn: by_grpc(unique_writes(SIZE)(turn, calls)),
        "write, HTTP/2": lambda _: ask(server, "/cache/x", calls, *_HTTP2, *put),
        "write, HTTP/1.1": lambda _: ask(server, "/cache/x", calls, *_HTTP1, *put),
    }


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.http_cache", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=5_000, help="per round")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    least: dict[str, float] = {}
    with start_ours("memory") as server, tempfile.NamedTemporaryFile() as body:
        Path(body.name).write_bytes(blob(SIZE))
        with server.client() as client:
            populate(client)
        asked = cases(server, options.calls, Path(body.name))
        for turn in range(options.rounds):
            for name, run in asked.items():
                before = server.cpu_s()
                run(turn)
                cost = (server.cpu_s() - before) / options.calls * 1e6
                least[name] = min(cost, least.get(name, cost))
    outcome = {
        name: {
            "cpu_us": round(cost, 1),
            "of_byte_stream": round(cost / least[f"{name.partition(',')[0]}, ByteStream"], 2),
        }
        for name, cost in least.items()
    }
    text = json.dumps(outcome, indent=1)
    (ROOT / "docs/benchmarks-http-cache.json").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
