"""`python -m bench.origin_events`: what origin events cost of the scheduling rate.

Two schedulers of the same configuration, one of which publishes origin events into memory, give the
same actions to workers that execute nothing, in turns. The figure is processor time per action, the
least of all rounds. Off, nothing of them runs: the scheduler is told nothing that it is not told
otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack

from bench.actions import Actions, check, nothing_actions
from bench.execution import execute, noop_workers
from bench.servers import ROOT, Server, start_scheduler

LIMIT = 0.10


def cost_us(server: Server, actions: Actions) -> float:
    """Processor microseconds per action."""
    with server.client() as client:
        actions.upload(client)
    before = server.cpu_s()
    outcome = execute(server, actions, 4, 100)
    took = server.cpu_s() - before
    check(outcome.answers, actions)
    return took / len(actions.requests) * 1e6


def main() -> int:
    """Run, print, and fail if the cost is above the limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.origin_events", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--actions", type=int, default=5_000, help="per round")
    options = parser.parse_args()
    with ExitStack() as stack:
        servers = {}
        for name in ("off", "on"):
            server = stack.enter_context(start_scheduler(origin_events=name == "on"))
            stack.enter_context(noop_workers(server))
            servers[name] = server
        costs: dict[str, list[float]] = {"off": [], "on": []}
        for turn in range(options.rounds + 1):
            actions = nothing_actions(turn, options.actions)
            for name, server in servers.items():
                cost = cost_us(server, actions)
                # The first turn loads and grows what all later ones find.
                if turn:
                    costs[name].append(cost)
    off, on = min(costs["off"]), min(costs["on"])
    outcome = {
        "microseconds per action without": round(off, 1),
        "microseconds per action with": round(on, 1),
        "cost": round(on / off - 1, 3),
    }
    text = json.dumps(outcome, indent=1)
    (ROOT / "docs/benchmarks-origin-events.json").write_text(text + "\n")
    print(text)
    return 0 if outcome["cost"] < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
