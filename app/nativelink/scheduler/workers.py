"""Who runs things: workers, what they have, and kinds of workers that offer the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nativelink.scheduler.properties import Amounts, Properties
from nativelink.scheduler.ranking import Ranking
from nativelink.scheduler.scheduler import WorkerView
from nativelink.scheduler.tournament import Key, Tournament

if TYPE_CHECKING:
    from nativelink.scheduler.queue import Lane, Platform

__all__ = ["Kind", "Lease", "Worker"]

#: More than any worker has (amounts are uint64).
_NOBODY_ASKS: Final = 2**64
#: Operations whose outputs a worker may be storing besides those that it runs. With more of them, a
#: disk or a network that is too slow for what it runs would fill up.
_MAX_FINISHING: Final = 64


@dataclass(slots=True, eq=False)
class Lease:
    """An operation that a worker has. It uses up the worker until the worker says that it ended.

    Attributes:
        operation_id: which.
        usage: what it takes away of each `minimum` property.
        process_ended: it does not any more, as only its outputs are still to come.
        revoked_at: since when the operation is not the worker's any more; None while it is.
        killed_at: when the worker was last told to stop it.
    """

    operation_id: str
    usage: Amounts
    process_ended: bool = False
    revoked_at: float | None = None
    killed_at: float | None = None


@dataclass(slots=True, eq=False)
class Worker:
    """A worker, connected or lost for so short a time that it may come back.

    Attributes:
        worker_id: its id.
        number: its own, in the order of arrival.
        properties: what it said that it offers.
        values: what it offers besides amounts.
        totals: what it offers of each `minimum` property.
        max_inflight_tasks: operations that it may run at the same time; 0 is no limit.
        can_resume: whether it goes on with its operations when the connection breaks.
        address: where it connects from.
        connected_at: when it joined, or came back.
        last_seen_at: when it last gave a sign of life.
        lost_at: when the connection broke; None while it stands.
        draining: it gets nothing new because somebody said so.
        paused: it gets nothing new because it said that it has no room.
        paused_until: when that ends by itself; None if the end of an operation ends it.
        pauses: how many of them, one after the other, without a result in between.
        results: how many it gave.
        faults: operations that failed here and were executed by others, without a result of its
            own in between.
        quarantined: since there were too many of them; it gets one operation at a time until it
            has given a result.
        quarantined_until: when it is tried next; None while it may get one.
        quarantines: how many of them, one after the other, without a result in between.
        probe: the operation that it is tried with; empty if there is none. What it has from before
            the quarantine is none.
        leases: what it has, by operation.
        finishing: how many of these run no process any more: their outputs are being stored.
        used: what that takes away of each `minimum` property.
        free: what is left.
        touched: the machine's count of uses when it was last used.
        reserved_for: it gets nothing but the first operation of this lane, once that fits.
        kind: the workers that offer the same.
        place: in its kind's tournament.
    """

    worker_id: str
    number: int
    properties: Properties
    values: Mapping[str, tuple[str, ...]]
    totals: Amounts
    max_inflight_tasks: int
    can_resume: bool
    address: str
    connected_at: float
    last_seen_at: float
    touched: int
    lost_at: float | None = None
    draining: bool = False
    paused: bool = False
    paused_until: float | None = None
    pauses: int = 0
    results: int = 0
    faults: int = 0
    quarantined: bool = False
    quarantined_until: float | None = None
    quarantines: int = 0
    probe: str = ""
    leases: dict[str, Lease] = field(default_factory=dict)
    finishing: int = 0
    used: list[int] = field(default_factory=list)
    free: Amounts = ()
    reserved_for: Lane | None = None
    kind: Kind | None = None
    place: int = 0

    def __post_init__(self) -> None:
        self.used = [0] * len(self.totals)
        self.free = self.totals

    @property
    def is_open(self) -> bool:
        """Whether it may get something new, as far as that does not depend on what it is."""
        return (
            self.lost_at is None
            and not self.draining
            and not self.paused
            and (not self.quarantined or (self.quarantined_until is None and not self.probe))
            and (
                not self.max_inflight_tasks
                or (
                    len(self.leases) - self.finishing < self.max_inflight_tasks
                    and self.finishing < _MAX_FINISHING
                )
            )
        )

    def take(self, lease: Lease) -> None:
        """It has one more."""
        self.leases[lease.operation_id] = lease
        if self.used:
            self._use(lease.usage, 1)

    def start(self, lease: Lease) -> None:
        """It is given one more; a quarantined worker is tried with that."""
        self.take(lease)
        if self.quarantined:
            self.probe = lease.operation_id

    def end_process(self, lease: Lease) -> None:
        """An operation does not use it up any more, but it still has it."""
        if not lease.process_ended:
            lease.process_ended = True
            self.finishing += 1
            if self.used:
                self._use(lease.usage, -1)

    def give_back(self, operation_id: str) -> Lease | None:
        """It has one less.

        Returns:
            None if it did not have it.
        """
        lease = self.leases.pop(operation_id, None)
        if lease is None:
            return None
        if operation_id == self.probe:
            self.probe = ""
        if lease.process_ended:
            self.finishing -= 1
        elif self.used:
            self._use(lease.usage, -1)
        return lease

    def recount(self) -> None:
        """Its totals changed, or its leases were restored."""
        self.finishing = sum(lease.process_ended for lease in self.leases.values())
        self.used = [0] * len(self.totals)
        self._use(self.used, 1)
        for lease in self.leases.values():
            if not lease.process_ended:
                self._use(lease.usage, 1)

    def _use(self, usage: Amounts | list[int], sign: int) -> None:
        used = self.used
        for place, amount in enumerate(usage):
            used[place] += sign * amount
        # What came back with it may be more than it offers now. What it lacks stays lacking.
        self.free = tuple(
            [
                total - taken if total >= taken else min(total, 0)
                for total, taken in zip(self.totals, used, strict=True)
            ]
        )

    def view(self) -> WorkerView:
        """As people see it."""
        return WorkerView(
            worker_id=self.worker_id,
            address=self.address,
            properties=self.properties,
            max_inflight_tasks=self.max_inflight_tasks,
            running=tuple(self.leases),
            draining=self.draining,
            paused=self.paused,
            connected=self.lost_at is None,
            connected_at=self.connected_at,
            last_seen_at=self.last_seen_at,
            quarantined=self.quarantined,
        )


class Kind:
    """Workers that offer the same, apart from amounts.

    Attributes:
        number: its own.
        values: what they offer, as far as any action ever asks for it.
        workers: all of them, by id.
        entries: the same, by who is to get something first.
        totals: how many of them that are not draining offer which amounts.
        platforms: those whose terms they meet, by the operation to be started first.
        least_demand: of each `minimum` property, the least that anyone asks for. A worker with
            less left than that need not be looked at.
    """

    __slots__ = (
        "entries",
        "least_demand",
        "number",
        "platforms",
        "totals",
        "values",
        "workers",
    )

    def __init__(self, number: int, values: Mapping[str, tuple[str, ...]], dimensions: int) -> None:
        self.number = number
        self.values = values
        self.workers: dict[str, Worker] = {}
        self.entries: Tournament[Worker] = Tournament(dimensions)
        self.totals: dict[Amounts, int] = {}
        self.platforms: Ranking[Platform] = Ranking()
        self.least_demand: Amounts = (_NOBODY_ASKS,) * dimensions

    def best_for(self, lane: Lane) -> tuple[Key, Worker] | None:
        """The worker to get an operation of this lane; it has room for it now."""
        if lane.is_picky:
            return self.entries.best(lane.limit, lane.refuses)
        return self.entries.best(lane.limit)

    def publish(self, worker: Worker, key: Key) -> None:
        """Let those who look for a worker know of this one."""
        before = self.entries.keys[1]
        self.entries.set(worker.place, key, [-amount for amount in worker.free])
        if self.entries.keys[1] < before:
            for platform in self.platforms.groups.values():
                platform.kinds.offer(self)

    def expect(self, amounts: Amounts) -> bool:
        """Somebody may ask for these amounts.

        Returns:
            whether nobody asked for so little before: workers are to be published again.
        """
        least = tuple(map(min, self.least_demand, amounts))
        lowered = least != self.least_demand
        self.least_demand = least
        return lowered

    def withdraw(self, worker: Worker) -> None:
        """Let nobody who looks for a worker find this one."""
        self.entries.clear(worker.place)

    def forget(self, worker: Worker) -> None:
        """A worker left."""
        self.entries.remove(worker.place)
        del self.workers[worker.worker_id]
