"""What EC2 tells a machine about its end, as notices for a worker.

Looked at every five seconds, as AWS advises: the notice of a spot interruption (two minutes
before, at best), the recommendation to rebalance (earlier, or together with it, or never), and the
state that its auto scaling group wants it to have.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from nativelink.aws.metadata import InstanceMetadata
from nativelink.aws.outage import Outage
from nativelink.core.clock import Clock
from nativelink.core.errors import NativeLinkError
from nativelink.worker.notices import Notice

__all__ = ["INTERVAL_S", "ImdsNotices"]

_log: Final = logging.getLogger(__name__)

INTERVAL_S: Final = 5.0
#: Where the end was asked for, and is paid for until it comes.
_HURRY_S: Final = 1.0
#: What a spot interruption gives at best, and what one gives whose time cannot be read.
_SPOT_S: Final = 120.0
_INTERRUPTION: Final = "spot/instance-action"
_REBALANCE: Final = "events/recommendations/rebalance"
_STATE: Final = "autoscaling/target-lifecycle-state"
_TERMINATED: Final = "Terminated"


class ImdsNotices:
    """`Notices` (`worker/notices.py`) from the instance's metadata. Each is given once.

    Args:
        metadata: where to look.
        planned_s: what an end gives that is planned, not forced.
        clock: what deadlines are compared with.
        sleep: waits for seconds; tests pass their own.

    Attributes:
        terminating: whether the auto scaling group wants the machine to end.
    """

    def __init__(
        self,
        metadata: InstanceMetadata,
        *,
        planned_s: float,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.terminating = False
        self._interval_s = INTERVAL_S
        self._metadata = metadata
        self._planned_s = planned_s
        self._clock = clock
        self._sleep = sleep
        self._found: deque[Notice] = deque()
        self._interruption = ""
        self._rebalance = ""
        self._outage = Outage(_log, "the instance metadata cannot be read")

    async def next(self) -> Notice:
        while not self._found:
            await self.look()
            if not self._found:
                await self._sleep(self._interval_s)
        return self._found.popleft()

    def expect_end(self) -> None:
        """Look more often from now on: this machine was asked to end."""
        self._interval_s = _HURRY_S

    async def look(self) -> None:
        """Look once. A part that cannot be read is looked at again the next time."""
        failed: NativeLinkError | None = None
        for look in (self._look_for_interruption, self._look_for_rebalance, self._look_at_state):
            try:
                await look()
            except NativeLinkError as error:
                failed = error
        if failed is None:
            self._outage.worked()
        else:
            self._outage.failed(failed)

    async def _look_for_interruption(self) -> None:
        said = await self._metadata.get(_INTERRUPTION)
        # A notice may be given again with another time.
        if said is None or said == self._interruption:
            return
        self._interruption = said
        self._found.append(Notice("spot interruption", self._seconds_of(said)))

    def _seconds_of(self, said: str) -> float:
        try:
            when = json.loads(said)["time"]
            at = datetime.strptime(when, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
        except (ValueError, TypeError, KeyError):
            _log.warning("a spot interruption of a form that is not known: %.200r", said)
            return _SPOT_S
        return max(0.0, at - self._clock.time())

    async def _look_for_rebalance(self) -> None:
        said = await self._metadata.get(_REBALANCE)
        if said is not None and not self._rebalance:
            self._rebalance = said
            self._found.append(Notice("recommendation to rebalance", None))

    async def _look_at_state(self) -> None:
        said = await self._metadata.get(_STATE)
        if said is not None and said.strip() == _TERMINATED and not self.terminating:
            self.terminating = True
            self._found.append(Notice("the auto scaling group ends this machine", self._planned_s))
