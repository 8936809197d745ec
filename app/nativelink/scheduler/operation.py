"""What is known of an execution, as clients see it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from nativelink.core.digest import Digest
from nativelink.core.errors import Code
from nativelink.scheduler.action import ActionInfo

__all__ = ["ExecutionStage", "Failure", "OperationView", "StoryEntry"]


class ExecutionStage(IntEnum):
    """REAPI's stages, with REAPI's numbers (message ExecutionStage)."""

    UNKNOWN = 0
    CACHE_CHECK = 1
    QUEUED = 2
    EXECUTING = 3
    COMPLETED = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no result.

    Attributes:
        code: what the client gets in `ExecuteResponse.status`.
        message: for people.
        missing: blobs that the CAS lacks; each becomes a MISSING violation.
    """

    code: Code
    message: str
    missing: tuple[Digest, ...] = ()


class StoryEntry(NamedTuple):
    """Something that happened to an operation.

    Attributes:
        at: seconds since the Unix epoch.
        cause: the type of the event that led to it.
        text: what, for people.
    """

    at: float
    cause: str
    text: str


@dataclass(frozen=True, slots=True)
class OperationView:
    """The state of an execution at one moment. Times are seconds since the Unix epoch.

    Attributes:
        name: `google.longrunning.Operation.name`, `{instance}/{id}`; each request has its own,
            also where several share one execution.
        operation_id: of the execution, as workers know it.
        action: what is executed.
        stage: how far it is.
        priority: the one that counts now, which is the highest of those who share it.
        queued_at: when it was asked for.
        started_at: when the worker got it that has it now, or had it last; None before.
        finished_at: when it was COMPLETED; None before.
        worker_id: who has it, or had it last; empty before.
        attempts: tries that failed.
        queue_position: how many of its platform are started before it; None if it is not QUEUED.
        note: why it waits, where there is more to say than that others are before it.
        response: `ExecuteResponse`, encoded, once COMPLETED with a result.
        failure: why there is none, once COMPLETED without.
        cached: the response came from the action cache.
        story: what happened to it and why, where `Scheduler.get` was asked.
    """

    name: str
    operation_id: str
    action: ActionInfo
    stage: ExecutionStage
    priority: int
    queued_at: float
    started_at: float | None = None
    finished_at: float | None = None
    worker_id: str = ""
    attempts: int = 0
    queue_position: int | None = None
    note: str = ""
    response: bytes | None = None
    failure: Failure | None = None
    cached: bool = False
    story: tuple[StoryEntry, ...] = ()

    @property
    def done(self) -> bool:
        """Whether nothing will change any more."""
        return self.stage is ExecutionStage.COMPLETED
