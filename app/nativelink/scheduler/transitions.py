"""How an operation goes from stage to stage: the table that the machine obeys.

Everything that changes an operation's stage stands here, and the diagram in the documents is drawn
from it. UNKNOWN is the stage of what is not there: before an operation was asked for, and after it
was forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from nativelink.scheduler import events
from nativelink.scheduler.operation import ExecutionStage

__all__ = ["TRANSITIONS", "Cause", "Matched", "diagram"]


@dataclass(frozen=True, slots=True)
class Matched:
    """A worker had room for an operation. No event: it follows from any of them."""


#: What may change a stage.
Cause: TypeAlias = type[events.Event] | type[Matched]

_UNKNOWN: Final = ExecutionStage.UNKNOWN
_QUEUED: Final = ExecutionStage.QUEUED
_EXECUTING: Final = ExecutionStage.EXECUTING
_COMPLETED: Final = ExecutionStage.COMPLETED

#: `(stage, cause)` -> the stages that may follow.
TRANSITIONS: Final[Mapping[tuple[ExecutionStage, Cause], frozenset[ExecutionStage]]] = {
    (_UNKNOWN, events.ExecuteRequested): frozenset({_QUEUED}),
    (_QUEUED, Matched): frozenset({_EXECUTING}),
    # The last one who asked does not want it any more.
    (_QUEUED, events.CancelRequested): frozenset({_COMPLETED}),
    # Nobody follows it any more, or no worker could ever run it.
    (_QUEUED, events.Tick): frozenset({_COMPLETED}),
    (_EXECUTING, events.ExecutionFinished): frozenset({_COMPLETED}),
    # Queued again if it may go better; not if it failed for good, or too often.
    (_EXECUTING, events.ExecutionFailed): frozenset({_QUEUED, _COMPLETED}),
    (_EXECUTING, events.CancelRequested): frozenset({_COMPLETED}),
    # Nobody follows it any more; or it is on a worker that is silent, or has it for too long.
    (_EXECUTING, events.Tick): frozenset({_QUEUED, _COMPLETED}),
    # The worker died; the operation fails if it brings down one worker after the other.
    (_EXECUTING, events.WorkerLost): frozenset({_QUEUED, _COMPLETED}),
    (_EXECUTING, events.WorkerLeft): frozenset({_QUEUED}),
    # The worker came back without it.
    (_EXECUTING, events.WorkerJoined): frozenset({_QUEUED}),
    (_COMPLETED, events.DeleteRequested): frozenset({_UNKNOWN}),
    # It was kept long enough.
    (_COMPLETED, events.Tick): frozenset({_UNKNOWN}),
}


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    edges: dict[tuple[ExecutionStage, ExecutionStage], list[str]] = {}
    for (before, cause), afters in TRANSITIONS.items():
        for after in sorted(afters):
            edges.setdefault((before, after), []).append(cause.__name__)
    lines = ["stateDiagram-v2"]
    for (before, after), causes in edges.items():
        start = "[*]" if before is _UNKNOWN else before.name
        end = "[*]" if after is _UNKNOWN else after.name
        lines.append(f"    {start} --> {end}: {', '.join(causes)}")
    return "\n".join(lines) + "\n"
