"""How much a team uses a region: assumptions, each of which can be changed."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final

__all__ = ["HOURS", "Usage", "assumption"]

#: Hours of a month.
HOURS: Final = 730.0


def assumption(default: float, meaning: str) -> float:
    """A field with its meaning."""
    made: float = field(default=default, metadata={"meaning": meaning})
    return made


@dataclass(frozen=True)
class Usage:
    """What one developer does on a working day, their part of CI included.

    The first two are those of the simulator's working day of sixty developers
    (docs/fleet-simulation.md), so waiting and money are of the same day.
    """

    worker_hours: float = assumption(
        1.76,
        "hours of workers with 8 slots, idle and boot time too; in a farm of sixty developers "
        "(simulated: 2.4 with twenty, 1.4 with 180, so small teams are too cheap here, large ones "
        "too dear)",
    )
    actions: float = assumption(3607, "executed actions")
    new_blobs: float = assumption(3, "new blobs for each executed action")
    new_mb: float = assumption(0.15, "MB of new blobs for each executed action")
    large_blobs_percent: float = assumption(10, "percent of the blobs that are 128 KiB or larger")
    large_bytes_percent: float = assumption(75, "percent of the bytes that are in those")
    client_gb: float = assumption(1.5, "GB that clients download")
    worker_gb: float = assumption(6, "GB that workers download from the cas role")
    bucket_reads_percent: float = assumption(
        10, "percent of the downloads that neither memory, disk nor Valkey has"
    )
    old_reads_percent: float = assumption(
        5, "percent of those reads that are of blobs older than a month"
    )
    log_mb: float = assumption(20, "MB of logs")
    working_days: float = assumption(21, "working days of a month")

    def meanings(self) -> list[tuple[str, float, str]]:
        """Name, value and meaning of each assumption."""
        return [
            (each.name, getattr(self, each.name), each.metadata["meaning"]) for each in fields(self)
        ]
