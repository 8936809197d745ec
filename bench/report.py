"""From measurements to the printed table, `docs/benchmarks.md` and `docs/benchmarks.json`."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.cases import CASES, Target
from bench.measurements import PEER, CaseResult, Ratio, Results

__all__ = ["DOCS", "machine", "markdown", "show", "write"]

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TARGETS = {case.name: case.targets for case in CASES}


def verdict(ratio: Ratio, target: Target) -> str:
    """The median against the targets, nothing else."""
    if ratio.median >= target.goal:
        return "goal"
    if ratio.median >= target.must:
        return "reached"
    return "MISSED"


def _rate(values: Sequence[float]) -> str:
    median = statistics.median(values)
    return f"{median:,.0f}" if median >= 100 else f"{median:,.1f}"


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def _rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """The main table: rates per server, our ratios to the peer, verdicts."""
    servers = list(results.servers)
    ours = [name for name in servers if name.startswith("ours, ")]
    header = ["case", *(f"{name} /s" for name in servers)]
    header += [f"{name.removeprefix('ours, ')} / casd" for name in ours]
    header += ["must", "goal", "verdict"]
    return header, [_row(case, servers, ours) for case in results.cases]


def _row(case: CaseResult, servers: Sequence[str], ours: Sequence[str]) -> list[str]:
    row = [case.name, *(_rate(case.rates[name]) for name in servers)]
    row += [_ratio(case.ratio(name)) for name in ours]
    must, goal, verdicts = [], [], []
    for configuration, target in TARGETS.get(case.name, {}).items():
        ratio = case.ratio(f"ours, {configuration}")
        if ratio is not None:
            must.append(f"{target.must:g}")
            goal.append(f"{target.goal:g}")
            verdicts.append(f"{configuration}: {verdict(ratio, target)}")
    return [*row, "; ".join(must), "; ".join(goal), "; ".join(verdicts)]


def show(results: Results) -> None:
    """Print the tables."""
    console = Console(width=max(shutil.get_terminal_size().columns, 160))
    header, rows = _rows(results)
    table = Table(*header, title="Requests per second; ratios: median (lowest-highest round)")
    for row in rows:
        style = "red" if "MISSED" in row[-1] else "green" if row[-1].endswith("goal") else None
        table.add_row(*row, style=style)
    console.print(table)
    for lines in (
        _cpu_rows(results),
        _latency_rows(results),
        _server_rows(results),
        _tls_rows(results),
    ):
        if lines[1]:
            table = Table(*lines[0])
            for line in lines[1]:
                table.add_row(*line)
            console.print(table)


def _latency_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    header = [
        "case, at 70 % of its own peak",
        *(f"{name} p50 / p99 ms" for name in results.servers),
    ]
    rows = []
    for case in results.cases:
        if case.latencies:
            cells = []
            for name in results.servers:
                latency = case.latencies[name]
                cells.append(f"{latency.p50_us / 1000:.2f} / {latency.p99_us / 1000:.2f}")
            rows.append([case.name, *cells])
    return header, rows


def _cpu_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Least processor time per call, and the peer's as a multiple of ours."""
    servers = list(results.servers)
    ours = [name for name in servers if name.startswith("ours, ")]
    header = ["case", *(f"{name} us" for name in servers)]
    header += [f"casd / {name.removeprefix('ours, ')}" for name in ours]
    rows = []
    for case in results.cases:
        least = {name: min(case.cpu_us[name]) for name in servers}
        row = [case.name, *(f"{least[name]:,.1f}" for name in servers)]
        for name in ours:
            known = least.get(PEER, 0) > 0 and least[name] > 0
            row.append(f"{least[PEER] / least[name]:.2f}" if known else "")
        rows.append(row)
    return header, rows


def _server_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["server", "start-up s", "RSS with data MiB", "RSS at the end MiB", "peak MiB"]
    header += ["first byte of 1 MiB, ms", "first byte of 64 MiB, ms"]
    rows = []
    for name, server in results.servers.items():
        memory = (server.rss_before_bytes, server.rss_after_bytes, server.rss_peak_bytes)
        first = [server.first_byte_us.get(f"Read {size}") for size in ("1 MiB", "64 MiB")]
        rows.append(
            [name, f"{server.start_s:.2f}", *(f"{size / 2**20:.0f}" for size in memory)]
            + ["" if took is None else f"{took / 1000:.2f}" for took in first]
        )
    return header, rows


