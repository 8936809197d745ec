"""`python -m bench.scheduler`: how many decisions a second, and is a decision's cost flat?

The pure machine alone, in virtual time: no sockets, no messages. 2,000 workers of 50 kinds with
16 CPUs and 64 GB each are full; the queue is kept at a length while results come in and further
actions are asked for. A decision is a queued action that is given to a worker: it pays for the
result that made room, from its arrival to the effects that start what was found. Asking for the
action that takes its place in the queue is measured beside it. Half of the actions want one of 50
pools (a kind each), half any machine of their system; each asks for 1 to 8 CPUs and 1 to 4 GB,
with one of three priorities: 624 different requirements. With 1,000 queued hardly two ask for the
same and most that fit anywhere run already, so several results come in per decision.

Processor time of the machine's calls alone; lengths take turns in rounds; between rounds a loop
of plain Python that does not change (pushing into a heap, a dictionary, a call) says how fast the
computer is at that moment, so that runs can be compared: "baselines" are its turns.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.report import machine as machine_described
from nativelink.core.digest import Digest, DigestFunction
from nativelink.scheduler import events
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.effects import StartExecution
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.policy import Allocation, Policy, PropertyKind

DOCS = Path(__file__).resolve().parent.parent / "docs"
LENGTHS = (1_000, 3_000, 10_000, 30_000, 100_000)
WORKERS = 2_000
KINDS = 50
MUST_PER_S = 20_000


class Load:
    """A machine whose queue is kept at a length."""

    def __init__(self, length: int, allocation: Allocation) -> None:
        self.length = length
        self.allocation = allocation
        self.random = random.Random(length)
        self.machine = Machine(
            Policy(
                supported_properties={
                    "cpu_count": PropertyKind.MINIMUM,
                    "memory_kb": PropertyKind.MINIMUM,
                    "OSFamily": PropertyKind.EXACT,
                    "pool": PropertyKind.EXACT,
                },
                allocation=allocation,
                worker_timeout_s=1e9,
            )
        )
        self.now = 1_700_000_000.0
        self.asked = 0
        self.running: list[tuple[str, str]] = []
        for number in range(WORKERS):
            kind = number % KINDS
            self.handle(
                events.WorkerJoined(
                    f"worker-{number}",
                    (
                        ("OSFamily", _system(kind)),
                        ("cpu_count", "16"),
                        ("memory_kb", "64000000"),
                        ("pool", f"pool-{kind}"),
                    ),
                )
            )
        while self.machine.queued < length:
            self.handle(self.request())

    def request(self) -> events.ExecuteRequested:
        """Another action, unlike all before."""
        self.asked += 1
        kind = self.random.randrange(KINDS)
        properties = [
            ("OSFamily", _system(kind)),
            ("cpu_count", str(self.random.choice((1, 2, 4, 8)))),
            ("memory_kb", str(self.random.choice((1, 2, 4)) * 1_000_000)),
        ]
        if self.random.random() < 0.5:
            properties.append(("pool", f"pool-{kind}"))
        action = ActionInfo(
            ActionKey("main", DigestFunction.SHA256, Digest(f"{self.asked:064x}", 1)),
            tuple(properties),
            priority=self.random.randrange(3),
        )
        return events.ExecuteRequested(f"main/{self.asked}", f"operation-{self.asked}", action)

    def result(self) -> events.ExecutionFinished:
        """A result of something that runs."""
        place = self.random.randrange(len(self.running))
        worker_id, operation_id = self.running[place]
        self.running[place] = self.running[-1]
        self.running.pop()
        return events.ExecutionFinished(worker_id, operation_id, b"an encoded ExecuteResponse")

    def handle(self, event: events.Event) -> tuple[float, int]:
        """Processor seconds that the machine took, and how many decisions it came to."""
        self.now += 1e-4
        began = time.process_time()
        found = self.machine.handle(event, self.now)
        took = time.process_time() - began
        started = [
            (effect.worker_id, effect.operation_id)
            for effect in found
            if type(effect) is StartExecution
        ]
        self.running += started
        return took, len(started)

    def round(self, decisions: int) -> tuple[float, float]:
        """Processor seconds per decision, and per action that is asked for."""
        deciding = asking = 0.0
        made = asked = 0
        while made < decisions:
            # Results that make room for several actions would shorten the queue.
            while self.machine.queued < self.length:
                asking += self.handle(self.request())[0]
                asked += 1
            took, started = self.handle(self.result())
            deciding += took
            made += started
            # What is over is forgotten some time, which costs as well.
            due = self.machine.next_deadline()
            if due is not None and due <= self.now:
                deciding += self.handle(events.Tick())[0]
        return deciding / made, asking / asked


def _system(kind: int) -> str:
    return "linux" if kind % 2 else "windows"


def baseline() -> float:
    """Processor seconds of a fixed piece of plain Python."""
    heap: list[tuple[int, int]] = []
    began = time.process_time()
    for number in range(20_000):
        heapq.heappush(heap, (number * 7919 % 20_011, number))
        _ = {"a": number, "b": (number, number)}["b"][0] + _same(number)
    return (time.process_time() - began) / 20_000


def _same(number: int) -> int:
    return number


@dataclass
class Series:
    """Of each round, seconds per decision, per request, and per turn of the baseline then."""

    took: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)

    @property
    def best_us(self) -> float:
        return min(self.took) * 1e6

    @property
    def median_us(self) -> float:
        return statistics.median(self.took) * 1e6

    @property
    def relative(self) -> float:
        """Of the median round, as a multiple of the baseline."""
        return statistics.median(
            took / reference for took, reference in zip(self.took, self.reference, strict=True)
        )


def measure(rounds: int, decisions: int) -> dict[tuple[Allocation, int], Series]:
    """Every length, in turns."""
    loads = [Load(length, allocation) for allocation in Allocation for length in LENGTHS]
    gc.collect()
    found = {(load.allocation, load.length): Series() for load in loads}
    for turn in range(rounds):
        for load in loads if turn % 2 == 0 else reversed(loads):
            series = found[load.allocation, load.length]
            before = baseline()
            deciding, asking = load.round(decisions)
            series.took.append(deciding)
            series.asked.append(asking)
            series.reference.append((before + baseline()) / 2)
    return found


# -- the page -------------------------------------------------------------------------------------

PLOT_TITLE = (
    "Processor time per decision, in microseconds: median round (dots) and best round (ends of the "
    "bars)"
)
PAGE = """# The scheduler's machine, measured

