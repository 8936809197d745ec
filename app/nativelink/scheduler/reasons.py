"""Why no worker could ever run something, in words that name what to change."""

from __future__ import annotations

from collections.abc import Iterable

from nativelink.scheduler.properties import NOTHING, Amounts, PropertyRules
from nativelink.scheduler.queue import Lane
from nativelink.scheduler.workers import Kind, Worker

__all__ = ["why_unschedulable"]


def why_unschedulable(lane: Lane, kinds: Iterable[Kind], rules: PropertyRules) -> str:
    """The property that no connected worker offers, and the worker that comes nearest to it.

    Looks at kinds of workers and their different sizes, not at every worker.
    """
    kinds = [kind for kind in kinds if kind.workers]
    if not kinds:
        return "no worker is connected"
    staying = [kind for kind in kinds if kind.totals]
    if not staying:
        return "every connected worker is being drained"
    suitable = [kind for kind in staying if kind.number in lane.platform.kinds.groups]
    if not suitable:
        return _terms_unmet(lane, staying)
    return _amounts_unmet(lane, suitable, rules)


def _terms_unmet(lane: Lane, kinds: list[Kind]) -> str:
    """Of the kind that comes nearest, what is missing."""
    terms = lane.platform.terms
    nearest = min(
        kinds, key=lambda kind: (len(terms.unmet_by(kind.values)), _first_worker(kind).number)
    )
    worker = _first_worker(nearest)
    told = []
    for name, value in terms.unmet_by(nearest.values):
        asked = f"{name}={value}" if value else name
        offered = nearest.values.get(name)
        if offered is None:
            anywhere = any(name in kind.values for kind in kinds)
            whose = f"{worker.worker_id}, the nearest, does not offer it"
            told.append(f"{asked} asked, {whose if anywhere else 'no worker offers it'}")
        else:
            told.append(f"{asked} asked, {worker.worker_id} offers {' or '.join(offered)}")
    return "; ".join(told)


def _amounts_unmet(lane: Lane, kinds: list[Kind], rules: PropertyRules) -> str:
    """Which amounts are more than any worker offers, or than any one worker offers together."""
    asked = [
        (place, name, lane.amounts[place])
        for place, name in enumerate(rules.minimums)
        if lane.amounts[place] != NOTHING
    ]
    workers = [_first_worker(kind, totals) for kind in kinds for totals in kind.totals]
    told = []
    for place, name, amount in asked:
        best = max(workers, key=lambda worker: (worker.totals[place], -worker.number))
        most = best.totals[place]
        if most == NOTHING:
            told.append(f"{name}={amount} asked, no worker that suits otherwise offers it")
        elif most < amount:
            told.append(
                f"{name}={amount} asked, the most that a worker offers is {most} ({best.worker_id})"
            )
    if told:
        return "; ".join(told)
    nearest = max(
        workers,
        key=lambda worker: (
            sum(worker.totals[place] >= amount for place, _, amount in asked),
            -worker.number,
        ),
    )
    wanted = ", ".join(f"{name}={amount}" for _, name, amount in asked)
    offered = ", ".join(f"{name}={nearest.totals[place]}" for place, name, _ in asked)
    return (
        f"{wanted} asked together, no single worker offers all of it; "
        f"the nearest is {nearest.worker_id} with {offered}"
    )


def _first_worker(kind: Kind, totals: Amounts | None = None) -> Worker:
    """Of those that stay, and offer these amounts, the one that was there first."""
    return min(
        (
            worker
            for worker in kind.workers.values()
            if not worker.draining and (totals is None or worker.totals == totals)
        ),
        key=lambda worker: worker.number,
    )
