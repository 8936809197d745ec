"""Who is told what a scheduler does, for metrics and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nativelink.scheduler.operation import ExecutionStage, OperationView

__all__ = ["NO_RECORDER", "PlatformStatistics", "Recorder", "SchedulerStatistics"]


@dataclass(frozen=True, slots=True)
class PlatformStatistics:
    """Operations that wait and ask for the same properties.

    Attributes:
        properties: as in `name=value, name>=value`; empty if they ask for nothing.
        queued: how many wait.
        oldest_queued_at: since when the one does that is to be started first.
        unschedulable: why no connected worker could ever run them; empty if one could.
    """

    properties: str
    queued: int
    oldest_queued_at: float
    unschedulable: str


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    """A scheduler at one moment; cheap enough to be asked for at every scrape.

    Attributes:
        platforms: those for which something waits.
        queued, executing, completed: operations by stage; completed ones as long as retained.
        unschedulable: queued ones that no connected worker could ever run.
        workers: those that are known, lost ones that may come back included.
        connected, draining, paused, quarantined: how many of them are.
        active: how many of them have an action.
    """

    platforms: tuple[PlatformStatistics, ...]
    queued: int
    executing: int
    completed: int
    unschedulable: int
    workers: int
    connected: int
    draining: int
    paused: int
    quarantined: int
    active: int


class Recorder(Protocol):
    """Told what happens, at once and in order; nothing here may wait, raise or call back."""

    def stage_changed(
        self, operation: OperationView, before: ExecutionStage, after: ExecutionStage
    ) -> None:
        """An operation came to another stage; `before` is UNKNOWN for a new one.

        `operation` is as it is after the event, which may have led through several stages;
        `operation.name` is one of its names. That it is forgotten is not told.
        """
        ...

    def resources_used(
        self, operation: OperationView, *, peak_memory_kb: int, cpu_time_ms: int
    ) -> None:
        """What a worker measured of an execution, told just before its result; 0 is unknown."""
        ...

    def attempt_ended(
        self, operation: OperationView, worker_id: str, reason: str, *, counted: bool
    ) -> None:
        """A worker was given an action and brought no result.

        `counted` tells whether it was a failure of the action; the loss of a worker is none. The
        operation is as it is now: queued again, or completed.
        """
        ...

    def worker_connected(self, worker_id: str, *, resumed: bool) -> None:
        """A worker joined; `resumed` if it is one that was known."""
        ...

    def worker_disconnected(self, worker_id: str, reason: str) -> None:
        """A connection ended: `disconnected` (it broke, or the worker left) or `evicted`."""
        ...

    def worker_seen(self, worker_id: str) -> None:
        """A worker sent a keep-alive."""
        ...

    def handled(self, seconds: float) -> None:
        """The machine handled an event, matching included, in so long."""
        ...


class _NoRecorder:
    """Listens to nothing."""

    def stage_changed(
        self, operation: OperationView, before: ExecutionStage, after: ExecutionStage
    ) -> None:
        pass

    def resources_used(
        self, operation: OperationView, *, peak_memory_kb: int, cpu_time_ms: int
    ) -> None:
        pass

    def attempt_ended(
        self, operation: OperationView, worker_id: str, reason: str, *, counted: bool
    ) -> None:
        pass

    def worker_connected(self, worker_id: str, *, resumed: bool) -> None:
        pass

    def worker_disconnected(self, worker_id: str, reason: str) -> None:
        pass

    def worker_seen(self, worker_id: str) -> None:
        pass

    def handled(self, seconds: float) -> None:
        pass


NO_RECORDER: Recorder = _NoRecorder()