<!-- Written by `python -m bench.scheduler`; do not edit. -->

{machine}

{about}

![Microseconds per decision by queue length](benchmarks-scheduler.svg)

{table}
**With ten times the queue ({short:,} to {long:,}) a decision costs {growth}.** "Must" is
{must:,} decisions/s: {verdict}.
"""


def _table(found: dict[tuple[Allocation, int], Series]) -> str:
    lines = [
        "| allocation | queued | us, best round | median | decisions/s | baselines | us to ask |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (allocation, length), series in found.items():
        lines.append(
            f"| {allocation.value} | {length:,} | {series.best_us:.1f} | {series.median_us:.1f} | "
            f"{1e6 / series.best_us:,.0f} | {series.relative:.0f} "
            f"| {min(series.asked) * 1e6:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _plot(found: dict[tuple[Allocation, int], Series]) -> str:
    """Both curves over a logarithmic axis, as SVG that needs nothing else."""
    width, height, left, bottom, top, right = 748, 320, 60, 40, 24, 52
    highest = max(max(series.median_us for series in found.values()) * 1.25, 1e6 / MUST_PER_S * 1.1)

    def x_of(number: int) -> float:
        return left + (width - left - right) * number / (len(LENGTHS) - 1)

    def y_of(us: float) -> float:
        return height - bottom - (height - bottom - top) * us / highest

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        '<g font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="15" fill="#222">{PLOT_TITLE}</text>',
    ]
    step = 10 if highest < 100 else 25
    for us in range(0, int(highest) + 1, step):
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{y_of(us):.1f}" y2="{y_of(us):.1f}" '
            f'stroke="#ddd"/><text x="{left - 8}" y="{y_of(us) + 4:.1f}" '
            f'text-anchor="end" fill="#444">{us}</text>'
        )
    for number, length in enumerate(LENGTHS):
        parts.append(
            f'<text x="{x_of(number):.1f}" y="{height - 14}" text-anchor="middle" '
            f'fill="#444">{length:,} queued</text>'
        )
    limit = y_of(1e6 / MUST_PER_S)
    parts.append(
        f'<line x1="{left}" x2="{width - right}" y1="{limit:.1f}" y2="{limit:.1f}" '
        f'stroke="#b00" stroke-dasharray="5 4"/><text x="{width - right - 12}" '
        f'y="{limit + 16:.1f}" text-anchor="end" fill="#b00">{MUST_PER_S:,} decisions/s</text>'
    )
    for (allocation, colour), shift in zip(
        ((Allocation.LEAST_RECENTLY_USED, "#1f5fa8"), (Allocation.MOST_RECENTLY_USED, "#c77700")),
        (-3, 3),
        strict=True,
    ):
        points = []
        for number, length in enumerate(LENGTHS):
            series = found[allocation, length]
            x, y = x_of(number) + shift, y_of(series.median_us)
            points.append(f"{x:.1f},{y:.1f}")
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y_of(series.best_us):.1f}" y2="{y:.1f}" '
                f'stroke="{colour}" stroke-width="3"/>'
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
            )
        parts.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" '
            'stroke-width="1.5"/>'
        )
        row = 0 if shift < 0 else 18
        parts.append(
            f'<circle cx="{left + 16}" cy="{height - bottom - 34 + row}" r="4" fill="{colour}"/>'
            f'<text x="{left + 26}" y="{height - bottom - 30 + row}" fill="#222">'
            f"{allocation.value}</text>"
        )
    return "\n".join([*parts, "</g></svg>"]) + "\n"


def _growth(found: dict[tuple[Allocation, int], Series], short: int, long: int) -> str:
    """By how much a decision's cost grows, in baselines, for each allocation."""
    return ", ".join(
        f"{found[allocation, long].relative / found[allocation, short].relative:.2f} times as much "
        f"({allocation.value})"
        for allocation in Allocation
    )


