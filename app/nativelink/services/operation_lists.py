"""Operations one after the other, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from itertools import groupby
from typing import Final, TypeAlias

from nativelink.scheduler.operation import OperationView
from nativelink.scheduler.scheduler import Scheduler

__all__ = ["BEGINNING", "Place", "in_order", "place_of"]

#: Where an operation stands in a list: when it was queued, and its name.
Place: TypeAlias = tuple[float, str]
BEGINNING: Final[Place] = (0.0, "")

#: So many are looked at before others have a turn: some 40 ms. A filter may let through none of
#: a hundred thousand.
_AT_ONCE: Final = 10_000


def place_of(view: OperationView) -> Place:
    """Where an operation stands."""
    return view.queued_at, view.name


async def in_order(
    scheduler: Scheduler, *, after: Place = BEGINNING
) -> AsyncGenerator[OperationView, None]:
    """The operations behind a place, the oldest first, with a pause for others now and then.

    Who takes them must not wait between two of them.
    """
    while True:
        looked = 0
        for view in _sorted(await scheduler.operations(since=after[0])):
            if place_of(view) <= after:
                continue
            after = place_of(view)
            yield view
            looked += 1
            if looked == _AT_ONCE:
                break
        else:
            return
        await asyncio.sleep(0)


def _sorted(views: Iterable[OperationView]) -> Iterator[OperationView]:
    """The oldest first, as they come; those of the same moment by name."""
    for _, tied in groupby(views, lambda view: view.queued_at):
        yield from sorted(tied, key=lambda view: view.name)
