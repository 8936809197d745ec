"""What the machine writes down while it handles one event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, get_args

from nativelink.scheduler.effects import Effect, StageChanged
from nativelink.scheduler.events import Event
from nativelink.scheduler.operation import ExecutionStage
from nativelink.scheduler.records import Operation
from nativelink.scheduler.transitions import TRANSITIONS, Cause, Matched

__all__ = ["IllegalEventError", "Journal"]

#: Entries of a story: those of the beginning, and the last ones. An operation that is handed from
#: one worker to the next all day must not fill the memory with it.
_STORY_HEAD: Final = 8
_STORY_LIMIT: Final = 64

#: The table of transitions, for looking up twice per operation: of each cause and stage, the
#: stages that may follow, as bits.
_ALLOWED: Final[Mapping[Cause, Sequence[int]]] = {
    cause: [
        sum(1 << after for after in TRANSITIONS.get((before, cause), ()))
        for before in ExecutionStage
    ]
    for cause in (*get_args(Event), Matched)
}


class IllegalEventError(Exception):
    """An event that nobody may send as things are: a defect of a driver or of the machine.

    What peers can cause never raises it, however wrong they are.
    """


class Journal:
    """The effects of the event that is handled, and the entries of stories.

    Attributes:
        now: the time of the event.
        cause: its type.
        effects: what is to be done.
        counts: how many operations are in each stage; of UNKNOWN, how many are not.
    """

    __slots__ = ("_cause_name", "cause", "counts", "effects", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.cause: type[Event] | None = None
        self._cause_name = ""
        self.effects: list[Effect] = []
        self.counts = [0] * len(ExecutionStage)

    def begin(self, event: Event, now: float) -> None:
        """An event is to be handled.

        Raises:
            IllegalEventError: time went back.
        """
        if now < self.now:
            raise IllegalEventError(f"{event} at {now}, but it was {self.now} already")
        self.now = now
        self.cause = cause = type(event)
        self._cause_name = cause.__name__
        self.effects = []

    def tell(self, operation: Operation, text: str) -> None:
        """Add to an operation's story."""
        story = operation.story
        if len(story) >= _STORY_LIMIT:
            del story[_STORY_HEAD]
        # A plain tuple of plain values: the garbage collector leaves it alone.
        story.append((self.now, self._cause_name, text))

    def move(self, operation: Operation, after: ExecutionStage, by: Cause | None = None) -> None:
        """An operation comes to another stage, as the table allows.

        Args:
            operation: which.
            after: the stage.
            by: the cause; the event that is handled if it is None.

        Raises:
            IllegalEventError: the table does not allow it; nothing was changed.
        """
        before = operation.stage
        cause = by or self.cause
        if cause is None or not _ALLOWED[cause][before] >> after & 1:
            story = "; ".join(f"{at:.3f} {why}: {text}" for at, why, text in operation.story)
            raise IllegalEventError(
                f"operation {operation.operation_id} cannot go from {before.name} to {after.name} "
                f"by {cause and cause.__name__}; its story: {story}"
            )
        operation.stage = after
        self.counts[before] -= 1
        self.counts[after] += 1
        self.effects.append(
            StageChanged(operation.operation_id, before, after, operation.worker_id)
        )