def _tls_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    rows = []
    for server in results.servers.values():
        for name, ratios in server.tls_ratios.items():
            ratio = Ratio(statistics.median(ratios), min(ratios), max(ratios))
            rows.append([name, _ratio(ratio)])
    return ["case", "rate with TLS / without"], rows


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    version = subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=False)
    mount = subprocess.run(
        ["df", "--output=fstype", ROOT], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).strftime("%d %b %Y"),
        "processor": f"{cpu}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
        "file system": mount.stdout.split()[-1] if mount.stdout else "unknown",
        "Python": platform.python_version(),
        "load generators": f"{version.stdout.strip()}; bench/loader.py",
        "load average at the end": f"{os.getloadavg()[0]:.1f}",
    }


def summary(results: Results) -> str:
    """How many rows reached what, counted."""
    counts = {"goal": 0, "reached": 0, "MISSED": 0}
    for case in results.cases:
        for configuration, target in TARGETS.get(case.name, {}).items():
            ratio = case.ratio(f"ours, {configuration}")
            if ratio is not None:
                counts[verdict(ratio, target)] += 1
    return (
        f"{counts['goal']} at the goal, {counts['reached']} more at what must be reached, "
        f"{counts['MISSED']} missed."
    )


PAGE = """# Benchmarks

<!-- Written by `make bench`; change bench/report.py, not this page. -->

{machine}

Servers run one at a time on core 0, the load on core 1, over loopback. Every case first checks
one answer by grpcio: status and content. Then the servers take turns, {rounds} rounds of
{seconds:g} s per server and case; a ratio compares two servers within one round, and the table
shows the median round and the extremes. `h2load` repeats one request over 4 connections with 8
streams each (1 MiB: 4 x 2, 64 MiB: 1 x 2); what is unique or never seen comes from
`bench/loader.py`.
The peer is {peer} 1.4.25 (C++), a disk cache that never calls fsync; our writes to disk are fsynced
before they are acknowledged. Before every turn of unique requests the disk is synced, outside the
time that counts, so that nobody writes what another left. Configurations of ours: `memory`;
`filesystem`; `composed`, the file system with memory in front (what `make run` serves, without its
`verify` and `completeness_checking`, to compare like with like). As one request is repeated, the
server has seen its digests before, as it has those of a toolchain; in "FindMissingBlobs 1,000 never
seen" every request asks for a thousand digests for the first time (absent, as what a new build made
is), so that no table of digests helps (ADR 0008).

**{summary}** "must" and "goal" are multiples of {peer}'s rate, judged on the configuration
that the verdict names.

{main}
## Processor time per call

User and system time of the server, the best round. On one core this is what the rates come from,
and other programs on the machine disturb it less.

{cpu}
## Latency

{latency}
## Processes

{servers}
## TLS

Plain rate = 1, our memory configuration, TLS 1.3.

{tls}
## Large blobs

{large}
## What watching costs

{watching}
## The loader's own limit

Against a server that only answers: {ceiling}.
"""


def _side_table(name: str, command: str) -> str:
    """What another measurement left beside the page, as a table."""
    path = DOCS / f"benchmarks-{name}.json"
    if not path.exists():
        return f"Not measured yet: `{command}`.\n"
    rows = [
        [key.replace("_", " "), str(value)] for key, value in json.loads(path.read_text()).items()
    ]
    return f"`{command}`:\n\n" + markdown(["measured", "value"], rows)


def write(results: Results) -> None:
    """Write the page and the raw data beside it."""
    described = machine()
    page = PAGE.format(
        machine="; ".join(f"{name}: {value}" for name, value in described.items()) + ".",
        rounds=results.rounds,
        seconds=results.seconds,
        peer=PEER,
        summary=summary(results),
        main=markdown(*_rows(results)),
        cpu=markdown(*_cpu_rows(results)),
        latency=markdown(*_latency_rows(results)),
        servers=markdown(*_server_rows(results)),
        tls=markdown(*_tls_rows(results)),
        large=_side_table("memory", "python -m bench.memory"),
        watching=_side_table("overhead", "python -m bench.overhead"),
        ceiling="; ".join(f"{name} {rate:,.0f}/s" for name, rate in results.loader_ceiling.items()),
    )
    DOCS.mkdir(exist_ok=True)
    (DOCS / "benchmarks.md").write_text(page)
    raw = {"machine": described, **dataclasses.asdict(results)}
    (DOCS / "benchmarks.json").write_text(json.dumps(raw, indent=1) + "\n")
