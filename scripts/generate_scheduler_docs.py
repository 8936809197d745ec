"""Write docs/scheduler-stages.md from the scheduler's table of transitions; `--check` compares."""

from __future__ import annotations

import sys

from generated_page import write_or_check

from nativelink.scheduler.operation import ExecutionStage
from nativelink.scheduler.transitions import TRANSITIONS, diagram

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


if __name__ == "__main__":
    sys.exit(write_or_check("scheduler-stages.md", page, __doc__))
