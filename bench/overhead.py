"""`python -m bench.overhead`: what metrics and logging cost of the unary rate.

Two servers of the memory configuration, one as it comes and one with logging off and without
whatever counts calls, answer the same calls in turns. The figure is processor time per call, the
least of all rounds: other programs on the machine disturb that less than they disturb rates.
"""

from __future__ import annotations

import argparse
import json
import sys

from bench import h2load
from bench.cases import CASES, populate
from bench.servers import Server, start_ours

LIMIT = 0.05
QUIET = (sys.executable, "-m", "bench.quiet_server")
NAMES = ("GetCapabilities", "FindMissingBlobs 1 present", "GetActionResult hit")


def cost_us(server: Server, name: str, seconds: float) -> float:
    """Processor microseconds per call."""
    case = next(case for case in CASES if case.name == name)
    assert case.message is not None
    before = server.cpu_s()
    load = h2load.repeat(
        f"http://{server.host}:{server.port}{case.path}",
        case.message(),
        connections=case.connections,
        streams=case.streams,
        seconds=seconds,
        warm_up_s=0.1,
    )
    # The warm-up's calls are in the time but not in the count: both grow by the same share.
    return (server.cpu_s() - before) / (load.rate * (seconds + 0.1)) * 1e6


def main() -> int:
    """Run, print, and fail if the cost is above the limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5)
    options = parser.parse_args()
    outcome: dict[str, float] = {}
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
                watched.append(cost_us(loud, name, options.seconds))
                unwatched.append(cost_us(quiet, name, options.seconds))
            outcome[name] = round(min(watched) / min(unwatched) - 1, 3)
    print(json.dumps(outcome, indent=1))
    return 0 if max(outcome.values()) < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
