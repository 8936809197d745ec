"""`python -m bench.stores`: every store beside the library or the server that it stands on.

Runs `bench.object_store`, `bench.redis_store`, `bench.reduction` and `bench.completeness`, each in
a process of its own, and joins what they say in docs/benchmarks-stores.md and .json. `--only NAME`
runs one of them and keeps what the file has of the others; `--render` runs none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.report import machine, markdown

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS = DOCS / "benchmarks-stores.json"
PAGE = DOCS / "benchmarks-stores.md"

#: Tool -> what is run; each prints JSON, one object or one a line.
TOOLS: Final = {
    "object_store": ("bench.object_store",),
    "redis_store": ("bench.redis_store",),
    "reduction": ("bench.reduction",),
    "completeness": ("bench.completeness",),
}

_INTRODUCTION = """\
# Benchmarks of stores

<!-- Written by `python -m bench.stores`; change bench/stores.py, not this page. -->

{machine}.

Every ratio compares two things that took turns in one process, the bare library first in one round
and last in the next. "must" and "goal" are what the ratio has to reach; for memory, what resident
memory may grow by. A real rate depends on the machine and on who shares it; where it counts, the
ratio of processor times stands beside the ratio of rates.

**{reached} of {judged} reached, {goals} of them at the goal.**

"""

_NOTES = """\

## How to read it

- **S3** is versitygw, an S3 server over a directory, in a process on the other core. The bare
  side are obstore's own calls in a loop of the same concurrency.
- **Redis** is `redis-server` on the same machine; the bare side is redis-py's asyncio client on the
  same loop (uvloop), with the same commands, pipelined where we pipeline. One caller waits for the
  server most of the time; 32 callers show what a client costs.
- **lz4** and **dedup** count processor time. lz4 is beside `lz4.block` over the same blocks, dedup
  beside hashing (BLAKE3) and its own scan alone; [ADR 0017](adr/0017-chunks-and-blocks.md) has
  the compiled scan, which is not reached in Python.
- **memory** is resident memory of a process through which four blobs of 1 GiB pass at once, through
  dedup over lz4, compared with the same process after one small blob.
- **completeness** is what it is worth that `completeness_checking` remembers that a result was
  complete: hits of an action cache in memory whose outputs lie in the store that the case names.
"""


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        case: what was measured.
        ratio: ours to theirs; for memory, MiB.
        must: what it has to reach; None: it is only told.
        goal: what we want.
        detail: further figures.
        least: whether less is better.
    """

    case: str
    ratio: float
    must: float | None
    goal: float | None
    detail: str
    least: bool = False

    @property
    def judged(self) -> str:
        """What to make of it."""
        if self.must is None:
            return ""
        better = (lambda limit: self.ratio <= limit) if self.least else self._reaches
        if self.goal is not None and better(self.goal):
            return "goal"
        return "reached" if better(self.must) else "MISSED"

    def _reaches(self, limit: float) -> bool:
        return self.ratio >= limit


def rows(results: dict[str, Any]) -> Iterator[Row]:
    """The lines of the table."""
    for found in results.get("object_store", ()):
        case = f"S3: {found['case']}"
        if "again_ms" in found:
            detail = f"{found['first_ms']} ms, then {found['again_ms']} ms"
            yield Row(case, found["ratio"], 50, 200, detail)
        else:
            detail = (
                f"{found['per_s']:,}/s of {found['bare_per_s']:,}/s; "
                f"{found['cpu_us']} us of processor time of {found['bare_cpu_us']} us"
            )
            yield Row(case, found["ratio"], 0.8, 0.95, detail)
    for found in results.get("redis_store", ()):
        callers = "1 caller" if found["concurrency"] == 1 else f"{found['concurrency']} callers"
        detail = (
            f"{found['per_s']:,}/s of {found['redis_py_per_s']:,}/s; "
            f"per processor second {found['cpu_ratio']}"
        )
        yield Row(f"Redis: {found['case']}, {callers}", found["ratio"], 0.8, 1.0, detail)
    reduction = results.get("reduction", {})
    for kind in ("compressible", "incompressible"):
        if kind not in reduction:
            continue
        lz4, dedup = reduction[kind]["lz4"], reduction[kind]["dedup"]
        for way in ("put", "get"):
            detail = f"{lz4[f'{way}_mb_per_s']:,} MB/s"
            yield Row(f"lz4: {way} 64 MiB, {kind}", lz4[f"{way}_ratio"], 0.7, 0.9, detail)
        yield Row(
            f"dedup: put 64 MiB, {kind}, MB/s",
            dedup["put_mb_per_s"],
            100,
            100,
            f"{dedup['put_to_hash_and_own_scan']} of hashing and its own scan alone",
        )
    for key, backend in (("memory", "a directory"), ("memory_s3", "S3")):
        if key not in reduction:
            continue
        for way in ("put", "get"):
            detail = f"{reduction[key][f'{way}_mb_per_s']:,} MB/s"
            yield Row(
                f"memory: {way} 4 x 1 GiB, dedup + lz4 + {backend}, MiB",
                reduction[key][f"{way}_rss_growth_mib"],
                200,
                100,
                detail,
                least=True,
            )
    for found in results.get("completeness", ()):
        detail = (
            f"{found['per_s']:,}/s of {found['unremembered_per_s']:,}/s; "
            f"per processor second {found['cpu_ratio']}"
        )
        yield Row(f"completeness: {found['case']}", found["ratio"], None, None, detail)


def page(results: dict[str, Any]) -> str:
    """The page as Markdown."""
    table = list(rows(results))
    judged = [row for row in table if row.judged]
    described = "; ".join(f"{key}: {value}" for key, value in results["machine"].items())
    head = _INTRODUCTION.format(
        machine=described,
        reached=sum(1 for row in judged if row.judged != "MISSED"),
        judged=len(judged),
        goals=sum(1 for row in judged if row.judged == "goal"),
    )
    lines = [
        [row.case, f"{row.ratio:,g}", _limit(row.must), _limit(row.goal), row.judged, row.detail]
        for row in table
    ]
    body = markdown(["case", "ratio", "must", "goal", "judged", "figures"], lines)
    return head + body.rstrip("\n") + "\n" + _NOTES


def _limit(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _run(name: str) -> object:
    """What a tool found."""
    module, *arguments = TOOLS[name]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    # It may fail because something was missed; what it measured counts all the same.
    if not done.stdout.strip():
        raise SystemExit(f"{module} measured nothing")
    if name == "reduction":
        return json.loads(done.stdout)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> int:
    """Measure, write, and fail where what must be reached is not."""
    parser = argparse.ArgumentParser(prog="python -m bench.stores", description=__doc__)
    parser.add_argument("--only", choices=TOOLS, action="append", help="only these; repeatable")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    if RESULTS.is_file() and (options.only or options.render):
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    if not options.render:
        for name in options.only or TOOLS:
            results[name] = _run(name)
        results["machine"] = machine()
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")
    missed = [row.case for row in rows(results) if row.judged == "MISSED"]
    for case in missed:
        print(f"missed: {case}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
