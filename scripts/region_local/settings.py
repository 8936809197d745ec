"""What differs from EC2 because this is a laptop: times and sizes. Addresses are in `network`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Settings"]

#: What EC2 gives, at best (User Guide, "Spot Instance interruption notices").
EC2_NOTICE_S = 120.0


@dataclass(frozen=True)
class Settings:
    """How the laptop plays EC2.

    Attributes:
        boot_s: from launch until the machine runs its user data.
        notice_s: from a spot notice until the machine is gone; EC2 gives two minutes.
        idle_s: seconds without work until a worker leaves; None is as deployed.
        tick_s: between looks at everything.
        memory_bytes, disk_bytes: that a machine takes here, whatever its type.
    """

    boot_s: float = 5.0
    notice_s: float = 20.0
    idle_s: float | None = 30.0
    tick_s: float = 1.0
    memory_bytes: int = 256 * 1024 * 1024
    disk_bytes: int = 4_000_000_000

    def scaled(self, seconds: float) -> float:
        """A part of EC2's notice as the same part of ours."""
        return seconds * self.notice_s / EC2_NOTICE_S
