"""`python -m bench.overhead`: what metrics and logging cost of the unary rate.

Two servers of the memory configuration, one as it comes and one with logging off and without
whatever counts calls, answer the same calls in turns. The figure is processor time per call, the
least of all rounds: other programs on the machine disturb that less than they disturb rates.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from bench import loader
from bench.cases import CASES, populate
from bench.servers import LOAD_CORE, ROOT, Server, start_ours

LIMIT = 0.05
QUIET = (sys.executable, "-m", "bench.quiet_server")
NAMES = ("GetCapabilities", "FindMissingBlobs 1 present", "GetActionResult hit")


def cost_us(server: Server, name: str, calls: int) -> float:
    """Processor microseconds per call."""
    case = next(case for case in CASES if case.name == name)
    assert case.message is not None
    requests = [loader.Request.of(case.path, (case.message()[5:],))] * calls
    before = server.cpu_s()
    loader.run((server.host, server.port), requests)
    return (server.cpu_s() - before) / calls * 1e6


def main() -> int:
    """Run, print, and fail if the cost is above the limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=30_000, help="per round")
    options = parser.parse_args()
    outcome: dict[str, float] = {}
    os.sched_setaffinity(0, {LOAD_CORE})
    with (
        start_ours("memory", name="with metrics and logs") as loud,
        start_ours(
            "memory", name="without", program=QUIET, environment={"RUST_LOG": "off"}
        ) as quiet,
    ):
        for server in (loud, quiet):
            with server.client() as client:
                populate(client)
        for name in NAMES:
            watched, unwatched = [], []
            for _ in range(options.rounds):
                watched.append(cost_us(loud, name, options.calls))
                unwatched.append(cost_us(quiet, name, options.calls))
            outcome[name] = round(min(watched) / min(unwatched) - 1, 3)
    text = json.dumps(outcome, indent=1)
    (ROOT / "docs/benchmarks-overhead.json").write_text(text + "\n")
    print(text)
    return 0 if max(outcome.values()) < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
