"""What the machine remembers of operations and of those who follow them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.operation import ExecutionStage, Failure, OperationView
from nativelink.scheduler.tournament import Key

if TYPE_CHECKING:
    from nativelink.scheduler.queue import Lane

__all__ = ["Fault", "Name", "Operation"]


@dataclass(slots=True, eq=False)
class Name:
    """One request's name of an operation.

    Attributes:
        name: `google.longrunning.Operation.name`.
        operation: what it names; several may name one.
        clients: streams that follow it.
        accessed_at: when the last one came, went, or somebody asked.
        cancelled_at: when this request was withdrawn; the operation may go on for others.
    """

    name: str
    operation: Operation
    clients: int
    accessed_at: float
    cancelled_at: float | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """An operation's failure that may be its worker's.

    Attributes:
        worker_id: where it failed.
        results: how many the worker had given by then.
    """

    worker_id: str
    results: int


@dataclass(slots=True, eq=False)
class Operation:
    """An execution.

    Attributes:
        operation_id: as workers know it.
        number: its place in the order of arrival; makes keys of the queue different.
        action: what is executed.
        priority: the highest of those who asked.
        queued_at: when the first one asked.
        lane: the queue that it waits in, or waited in last.
        key: its place in the queue.
        stage: QUEUED, EXECUTING or COMPLETED; UNKNOWN before and after that.
        names: one for each request, in order, cancelled ones too until they are forgotten.
        wanted: how many of them were not cancelled.
        followed: how many of these have clients.
        entry: the queue's mark of its valid entry; 0 while it does not wait.
        waiting_since: when it came into the queue, or back into it.
        position: its number among those that came into the queue of its platform.
        worker_id: who has it, or had it last.
        started_at, finished_at: see `OperationView`.
        epoch: how often it was given to a worker.
        attempts: tries that failed and count.
        failures: why tries failed, counted or not; the last ones.
        failed_on: workers on which it failed, or that had no room for it, in that order; the
            last ones.
        faults: failures that may be the workers'; the last ones, one of each worker.
        refusals: how often a worker had no room for it, one after the other.
        refused_since: when the first of them had none; None before.
        deaths: workers that died while they ran it.
        response: an encoded ExecuteResponse, once there is one.
        failure: why there is none, once that is certain.
        story: what happened to it; the fields of `StoryEntry`.
    """

    operation_id: str
    number: int
    action: ActionInfo
    priority: int
    queued_at: float
    lane: Lane
    key: Key
    stage: ExecutionStage = ExecutionStage.UNKNOWN
    names: dict[Name, None] = field(default_factory=dict)
    wanted: int = 0
    followed: int = 0
    entry: int = 0
    waiting_since: float = 0.0
    position: int = 0
    worker_id: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    epoch: int = 0
    attempts: int = 0
    failures: tuple[str, ...] = ()
    failed_on: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    refusals: int = 0
    refused_since: float | None = None
    deaths: tuple[str, ...] = ()
    response: bytes | None = None
    failure: Failure | None = None
    story: list[tuple[float, str, str]] = field(default_factory=list)

    def all_names(self) -> tuple[str, ...]:
        """Every name that means it."""
        return tuple([name.name for name in self.names])

    def add(self, name: Name) -> None:
        """One more request."""
        self.names[name] = None
        if name.cancelled_at is None:
            self.wanted += 1
            self.followed += name.clients > 0

    def remove(self, name: Name) -> None:
        """One request less."""
        del self.names[name]
        if name.cancelled_at is None:
            self.wanted -= 1
            self.followed -= name.clients > 0

    def view(self, name: Name, queue_position: int | None, note: str) -> OperationView:
        """As one of those who asked for it sees it."""
        return OperationView(
            name=name.name,
            operation_id=self.operation_id,
            action=self.action,
            stage=self.stage,
            priority=self.priority,
            queued_at=self.queued_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            worker_id=self.worker_id,
            attempts=self.attempts,
            queue_position=queue_position,
            note=note,
            response=self.response,
            failure=self.failure,
        )
