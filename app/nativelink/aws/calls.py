"""What clients notice, as CloudWatch metrics: hits, failures, times, and for how long TLS lasts.

Once a minute it looks at what the process counts anyway. The metrics have no dimension: all
machines that serve clients publish the same ones, and CloudWatch adds them up. A minute that cannot
be sent is gone; people look at these, nothing follows them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from nativelink.aws.cloudwatch import Datum, Put
from nativelink.aws.outage import Outage
from nativelink.core.clock import Clock
from nativelink.core.errors import Code, NativeLinkError

__all__ = ["CallPublisher", "Calls"]

_log: Final = logging.getLogger(__name__)

_TIMEOUT_S: Final = 20.0
_RESOLUTION_S: Final = 60
_DAY_S: Final = 86_400
_AC: Final = "build.bazel.remote.execution.v2.ActionCache"
_CAS: Final = "build.bazel.remote.execution.v2.ContentAddressableStorage"
#: Calls of at most 4 MiB: how long they take says how the stores are. Streams of any size do not.
_BOUNDED: Final = frozenset({"FindMissingBlobs", "BatchReadBlobs", "BatchUpdateBlobs"})
#: Answers that are the server's fault. NOT_FOUND and the like are what clients asked for.
_FAULTS: Final = frozenset(
    {Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS}
)


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of one method that ended with one code, since the process began.

    Attributes:
        service: with its package.
        method: its name.
        code: of gRPC.
        counts: how many took up to each bound, and, last, how many took longer than all.
    """

    service: str
    method: str
    code: Code
    counts: tuple[int, ...]


class CallPublisher:
    """Publishes calls until it is cancelled. Use it as `await publisher.run()`, in a task.

    Args:
        read: tells what was counted.
        bounds: upper bounds of the counts, in seconds, ascending.
        put: sends values.
        clock: when values were true.
        interval_s: between looks.
        expiries: tells when each TLS file in use expires, in seconds since the epoch.
        sleep: waits for seconds; tests pass their own.
    """

    def __init__(
        self,
        read: Callable[[], Iterable[Calls]],
        bounds: Sequence[float],
        put: Put,
        *,
        clock: Clock,
        interval_s: float,
        expiries: Callable[[], Iterable[float]] = tuple,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._read = read
        self._expiries = expiries
        # What took longer than every bound took at least the last one.
        self._times = (*bounds, bounds[-1])
        self._put = put
        self._clock = clock
        self._interval_s = interval_s
        self._sleep = sleep
        self._outage = Outage(_log, "metrics of calls cannot be published")

    async def run(self) -> None:
        """Look and send."""
        before = self._counts()
        while True:
            await self._sleep(self._interval_s)
            now = self._counts()
            values = [*self._values(_since(before, now)), *self._tls()]
            before = now
            if not values:
                continue
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await self._put(values)
            except (NativeLinkError, TimeoutError) as error:
                self._outage.failed(error)
            else:
                self._outage.worked()

    def _counts(self) -> dict[tuple[str, str, Code], tuple[int, ...]]:
        return {(each.service, each.method, each.code): each.counts for each in self._read()}

    def _values(self, calls: Sequence[Calls]) -> Iterator[Datum]:
        """Nothing of what nobody asked for: a night without builds costs nothing."""
        at = self._clock.time()

        def number(name: str, value: int) -> Datum:
            return Datum(name, None, value, "Count", at, _RESOLUTION_S)

        asked = {
            code: sum(
                sum(each.counts)
                for each in calls
                if (each.service, each.method, each.code) == (_AC, "GetActionResult", code)
            )
            for code in (Code.OK, Code.NOT_FOUND)
        }
        if any(asked.values()):
            yield number("ActionCacheHits", asked[Code.OK])
            yield number("ActionCacheMisses", asked[Code.NOT_FOUND])
        everything = sum(sum(each.counts) for each in calls)
        if everything:
            yield number("Calls", everything)
            yield number(
                "FailedCalls", sum(sum(each.counts) for each in calls if each.code in _FAULTS)
            )
        bounded = [
            each.counts for each in calls if each.service == _CAS and each.method in _BOUNDED
        ]
        if bounded:
            taken: dict[float, int] = {}
            for time, count in zip(self._times, map(sum, zip(*bounded, strict=True)), strict=True):
                if count:
                    taken[time] = taken.get(time, 0) + count
            yield Datum(
                "CasCallDuration", None, 0.0, "Seconds", at, _RESOLUTION_S, tuple(taken.items())
            )

    def _tls(self) -> Iterator[Datum]:
        """For how long every TLS file in use lasts."""
        first = min(self._expiries(), default=None)
        if first is not None:
            at = self._clock.time()
            yield Datum("DaysToExpiry", None, (first - at) / _DAY_S, "Count", at, _RESOLUTION_S)


def _since(
    before: dict[tuple[str, str, Code], tuple[int, ...]],
    now: dict[tuple[str, str, Code], tuple[int, ...]],
) -> list[Calls]:
    """The calls between two looks, those that there were."""
    found: list[Calls] = []
    for key, counts in now.items():
        earlier = before.get(key, (0,) * len(counts))
        more = tuple(new - old for new, old in zip(counts, earlier, strict=True))
        if any(more):
            found.append(Calls(*key, more))
    return found
