"""What services are served from: schedulers of any kind, and the one that workers join."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias
from uuid import uuid4

from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.operation import Failure, OperationView

__all__ = [
    "KillOrder",
    "Order",
    "Scheduler",
    "StartOrder",
    "Watch",
    "WorkerGateway",
    "WorkerHello",
    "WorkerLink",
    "WorkerView",
    "new_operation_name",
]


def new_operation_name(instance_name: str) -> str:
    """A name for an operation, `{instance}/{uuid}`, as in NativeLink; nobody can guess it."""
    return f"{instance_name}/{uuid4()}"


class Watch(Protocol):
    """A client that follows an operation. It counts as interested until `close`."""

    async def next(self) -> OperationView | None:
        """The operation as it is now, then each time that it has changed since the last call.

        States that nobody waited for are skipped: only the latest one counts.

        Returns:
            None after a view that is `done` was given.

        Raises:
            NativeLinkError: UNAVAILABLE if the scheduler stops, or what an upstream one answered.
        """
        ...

    def look(self) -> OperationView | None:
        """The operation as it is now; None where only `next` can tell.

        It does not count as seen: `next` gives the same state as if nobody had looked.
        """
        ...

    def close(self) -> None:
        """The client left. Does not cancel the operation; may be called twice."""
        ...


class Scheduler(Protocol):
    """A scheduler of any kind; wrappers have one inside."""

    async def execute(self, action: ActionInfo, *, name: str = "") -> Watch:
        """Ask for an execution.

        Args:
            action: what to execute.
            name: what the operation is to be called, where a wrapper has told its client a name
                already (`new_operation_name`); empty lets the scheduler choose one.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for properties that cannot be right, UNAVAILABLE
                while it stops, RESOURCE_EXHAUSTED when it can take no more.
        """
        ...

    async def watch(self, name: str) -> Watch:
        """Follow an operation again (WaitExecution).

        Raises:
            NativeLinkError: NOT_FOUND.
        """
        ...

    async def get(self, name: str) -> OperationView:
        """An operation as it is now, with its story, where there is one.

        Who asks again and again counts as interested in it.

        Raises:
            NativeLinkError: NOT_FOUND.
        """
        ...

    async def operations(self, *, since: float = 0.0) -> Iterable[OperationView]:
        """All that are known, finished ones too as long as they are kept; oldest first.

        Made one by one as they are taken, since there may be a million of them and few are
        wanted: to be taken before the next `await`.

        Args:
            since: leave out those that were asked for before, seconds since the Unix epoch.
        """
        ...

    async def cancel(self, name: str) -> None:
        """End the interest of `name`; the execution is stopped if nobody else shares it.

        Raises:
            NativeLinkError: NOT_FOUND.
        """
        ...

    async def delete(self, name: str) -> None:
        """Forget a finished operation.

        Raises:
            NativeLinkError: NOT_FOUND; FAILED_PRECONDITION if it is not finished.
        """
        ...

    def known_properties(self) -> Sequence[str]:
        """Platform properties that are looked at, for clients that ask; sorted."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """How a worker introduces itself.

    Attributes:
        prefix: what its id begins with.
        properties: what it offers, `(name, value)`; several values of a name are alternatives.
        max_inflight_tasks: actions that it runs at the same time; 0 is no limit.
        resumes: the id that it had on a connection that broke; empty if it has none.
        running: operations that it still runs, or has results of, from that connection.
        can_resume: whether it keeps its actions when the connection breaks.
        address: where it connects from, for people.
    """

    prefix: str
    properties: tuple[tuple[str, str], ...]
    max_inflight_tasks: int = 0
    resumes: str = ""
    running: tuple[str, ...] = ()
    can_resume: bool = False
    address: str = ""


@dataclass(frozen=True, slots=True)
class StartOrder:
    """Run this action.

    Attributes:
        operation_id: how the worker names it when it answers.
        action: what to run.
        queued_at: when it was asked for, seconds since the Unix epoch.
    """

    operation_id: str
    action: ActionInfo
    queued_at: float


@dataclass(frozen=True, slots=True)
class KillOrder:
    """Stop this action; its result does not matter any more."""

    operation_id: str


Order: TypeAlias = StartOrder | KillOrder


class WorkerLink(Protocol):
    """One worker's connection. Every call but `next_orders` returns at once."""

    @property
    def worker_id(self) -> str: ...

    async def next_orders(self) -> Sequence[Order]:
        """What the worker is to do, in order; empty when the scheduler wants it to disconnect."""
        ...

    def keep_alive(self) -> None:
        """The worker spoke. Every other call says so too."""
        ...

    def drain(self, *, draining: bool) -> None:
        """The worker wants nothing new, or wants something again."""
        ...

    def process_ended(self, operation_id: str) -> None:
        """The action's process ended; its resources are free, its outputs not yet uploaded."""
        ...

    def result(
        self,
        operation_id: str,
        response: bytes,
        *,
        exit_code: int,
        peak_memory_kb: int = 0,
        cpu_time_ms: int = 0,
    ) -> None:
        """The action is done; `response` is an encoded ExecuteResponse."""
        ...

    def failed(self, operation_id: str, failure: Failure) -> None:
        """The worker could not run the action (ExecuteResult.internal_error)."""
        ...

    def going_away(self) -> None:
        """The worker leaves for good: what it still has runs elsewhere, at once."""
        ...

    def lost(self) -> None:
        """The connection broke. To be called last, also after `going_away`."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker at one moment.

    Attributes:
        worker_id: its id.
        address: where it connects from.
        properties: what it offers.
        max_inflight_tasks: 0 is no limit.
        running: operations that it has.
        draining: it gets no new ones because somebody said so.
        paused: it gets no new ones because it said that it has no room.
        connected: False while it may still come back.
        connected_at: seconds since the Unix epoch.
        last_seen_at: likewise.
        quarantined: it gets nothing, or one at a time, because what failed there went well
            elsewhere again and again.
    """

    worker_id: str
    address: str
    properties: tuple[tuple[str, str], ...]
    max_inflight_tasks: int
    running: tuple[str, ...]
    draining: bool
    paused: bool
    connected: bool
    connected_at: float
    last_seen_at: float
    quarantined: bool = False


class WorkerGateway(Protocol):
    """A scheduler that workers can join."""

    def connect(self, hello: WorkerHello) -> WorkerLink:
        """Let a worker in, or back in.

        Raises:
            NativeLinkError: UNAVAILABLE while the scheduler stops; INVALID_ARGUMENT for
                properties that cannot be right (a `minimum` one that is no number).
        """
        ...

    def workers(self) -> Sequence[WorkerView]:
        """All workers, by id."""
        ...

    def drain(self, worker_id: str, *, draining: bool) -> None:
        """Give a worker no new actions, or give it some again.

        Raises:
            NativeLinkError: NOT_FOUND.
        """
        ...
