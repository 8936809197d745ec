"""Who follows which operation, and is woken when there is news of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nativelink.scheduler.ends import LocalWatch

__all__ = ["Watches"]

#: So many are woken before others have a turn: some 30 ms. The first worker that joins is news for
#: everyone who waits, which may be a hundred thousand.
_WOKEN_AT_ONCE: Final = 1_000


class Watches:
    """Watches by name; thousands may follow one name, and leave at the same time."""

    def __init__(self) -> None:
        self._watches: dict[str, dict[LocalWatch, None]] = {}
        #: Names whose watches are to be woken when others had a turn.
        self._updated: deque[Sequence[str]] = deque()
        self._is_waking = False
        #: How many were woken of the event that is handled.
        self._woken = 0

    def add(self, watch: LocalWatch) -> None:
        """One more follows."""
        self._watches.setdefault(watch.name, {})[watch] = None

    def remove(self, watch: LocalWatch) -> bool:
        """It does not follow any more.

        Returns:
            whether it did.
        """
        watches = self._watches.get(watch.name, {})
        if watch not in watches:
            return False
        del watches[watch]
        if not watches:
            del self._watches[watch.name]
        return True

    def forget(self, names: Iterable[str]) -> None:
        """These names mean nothing any more; who follows them learns it."""
        for name in names:
            for watch in self._watches.pop(name, ()):
                watch.changed()

    def update(self, names: Sequence[str]) -> None:
        """There is news of an event of these names; `event_ended` must follow."""
        if self._woken < _WOKEN_AT_ONCE:
            self._woken += self._wake(names)
        else:
            self._updated.append(names)

    def event_ended(self) -> None:
        """That was all of it. What there is news of next need not wait for what is left of this."""
        self._woken = 0
        if self._updated and not self._is_waking:
            self._is_waking = True
            asyncio.get_running_loop().call_soon(self._wake_more)

    def wake_all(self) -> None:
        """There is news for everybody."""
        self._wake(self._watches)

    def _wake(self, names: Iterable[str]) -> int:
        """Have those who follow these names look; how many these are."""
        woken = 0
        for name in names:
            for watch in self._watches.get(name, ()):
                watch.changed()
                woken += 1
        return woken

    def _wake_more(self) -> None:
        """Wake some of those who are still to be woken."""
        updated = self._updated
        woken = 0
        while updated and woken < _WOKEN_AT_ONCE:
            woken += self._wake(updated.popleft())
        self._is_waking = bool(updated)
        if updated:
            asyncio.get_running_loop().call_soon(self._wake_more)