def write(found: dict[tuple[Allocation, int], Series]) -> None:
    """The page, its plot, and the raw data."""
    described = machine_described()
    short, long = LENGTHS[-3], LENGTHS[-1]
    assert long == 10 * short
    slowest = max(
        (found[allocation, length] for allocation in Allocation for length in (short, long)),
        key=lambda series: series.best_us,
    )
    reached = 1e6 / slowest.best_us
    page = PAGE.format(
        machine="; ".join(f"{name}: {value}" for name, value in described.items()) + ".",
        about="\n\n".join((__doc__ or "").split("\n\n")[1:]).strip(),
        table=_table(found),
        short=short,
        long=long,
        growth=_growth(found, short, long),
        must=MUST_PER_S,
        verdict=f"{'reached' if reached >= MUST_PER_S else 'MISSED'}, the slowest of these rows "
        f"makes {reached:,.0f} in its best round",
    )
    (DOCS / "benchmarks-scheduler.md").write_text(page, encoding="utf-8")
    (DOCS / "benchmarks-scheduler.svg").write_text(_plot(found), encoding="utf-8")
    raw = {
        "machine": described,
        "series": [
            {
                "allocation": allocation.value,
                "queued": length,
                "seconds_per_decision": series.took,
                "seconds_per_request": series.asked,
                "seconds_per_baseline": series.reference,
            }
            for (allocation, length), series in found.items()
        ],
    }
    (DOCS / "benchmarks-scheduler.json").write_text(json.dumps(raw, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.scheduler", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--decisions", type=int, default=1_000, help="of each round")
    parser.add_argument("--dry-run", action="store_true", help="write no files")
    options = parser.parse_args(arguments)
    found = measure(options.rounds, options.decisions)
    print(_table(found))
    if not options.dry_run:
        write(found)


if __name__ == "__main__":
    main()
