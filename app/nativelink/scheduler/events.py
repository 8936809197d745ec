"""What happens to the scheduler's machine. Everything it may know stands in them.

Events are plain data: they can be written to a log and replayed, and lead to the same state.
Ids are chosen by who makes the event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.operation import Failure

__all__ = [
    "CancelRequested",
    "ClientAttached",
    "ClientDetached",
    "DeleteRequested",
    "DrainRequested",
    "Event",
    "ExecuteRequested",
    "ExecutionFailed",
    "ExecutionFinished",
    "OperationRead",
    "ProcessEnded",
    "Tick",
    "WorkerJoined",
    "WorkerLeft",
    "WorkerLost",
    "WorkerSeen",
]


@dataclass(frozen=True, slots=True)
class ExecuteRequested:
    """A client wants an action executed and follows it under `name`, which is new.

    It counts as one stream, as if ClientAttached had followed.

    `operation_id` becomes the execution's if there is none yet that it can share.
    """

    name: str
    operation_id: str
    action: ActionInfo


@dataclass(frozen=True, slots=True)
class ClientAttached:
    """One more stream follows `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class ClientDetached:
    """One stream less follows `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class OperationRead:
    """Somebody looked at `name` without following it; it is kept for longer, finished or not."""

    name: str


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Whoever asked for `name` does not want it any more."""

    name: str


@dataclass(frozen=True, slots=True)
class DeleteRequested:
    """The finished operation `name` is to be forgotten."""

    name: str


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker connected, or connected again under the id it had (see WorkerHello)."""

    worker_id: str
    properties: tuple[tuple[str, str], ...]
    max_inflight_tasks: int = 0
    running: tuple[str, ...] = ()
    can_resume: bool = False
    address: str = ""


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker gave a sign of life."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker's connection broke."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class WorkerLeft:
    """A worker said that it goes away for good."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """Somebody wants a worker to get no new actions, or to get some again."""

    worker_id: str
    draining: bool


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """An action's process ended on its worker; its outputs are still to come."""

    worker_id: str
    operation_id: str


@dataclass(frozen=True, slots=True)
class ExecutionFinished:
    """A worker gave a result: an ExecuteResponse, encoded. Final, whatever it says."""

    worker_id: str
    operation_id: str
    response: bytes
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class ExecutionFailed:
    """A worker could not execute an action."""

    worker_id: str
    operation_id: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed: look for what is due."""


Event: TypeAlias = (
    ExecuteRequested
    | ClientAttached
    | ClientDetached
    | OperationRead
    | CancelRequested
    | DeleteRequested
    | WorkerJoined
    | WorkerSeen
    | WorkerLost
    | WorkerLeft
    | DrainRequested
    | ProcessEnded
    | ExecutionFinished
    | ExecutionFailed
    | Tick
)
