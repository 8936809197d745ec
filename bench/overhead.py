"""`python -m bench.overhead`: what metrics and logging cost of the unary rate.

One server of the memory configuration has two listeners: one as it comes, and one without whatever
counts calls. They answer the same calls in turns, so that nothing else differs between them. The
figure is the median, of all turns, of the ratio of processor time per call: other programs on the
machine disturb that least. The access log is off, as it is unless somebody asks for it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from statistics import median

from bench import loader
from bench.cases import CASES
from bench.data import populate
from bench.servers import LOAD_CORE, ROOT, Server, start_ours

LIMIT = 0.05
PROGRAM = (sys.executable, "-m", "bench.quiet_server")
NAMES = ("GetCapabilities", "FindMissingBlobs 1 present", "GetActionResult hit")


def cost_us(server: Server, port: int, name: str, calls: int) -> float:
    """Processor microseconds per call."""
    case = next(case for case in CASES if case.name == name)
    assert case.message is not None
    requests = [loader.Request.of(case.path, (case.message()[5:],))] * calls
    before = server.cpu_s()
    loader.run((server.host, port), requests)
    return (server.cpu_s() - before) / calls * 1e6


def main() -> int:
    """Run, print, and fail if the cost is above the limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=10_000, help="per round")
    options = parser.parse_args()
    outcome: dict[str, float] = {}
    os.sched_setaffinity(0, {LOAD_CORE})
    with start_ours("memory", program=PROGRAM, unwatched=True) as server:
        with server.client() as client:
            populate(client)
        for name in NAMES:
            ratios: list[float] = []
            for number in range(options.rounds):
                ports = [server.port, server.unwatched_port]
                # Whoever comes first has the warmer processor.
                ports = ports if number % 2 else ports[::-1]
                costs = {port: cost_us(server, port, name, options.calls) for port in ports}
                ratios.append(costs[server.port] / costs[server.unwatched_port])
            outcome[name] = round(median(ratios) - 1, 3)
    text = json.dumps(outcome, indent=1)
    (ROOT / "docs/benchmarks-overhead.json").write_text(text + "\n")
    print(text)
    return 0 if max(outcome.values()) < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
