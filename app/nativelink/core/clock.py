"""Time as a collaborator, so that tests own it."""

from __future__ import annotations

import time as _time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Two clocks in seconds: wall time for what others read, monotonic for intervals."""

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        ...


class SystemClock:
    """The machine's clocks."""

    # The methods are the functions themselves: hot paths call no Python frame to read a clock.
    time = staticmethod(_time.time)
    monotonic = staticmethod(_time.monotonic)
