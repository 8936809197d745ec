"""The pools' load as CloudWatch metrics, which auto scaling groups follow.

A round is taken every few seconds; another task sends what was taken. So the scheduler never
waits, and a CloudWatch that does not answer costs the metrics of that time at most: what waits is
bounded, the oldest goes first, and each value carries the time at which it was true.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from nativelink.aws.clients import Clients, aws_errors
from nativelink.aws.outage import Outage
from nativelink.aws.past import Past, PastOfPool
from nativelink.aws.scaling import load_ratio
from nativelink.core.clock import Clock
from nativelink.core.errors import NativeLinkError
from nativelink.scheduler.pools import PoolStatistics

__all__ = ["Datum", "PoolPublisher", "Put", "put_metric_data"]

_log: Final = logging.getLogger(__name__)

#: Values of one request (CloudWatch, PutMetricData: 1,000 metrics, 1 MiB).
_MAX_VALUES: Final = 1000
#: Values that wait while CloudWatch does not answer: an hour of three pools, about 2 MiB.
_MAX_WAITING: Final = 6480
#: Of a request that got an answer to nothing; the next round is due long before.
_TIMEOUT_S: Final = 20.0
_HIGH_RESOLUTION_S: Final = 1
_RESOLUTION_S: Final = 60
#: Dimensions by which interruptions are counted, by the property of workers that has the value.
_COUNTED_BY: Final = {"instance_type": "InstanceType", "availability_zone": "Zone"}
#: Values that are counted. Workers say what they like, and CloudWatch refuses a whole request for
#: one dimension that it does not like.
_COUNTED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Datum:
    """One value.

    Attributes:
        name: of the metric.
        pool: of the dimension Pool; None for a metric without dimensions.
        value: the value.
        unit: CloudWatch's name of it.
        at: when it was true, seconds since the Unix epoch.
        resolution_s: 1 is high resolution.
        counts: instead of `value`, several values and how often there was each, at most 150.
        more: further dimensions and their values.
    """

    name: str
    pool: str | None
    value: float
    unit: str
    at: float
    resolution_s: int = _HIGH_RESOLUTION_S
    counts: tuple[tuple[float, int], ...] = ()
    more: tuple[tuple[str, str], ...] = ()


Put: TypeAlias = Callable[[Sequence[Datum]], Awaitable[None]]


class PoolPublisher:
    """Publishes pools until it is cancelled. Use it as `await publisher.run()`, in a task.

    Args:
        read: tells how the pools are.
        put: sends up to 1,000 values.
        clock: when values were true.
        interval_s: between rounds.
        sleep: waits for seconds; tests pass their own.
    """

    def __init__(
        self,
        read: Callable[[], Sequence[PoolStatistics]],
        put: Put,
        *,
        clock: Clock,
        interval_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._read = read
        self._put = put
        self._clock = clock
        self._interval_s = interval_s
        self._sleep = sleep
        self._pasts: defaultdict[str, PastOfPool] = defaultdict(PastOfPool)
        self._waiting: deque[Datum] = deque(maxlen=_MAX_WAITING)
        self._taken = asyncio.Event()
        self._outage = Outage(_log, "metrics cannot be published, the newest are kept")

    async def run(self) -> None:
        """Take rounds and send them."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take())
            group.create_task(self._send())

    def interrupted(self, pool: str, properties: Iterable[tuple[str, str]] = ()) -> None:
        """Count a machine that was taken away: in its pool, and of what it was.

        Args:
            pool: its pool.
            properties: what its worker offered.
        """
        at = self._clock.time()
        of = [
            (_COUNTED_BY[name], value)
            for name, value in properties
            if name in _COUNTED_BY and _COUNTED.fullmatch(value)
        ]
        for more in ((), *((each,) for each in of)):
            self._waiting.append(
                Datum("Interruptions", pool, 1, "Count", at, _RESOLUTION_S, more=more)
            )

    async def _take(self) -> None:
        while True:
            now, at = self._clock.time(), self._clock.monotonic()
            for pool in self._read():
                past = self._pasts[pool.name].add(pool.queued, pool.running, pool.workers, at=at)
                self._waiting.extend(_values(pool, past, now))
            self._taken.set()
            await self._sleep(self._interval_s)

    async def _send(self) -> None:
        while True:
            await self._taken.wait()
            self._taken.clear()
            while self._waiting:
                count = min(len(self._waiting), _MAX_VALUES)
                batch = [self._waiting.popleft() for _ in range(count)]
                try:
                    async with asyncio.timeout(_TIMEOUT_S):
                        await self._put(batch)
                except (NativeLinkError, TimeoutError) as error:
                    self._outage.failed(error)
                    self._keep(batch)
                    break
                self._outage.worked()

    def _keep(self, batch: list[Datum]) -> None:
        """Put back what was not sent, as far as there is room before what is newer."""
        room = _MAX_WAITING - len(self._waiting)
        self._waiting.extendleft(reversed(batch[len(batch) - min(room, len(batch)) :]))


def _values(pool: PoolStatistics, past: Past, now: float) -> Sequence[Datum]:
    ratio = load_ratio(
        pool.queued,
        pool.running,
        pool.workers,
        pool.slots,
        oldest_queued_s=pool.oldest_queued_s,
        past=past,
    )
    return (
        Datum("QueuedActions", pool.name, pool.queued, "Count", now),
        Datum("RunningActions", pool.name, pool.running, "Count", now),
        Datum("OldestQueuedSeconds", pool.name, pool.oldest_queued_s, "Seconds", now),
        Datum("IdleWorkers", pool.name, pool.idle, "Count", now),
        Datum("RegisteredWorkers", pool.name, pool.workers, "Count", now),
        Datum("LoadRatio", pool.name, ratio, "Percent", now),
    )


async def put_metric_data(clients: Clients, namespace: str) -> Put:
    """What sends values to a namespace of CloudWatch.

    Raises:
        NativeLinkError: there can be no client.
    """
    client = await clients.client("cloudwatch")

    async def put(values: Sequence[Datum]) -> None:
        with aws_errors("PutMetricData"):
            await client.put_metric_data(
                Namespace=namespace, MetricData=[_message(value) for value in values]
            )

    return put


def _message(value: Datum) -> dict[str, Any]:
    message: dict[str, Any] = {
        "MetricName": value.name,
        "Timestamp": datetime.fromtimestamp(value.at, UTC),
        "Unit": value.unit,
        "StorageResolution": value.resolution_s,
    }
    if value.pool is not None:
        message["Dimensions"] = [
            {"Name": name, "Value": of} for name, of in (("Pool", value.pool), *value.more)
        ]
    if value.counts:
        message["Values"] = [each for each, _ in value.counts]
        message["Counts"] = [count for _, count in value.counts]
    else:
        message["Value"] = value.value
    return message
