"""The two sides of a fast_slow store: what each keeps, what it did, how its failures are told."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum
from typing import Final

from nativelink.core.clock import Clock
from nativelink.core.errors import NativeLinkError

__all__ = ["FailureReport", "FastSlowStatistics", "StoreDirection", "TierCounts"]

_log: Final = logging.getLogger(__name__)

#: A broken fast side is reported this often.
_REPORT_INTERVAL_S: Final = 60.0


class StoreDirection(Enum):
    """What a side keeps: uploads, what reads fetched from the slow side, both or neither."""

    BOTH = "both"
    UPDATE = "update"
    GET = "get"
    READ_ONLY = "read_only"

    @property
    def keeps_puts(self) -> bool:
        """Whether uploads go there."""
        return self in {StoreDirection.BOTH, StoreDirection.UPDATE}

    @property
    def keeps_gets(self) -> bool:
        """Whether what was read from the slow side goes there."""
        return self in {StoreDirection.BOTH, StoreDirection.GET}


@dataclass(frozen=True, slots=True)
class FastSlowStatistics:
    """What the two sides did since the store was made.

    Attributes:
        fast_hits: reads that the fast side answered.
        fast_misses: reads of what it did not have.
        fast_stale: reads that passed it by because its value may have been out of date.
        fast_errors: calls of the fast side that failed, and harmed nobody.
        fast_read_bytes: bytes that it gave to readers.
        fast_written_bytes: bytes that it took.
        slow_hits: reads that the slow side answered, shared ones once.
        slow_misses: reads of what it did not have either, shared ones once.
        slow_read_bytes: bytes that it gave, shared ones once.
        slow_written_bytes: bytes that it took.
        shared_reads: readers who read along with another one.
        flights: reads of the slow side that others could join now.
        stale_keys: keys whose value in the fast side may be out of date now.
    """

    fast_hits: int
    fast_misses: int
    fast_stale: int
    fast_errors: int
    fast_read_bytes: int
    fast_written_bytes: int
    slow_hits: int
    slow_misses: int
    slow_read_bytes: int
    slow_written_bytes: int
    shared_reads: int
    flights: int
    stale_keys: int


class TierCounts:
    """The figures of `FastSlowStatistics` that grow, to be counted up by the store."""

    __slots__ = (
        "fast_errors",
        "fast_hits",
        "fast_misses",
        "fast_read_bytes",
        "fast_stale",
        "fast_written_bytes",
        "shared_reads",
        "slow_hits",
        "slow_misses",
        "slow_read_bytes",
        "slow_written_bytes",
    )

    def __init__(self) -> None:
        self.fast_hits = 0
        self.fast_misses = 0
        self.fast_stale = 0
        self.fast_errors = 0
        self.fast_read_bytes = 0
        self.fast_written_bytes = 0
        self.slow_hits = 0
        self.slow_misses = 0
        self.slow_read_bytes = 0
        self.slow_written_bytes = 0
        self.shared_reads = 0

    def statistics(self, *, flights: int, stale_keys: int) -> FastSlowStatistics:
        """These figures, and those of this moment."""
        return FastSlowStatistics(
            fast_hits=self.fast_hits,
            fast_misses=self.fast_misses,
            fast_stale=self.fast_stale,
            fast_errors=self.fast_errors,
            fast_read_bytes=self.fast_read_bytes,
            fast_written_bytes=self.fast_written_bytes,
            slow_hits=self.slow_hits,
            slow_misses=self.slow_misses,
            slow_read_bytes=self.slow_read_bytes,
            slow_written_bytes=self.slow_written_bytes,
            shared_reads=self.shared_reads,
            flights=flights,
            stale_keys=stale_keys,
        )


class FailureReport:
    """Logs failures of the fast side, the first at once and the others once a minute.

    Args:
        clock: for the interval.
    """

    __slots__ = ("_clock", "_report_at", "_unreported")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._report_at = 0.0
        self._unreported = 0

    def add(self, verb: str, error: Exception) -> None:
        """Report a failure, or count it for the next report.

        Args:
            verb: what the fast side failed to do, such as `read`.
            error: why; with its traceback if it is none of ours.
        """
        self._unreported += 1
        now = self._clock.monotonic()
        if now >= self._report_at:
            _log.warning(
                "the fast side of a fast_slow store failed to %s, the slow side went on alone "
                "(%d failures since the last report): %s",
                verb,
                self._unreported,
                error,
                exc_info=None if isinstance(error, NativeLinkError) else error,
            )
            self._unreported = 0
            self._report_at = now + _REPORT_INTERVAL_S
