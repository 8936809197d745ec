#!/usr/bin/env python3
"""Play days of builds against the scaling policies, and say what waiting and money they cost.

    scripts/simulate_fleet.py                       the four days with the shipped defaults
    scripts/simulate_fleet.py working-day --idle-after 120 --largest 50
    scripts/simulate_fleet.py --write               also write docs/fleet-simulation.md, plots

The pool, the policies and EC2 are in bench/fleet; time is virtual, so a day takes some seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.fleet.prices import C5_2XLARGE  # noqa: E402 - the script may start anywhere
from bench.fleet.report import FAST, LARGE, LARGEST, UNBOUNDED, page, row, verdicts  # noqa: E402
from bench.fleet.simulation import Outcome, Policy, simulate  # noqa: E402
from bench.fleet.traces import TRACES, Trace, working_day  # noqa: E402
from nativelink.aws.scaling import ScalingRule  # noqa: E402

_PAGE: Final = ROOT / "docs" / "fleet-simulation.md"


def shipped() -> Policy:
    """The defaults of infra/settings.py and of the worker's configuration."""
    rule = ScalingRule(C5_2XLARGE.slots, target=0.8, smallest=0, largest=20, boot_s=90)
    return Policy(rule, C5_2XLARGE, idle_after_s=15)


def main(arguments: Sequence[str]) -> int:
    """Simulate; 1 if an action was lost."""
    policy = shipped()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", nargs="*", metavar="TRACE", help=", ".join(TRACES))
    parser.add_argument("--idle-after", type=float, default=policy.idle_after_s, metavar="SECONDS")
    parser.add_argument("--target", type=float, default=policy.rule.target, metavar="FRACTION")
    parser.add_argument("--smallest", type=int, default=policy.rule.smallest, metavar="WORKERS")
    parser.add_argument("--largest", type=int, default=policy.rule.largest, metavar="WORKERS")
    parser.add_argument("--boot", type=float, default=policy.rule.boot_s, metavar="SECONDS")
    parser.add_argument("--on-demand", type=int, default=0, metavar="WORKERS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the page and its plots")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.traces) - set(TRACES):
        parser.error(f"no trace {', '.join(sorted(unknown))}; there are {', '.join(TRACES)}")
    policy = replace(
        policy,
        rule=replace(
            policy.rule,
            target=asked.target,
            smallest=asked.smallest,
            largest=asked.largest,
            boot_s=asked.boot,
        ),
        idle_after_s=asked.idle_after,
        on_demand_base=asked.on_demand,
    )
    found: list[tuple[Trace, Outcome]] = []
    for name in asked.traces or TRACES:
        trace = TRACES[name]()
        outcome = simulate(trace, policy, seed=asked.seed)
        found.append((trace, outcome))
        print(f"{name:16} {row(outcome)}", flush=True)
    for line in verdicts(found, policy):
        print(line)
    if asked.write:
        trade = _trade_offs(policy)
        many = replace(policy, rule=replace(policy.rule, largest=LARGEST))
        large = simulate(LARGE, many), simulate(LARGE, replace(many, bounded=False))
        page(_PAGE, found, policy, trade, large)
    return int(any(outcome.done != outcome.asked for _, outcome in found))


def _trade_offs(policy: Policy) -> list[tuple[str, Outcome]]:
    """The working day with other choices, and working days of other farms."""
    rule = policy.rule
    late = replace(policy, idle_after_s=120)
    choices: list[tuple[str, Policy]] = [
        *(
            (f"idle workers end after {seconds} s", replace(policy, idle_after_s=seconds))
            for seconds in (30, 60)
        ),
        (FAST, late),
        (UNBOUNDED, replace(late, bounded=False)),
        ("15 s, and a queue counts without a bound", replace(policy, bounded=False)),
        ("target 100%", replace(policy, rule=replace(rule, target=1.0))),
        ("at most 8 workers", replace(policy, rule=replace(rule, largest=8))),
        *((f"machines of {slots} processors", _sized(policy, slots)) for slots in (4, 16)),
        ("machines that boot in 45 s", replace(policy, rule=replace(rule, boot_s=45))),
        ("machines that are paid for 30 s while they end", replace(policy, ending_s=30)),
        (
            "2 workers always, on demand",
            replace(policy, rule=replace(rule, smallest=2), on_demand_base=2),
        ),
    ]
    day = working_day()
    found = [(name, simulate(day, choice)) for name, choice in choices]
    for seed in (1, 2, 3):
        found.append((f"another such day ({seed})", simulate(working_day(seed=seed), policy)))
    few = working_day(20)
    found.append(("20 developers", simulate(few, policy)))
    found.append(("20 developers, idle workers end after 120 s", simulate(few, late)))
    many = replace(policy, rule=replace(rule, largest=60))
    found.append(("180 developers, at most 60 workers", simulate(working_day(180), many)))
    return found


def _sized(policy: Policy, slots: int) -> Policy:
    """As many processors at the same price, in machines of another size."""
    times = slots / policy.rule.slots
    price = policy.price
    return replace(
        policy,
        rule=replace(policy.rule, slots=slots, largest=round(policy.rule.largest / times)),
        price=replace(
            price, slots=slots, spot=price.spot * times, on_demand=price.on_demand * times
        ),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
