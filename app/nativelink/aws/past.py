"""What a pool did before now: how fast it may grow follows from it (`scaling.py`). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Final

__all__ = ["RECENT_S", "Past", "PastOfPool"]

#: What ran counts the less the longer ago it was: after so many seconds about a third. Two or
#: three builds fit in, so that the pool is neither made for one of them nor forgets all.
RECENT_S: Final = 600.0
#: For so long the first figures are taken to have been true.
_FIRST_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a pool besides how it is now.

    Attributes:
        running: actions that ran at a time, on average of about the last ten minutes.
        waiting_s: for so long some action has waited, one or another, without a break.
    """

    running: float
    waiting_s: float


class PastOfPool:
    """Remembers one pool. What was before the first figures is taken to be like them.

    The first figures are those with a worker: when a scheduler starts again, its workers need some
    seconds to come back, and that nothing runs until then says nothing of the minutes before.
    """

    __slots__ = ("_at", "_total", "_waiting_since", "_weight")

    def __init__(self) -> None:
        self._at: float | None = None
        self._total = 0.0
        self._weight = 0.0
        self._waiting_since: float | None = None

    def add(self, queued: int, running: int, workers: int, *, at: float) -> Past:
        """Figures of now.

        Args:
            queued: actions that wait.
            running: actions that run.
            workers: those that there are.
            at: when that is, in seconds of a clock that never goes back.
        """
        if not queued:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = at
        waiting_s = 0.0 if self._waiting_since is None else at - self._waiting_since
        if self._at is None and not workers:
            return Past(float(running), waiting_s)
        passed_s = _FIRST_S if self._at is None else at - self._at
        kept = exp(-passed_s / RECENT_S)
        self._at = at
        self._total = kept * self._total + (1 - kept) * running
        self._weight = kept * self._weight + (1 - kept)
        return Past(self._total / self._weight, waiting_s)
