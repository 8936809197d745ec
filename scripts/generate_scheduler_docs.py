"""Write docs/scheduler-stages.md from the scheduler's table of transitions; `--check` compares."""

from __future__ import annotations

import sys
from pathlib import Path

from nativelink.scheduler.operation import ExecutionStage
from nativelink.scheduler.transitions import TRANSITIONS, diagram

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scheduler-stages.md"

HEAD = """\
# Stages of an operation

<!-- Written by scripts/generate_scheduler_docs.py from scheduler/transitions.py; do not edit. -->

An operation is one execution; each request has its own name for it. Stages are REAPI's. UNKNOWN,
drawn as the dot, is the stage of what is not there: before it was asked for, and after it was
forgotten. CACHE_CHECK is a stage of the `cache_lookup` scheduler, before this machine is asked.

QUEUED: it waits in its lane (`matching.py`), or is about to. EXECUTING: exactly one worker has a
lease of it that was not revoked. COMPLETED: it has a response or a failure, which never changes
again. `nativelink ops show` tells an operation's own way through this picture, with the reasons.

"""

TABLE = """
The machine looks every step up in this table, and a step that is not in it raises.

| stage | cause | stages that may follow |
|---|---|---|
"""


def _name(stage: ExecutionStage) -> str:
    return stage.name


def page() -> str:
    """The whole page."""
    rows = "".join(
        f"| {before.name} | {cause.__name__} | {', '.join(map(_name, sorted(afters)))} |\n"
        for (before, cause), afters in TRANSITIONS.items()
    )
    return f"{HEAD}```mermaid\n{diagram()}```\n{TABLE}{rows}"


def main(arguments: list[str]) -> int:
    """Write the page, or say whether it is stale."""
    if arguments == ["--check"]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page():
            return 0
        print(f"docs/{PAGE.name} is stale: run scripts/{Path(__file__).name}", file=sys.stderr)
        return 1
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
