"""Warnings that this machine is about to go away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Notice", "Notices"]


@dataclass(frozen=True, slots=True)
class Notice:
    """The machine goes away, or may.

    Attributes:
        reason: for people, for instance "spot interruption".
        seconds: until it is gone; None if nobody knows, so that it should take nothing new but
            need not hurry.
    """

    reason: str
    seconds: float | None


class Notices(Protocol):
    """Where warnings come from: a cloud's metadata service, a queue, an operator."""

    async def next(self) -> Notice:
        """Wait for the next warning."""
        ...
