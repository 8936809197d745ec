"""From measured executions to the printed table, `docs/benchmarks-execution.md` and `.json`."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.report import DOCS, machine, markdown

__all__ = ["CASES", "Case", "Round", "show", "write"]


@dataclass(frozen=True)
class Round:
    """One round of one case.

    Attributes:
        bare_s: seconds of the baseline.
        took_s: seconds per action, or of the whole build.
        cpu_s: the server's own processor seconds in it, without those of actions.
    """

    bare_s: float
    took_s: float
    cpu_s: float


@dataclass(frozen=True)
class Case:
    """A case and what it must reach.

    Attributes:
        name: as printed.
        unit: of the figure.
        must, goal: of the figure.
        figure: from a round to the figure.
        most: whether the figure may not be larger, rather than not smaller.
    """

    name: str
    unit: str
    must: float
    goal: float
    figure: Callable[[Round], float]
    most: bool = False

    def verdict(self, figure: float) -> str:
        """The median against the targets, nothing else."""
        for target, name in ((self.goal, "goal"), (self.must, "reached")):
            if figure <= target if self.most else figure >= target:
                return name
        return "MISSED"


def _times_faster(measured: Round) -> float:
    return measured.bare_s / measured.took_s


def _times_longer(measured: Round) -> float:
    return measured.took_s / measured.bare_s


CASES = {
    "in_flight": Case(
        "distinct `/bin/true`, 64 in flight", "x B0, actions/s", 0.3, 0.6, _times_faster
    ),
    "alone": Case("one at a time, median", "steps of B0", 20, 8, _times_longer, most=True),
    "shared": Case(
        "1,000 shared inputs, 3 outputs, 64 in flight", "x B1, actions/s", 1.5, 5, _times_faster
    ),
    "build": Case(
        "200 Bazel actions with 50 KB outputs", "x local build", 1.3, 1.1, _times_longer, most=True
    ),
    "scheduling": Case(
        "scheduler alone, 200 workers that do nothing", "actions/s", 2000, 5000, _times_faster
    ),
}


def _rows(rounds: Mapping[str, Sequence[Round]]) -> tuple[list[str], list[list[str]]]:
    header = ["case", "measured", "", "must", "goal", "verdict", "baseline ms", "took ms", "CPU ms"]
    rows = []
    for name, measured in rounds.items():
        case = CASES[name]
        figures = [case.figure(each) for each in measured]
        figure = statistics.median(figures)
        times = [
            statistics.median(getattr(each, field) for each in measured) * 1000
            for field in ("bare_s", "took_s", "cpu_s")
        ]
        sign = "at most " if case.most else ""
        rows.append(
            [
                case.name,
                f"{_short(figure)} ({_short(min(figures))}-{_short(max(figures))})",
                case.unit,
                f"{sign}{case.must:,g}",
                f"{sign}{case.goal:,g}",
                case.verdict(figure),
                "" if name == "scheduling" else f"{times[0]:,.2f}",
                *(f"{value:,.2f}" for value in times[1:]),
            ]
        )
    return header, rows


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.2f}"


def show(rounds: Mapping[str, Sequence[Round]]) -> None:
    """Print the table."""
    header, rows = _rows(rounds)
    table = Table(*header, title="Executions; median (lowest-highest round)")
    for row in rows:
        style = "red" if "MISSED" in row else "green" if "goal" in row else None
        table.add_row(*row, style=style)
    Console(width=180).print(table)


PAGE = """# Benchmarks of remote execution

<!-- Written by `make bench`; change bench/execution_report.py, not this page. -->

{machine}

`python -m bench.execution`: the configuration of `make run`, one worker with a slot for each core.
The load, the scheduler, the worker, the cache and the actions share the machine. Baselines and
cases take turns, {rounds} rounds; a ratio compares within one round, and the table shows the median
round and the extremes. Every answer is checked: executed and not cached, exit code 0, the right
outputs, which are in the CAS.

- B0: a bare Python loop of `os.posix_spawn("/bin/true")` and `waitpid`, one after the other.
- B1: a bare loop that links 1,000 files into a new directory, runs `/bin/true`, and removes the
  directory.
- Both baselines write nothing to disk; our results and outputs are synced to disk before they
  are answered.
- Bazel 4.2.3: `--spawn_strategy=local` with a job per core against `--remote_executor` with
  `--jobs=64`, both with a warm Bazel server, from `bazel clean`, all outputs downloaded.
- The scheduler alone: 200 connections of workers that answer at once, 400 executions in flight,
  by raw HTTP/2 in one process each (`bench/noop_workers.py`, `bench/loader.py`).

{table}
"Baseline" and "took" are per action, or of the whole build; "CPU" is processor time of the server
process in it, without that of the actions and of the processes which start them.
"""


def write(rounds: Mapping[str, Sequence[Round]]) -> None:
    """Write the page and the raw data beside it."""
    described = machine()
    page = PAGE.format(
        machine="; ".join(f"{name}: {value}" for name, value in described.items()) + ".",
        rounds=max(len(measured) for measured in rounds.values()),
        table=markdown(*_rows(rounds)),
    )
    (DOCS / "benchmarks-execution.md").write_text(page)
    raw = {
        "machine": described,
        "rounds": {
            name: [dataclasses.asdict(each) for each in measured]
            for name, measured in rounds.items()
        },
    }
    (DOCS / "benchmarks-execution.json").write_text(json.dumps(raw, indent=1) + "\n")
