"""The machine in numbers."""

from __future__ import annotations

from collections.abc import Sequence

from nativelink.scheduler.fleet import Fleet
from nativelink.scheduler.matching import Matching
from nativelink.scheduler.operation import ExecutionStage
from nativelink.scheduler.properties import NOTHING, Amounts, Terms
from nativelink.scheduler.recorder import PlatformStatistics, SchedulerStatistics

__all__ = ["statistics"]


def statistics(matching: Matching, fleet: Fleet, counts: Sequence[int]) -> SchedulerStatistics:
    """How much waits, runs and is there to run it."""
    queues: dict[tuple[Terms, Amounts], PlatformStatistics] = {}
    for lane in matching.lanes():
        first = lane.first()
        if first is None:
            continue
        # Lanes that differ in the workers that they do not want are one queue to people.
        requirements = (lane.platform.terms, lane.amounts)
        before = queues.get(requirements)
        oldest = first.queued_at
        queues[requirements] = PlatformStatistics(
            properties=_described(*requirements, matching.rules.minimums),
            queued=len(lane.waiting) + (0 if before is None else before.queued),
            oldest_queued_at=oldest if before is None else min(oldest, before.oldest_queued_at),
            unschedulable=matching.reason(lane),
        )
    platforms = tuple(sorted(queues.values(), key=lambda queue: queue.properties))
    workers = fleet.workers.values()
    return SchedulerStatistics(
        platforms=platforms,
        queued=matching.waiting,
        executing=counts[ExecutionStage.EXECUTING],
        completed=counts[ExecutionStage.COMPLETED],
        unschedulable=sum(queue.queued for queue in platforms if queue.unschedulable),
        workers=len(workers),
        connected=sum(worker.lost_at is None for worker in workers),
        draining=sum(worker.draining for worker in workers),
        paused=sum(worker.paused for worker in workers),
        quarantined=sum(worker.quarantined for worker in workers),
        active=sum(bool(worker.leases) for worker in workers),
    )


def _described(terms: Terms, amounts: Amounts, minimums: tuple[str, ...]) -> str:
    """Requirements, for people."""
    told = [f"{name}={value}" for name, value in (*terms.exact, *terms.undeclared)]
    told += terms.present
    told += [
        f"{name}>={amount}"
        for name, amount in zip(minimums, amounts, strict=True)
        if amount != NOTHING
    ]
    return " ".join(sorted(told))
