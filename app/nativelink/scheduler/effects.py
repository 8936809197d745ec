"""What the scheduler's machine wants done. An effect may be carried out twice without harm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.operation import ExecutionStage

__all__ = [
    "AttemptEnded",
    "Effect",
    "KillExecution",
    "OperationForgotten",
    "OperationUpdated",
    "StageChanged",
    "StartExecution",
    "Unschedulable",
    "WorkerEvicted",
    "WorkerQuarantined",
]


@dataclass(frozen=True, slots=True)
class StartExecution:
    """Send the action to the worker. `epoch` counts how often the operation was sent out."""

    worker_id: str
    operation_id: str
    epoch: int
    action: ActionInfo
    queued_at: float


@dataclass(frozen=True, slots=True)
class KillExecution:
    """Tell the worker to stop the action."""

    worker_id: str
    operation_id: str


@dataclass(frozen=True, slots=True)
class WorkerEvicted:
    """The worker is not known any more: end its connection."""

    worker_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerQuarantined:
    """For logs: the worker gets nothing for so many seconds, and why."""

    worker_id: str
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class OperationUpdated:
    """Those who follow these names are to see the operation's new state."""

    operation_id: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OperationForgotten:
    """These names mean nothing any more."""

    operation_id: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StageChanged:
    """For metrics: an operation went from one stage to another."""

    operation_id: str
    before: ExecutionStage
    after: ExecutionStage
    worker_id: str


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """For metrics and logs: a worker was given an action and brought no result.

    `counted` tells whether it was a failure of the action; the loss of a worker is none.
    """

    operation_id: str
    worker_id: str
    reason: str
    counted: bool


@dataclass(frozen=True, slots=True)
class Unschedulable:
    """For logs: no connected worker could ever run the operation, and why."""

    operation_id: str
    reason: str


Effect: TypeAlias = (
    StartExecution
    | KillExecution
    | WorkerEvicted
    | WorkerQuarantined
    | OperationUpdated
    | OperationForgotten
    | StageChanged
    | AttemptEnded
    | Unschedulable
)
