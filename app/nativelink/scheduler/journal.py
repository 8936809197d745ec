"""What the machine writes down while it handles one event."""

from __future__ import annotations

from nativelink.scheduler.effects import Effect, StageChanged
from nativelink.scheduler.events import Event
from nativelink.scheduler.operation import ExecutionStage
from nativelink.scheduler.records import Operation, StoryEntry
from nativelink.scheduler.transitions import TRANSITIONS, Cause

__all__ = ["IllegalEventError", "Journal"]


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

    __slots__ = ("cause", "counts", "effects", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.cause: type[Event] | None = None
        self.effects: list[Effect] = []
        self.counts = dict.fromkeys(ExecutionStage, 0)

    def begin(self, event: Event, now: float) -> None:
        """An event is to be handled.

        Raises:
            IllegalEventError: time went back.
        """
        if now < self.now:
            raise IllegalEventError(f"{event} at {now}, but it was {self.now} already")
        self.now = now
        self.cause = type(event)
        self.effects = []

    def tell(self, operation: Operation, text: str) -> None:
        """Add to an operation's story."""
        cause = self.cause
        operation.tell(StoryEntry(self.now, "" if cause is None else cause.__name__, text))

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
        if cause is None or after not in TRANSITIONS.get((before, cause), ()):
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
