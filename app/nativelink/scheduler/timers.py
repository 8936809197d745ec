"""What is to be looked at, and when."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

__all__ = ["Due", "Timer", "TimerKind"]

#: Void entries of the heap beyond which it is made anew.
_SLACK: Final = 64


class TimerKind(IntEnum):
    """What may become due, in the order in which it is done at the same moment."""

    # Timers are keys of a dictionary; the hash of an enumeration runs Python code.
    __hash__ = int.__hash__

    WORKER = 1
    KILL = 2
    PAUSE = 3
    QUARANTINE = 4
    EXECUTING = 5
    CLIENTS = 6
    UNSCHEDULABLE = 7
    RETENTION = 8


class Timer(NamedTuple):
    """Something that may become due.

    Attributes:
        kind: what.
        subject: of which worker, operation or name.
        object: of which operation of that worker, where that matters.
    """

    kind: TimerKind
    subject: str
    object: str = ""


class Due:
    """When each timer is to be looked at, at the latest.

    When it is really due follows from the state alone, so that a timer need not be told of what
    puts it off (a sign of life, a client that comes back): it is looked at too early, and armed
    again. And nothing of it need be saved.
    """

    __slots__ = ("_armed", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, Timer]] = []
        self._armed: dict[Timer, float] = {}

    @property
    def earliest(self) -> float | None:
        """When something is to be looked at, None if never."""
        return self._heap[0][0] if self._heap else None

    def armed(self, timer: Timer) -> float | None:
        """When a timer is to be looked at, None if never."""
        return self._armed.get(timer)

    def arm(self, timer: Timer, at: float) -> None:
        """Look at the timer then, or before."""
        armed = self._armed.get(timer)
        if armed is None or at < armed:
            self._armed[timer] = at
            heappush(self._heap, (at, timer))

    def disarm(self, timer: Timer) -> None:
        """The timer need not be looked at; for one that would lie here for long otherwise."""
        heap, armed = self._heap, self._armed
        if armed.pop(timer, None) is not None and len(heap) > 2 * len(armed) + _SLACK:
            heap[:] = [(at, each) for each, at in armed.items()]
            heapify(heap)

    def take(self, now: float, really_due: Callable[[Timer], float | None]) -> list[Timer]:
        """The timers that are due, the longest due first; they are armed no more.

        Args:
            now: the time.
            really_due: when a timer is due as things are, or None if not at all.
        """
        heap = self._heap
        found: list[tuple[float, Timer]] = []
        while heap and heap[0][0] <= now:
            at, timer = heappop(heap)
            if self._armed.get(timer) != at:
                continue
            del self._armed[timer]
            due = really_due(timer)
            if due is None:
                continue
            if due <= now:
                found.append((due, timer))
            else:
                self.arm(timer, due)
        return [timer for _, timer in sorted(found)]
