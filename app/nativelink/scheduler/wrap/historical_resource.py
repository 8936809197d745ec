"""Actions that ask for what others of their kind needed before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from nativelink.core.clock import Clock
from nativelink.core.errors import NativeLinkError
from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.scheduler import Scheduler, Watch
from nativelink.scheduler.wrap.delegating import DelegatingScheduler
from nativelink.scheduler.wrap.hints import Hints, needs_of, parse_hints

__all__ = ["HistoricalResourceScheduler"]

_log: Final = logging.getLogger(__name__)


class HistoricalResourceScheduler(DelegatingScheduler):
    """Raises the CPUs and the memory that an action asks for to what its hint says.

    A hint never lowers what the client asked for. The file is read again now and then, by the
    first action after the time has come. A file that cannot be read or understood changes
    nothing: a log line says so, and the hints that were read before stay.

    Args:
        backend: gets the actions with the additions.
        read: gives the hints' file; it may block, and may raise OSError.
        clock: for the interval.
        refresh_interval_s: seconds until the file is read again; 0 is never.
        cpu_property_name: gets the number of CPUs.
        memory_property_name: gets the memory, in KiB.
    """

    def __init__(
        self,
        backend: Scheduler,
        read: Callable[[], bytes],
        *,
        clock: Clock,
        refresh_interval_s: float = 30,
        cpu_property_name: str = "cpu_count",
        memory_property_name: str = "memory_kb",
    ) -> None:
        super().__init__(backend)
        self._read = read
        self._clock = clock
        self._interval_s = refresh_interval_s
        self._cpu_name = cpu_property_name
        self._memory_name = memory_property_name
        self._hints: Hints = {}
        self._refresh_at: float | None = None

    async def execute(self, action: ActionInfo, *, name: str = "") -> Watch:
        if self._refresh_at is not None and self._clock.monotonic() >= self._refresh_at:
            await self.refresh()
        origin = action.origin
        needs = needs_of(self._hints, origin.target_id, origin.action_mnemonic)
        if needs is not None:
            wanted = {self._cpu_name: needs.cpu_count, self._memory_name: needs.memory_kb}
            action = _raised(action, wanted)
        return await self._backend.execute(action, name=name)

    async def refresh(self) -> None:
        """Read the file now; to be called once before the first action comes."""
        # Those who come meanwhile go on with the hints that there are.
        self._refresh_at = self._clock.monotonic() + self._interval_s if self._interval_s else None
        try:
            self._hints = parse_hints(await asyncio.to_thread(self._read))
        except (NativeLinkError, OSError) as error:
            _log.warning(
                "the resource hints could not be read, so %s: %s",
                f"the {len(self._hints)} read before stay" if self._hints else "there are none",
                error,
            )


def _raised(action: ActionInfo, wanted: Mapping[str, int]) -> ActionInfo:
    """The action with each property at least as high as wanted."""
    # Of a name that stands several times, the largest number counts.
    higher = {
        name: str(least)
        for name, least in wanted.items()
        if least and all(_is_less(value, least) for key, value in action.properties if key == name)
    }
    if not higher:
        return action
    kept = [each for each in action.properties if each[0] not in higher]
    return replace(action, properties=tuple(sorted((*kept, *higher.items()))))


def _is_less(value: str, least: int) -> bool:
    """Whether a property's value is a number and less; what is none is left to the scheduler."""
    try:
        return int(value) < least
    except ValueError:
        return False
