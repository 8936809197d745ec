"""What every part of a process is made with."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from nativelink.core.clock import Clock
from nativelink.core.digest import DigestFunction
from nativelink.services.status import HealthRegistry
from nativelink.stores.recent import RecentMessages
from nativelink.telemetry.meter import Registry

if TYPE_CHECKING:
    from nativelink.telemetry.tracing import Tracer

__all__ = ["Environment", "Resumable"]


class Resumable(Protocol):
    """A service with calls that last as long as a build, and that clients go on with elsewhere."""

    @property
    def streams(self) -> int:
        """How many there are."""
        ...

    def end_streams(self) -> None:
        """End them so that their clients come again."""
        ...


@dataclass(frozen=True, slots=True)
class Environment:
    """Collaborators that belong to the whole process.

    Attributes:
        version: this program's.
        clock: the time.
        registry: where parts report their metrics.
        measured: whether calls are counted; OTEL_SDK_DISABLED switches it off.
        health: where parts add their checks.
        lifetimes: closes what was opened, the last first.
        tracer: makes spans of calls; None where calls are not traced.
        digest_function: of requests that name none.
        health_check_bytes: size of the blob that health checks write.
        recent: messages of actions, on their way from the service that queues to a worker.
        resumables: services whose calls are ended, not waited for, when the process stops.
    """

    version: str
    clock: Clock
    registry: Registry
    measured: bool
    health: HealthRegistry
    lifetimes: AsyncExitStack
    tracer: Tracer | None
    digest_function: DigestFunction
    health_check_bytes: int
    recent: RecentMessages = field(default_factory=RecentMessages)
    resumables: list[Resumable] = field(default_factory=list)
