"""How a scheduler is to behave: plain values, in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Allocation", "Policy", "PropertyKind"]


class PropertyKind(StrEnum):
    """How a platform property of an action is compared with those of a worker.

    As in NativeLink v1.6.6, which also says how one is compared that is not declared: a worker
    suits if it does not offer the property, or offers this value.
    """

    #: The worker offers at least this number; running actions use it up.
    MINIMUM = "minimum"
    #: The worker offers this very value.
    EXACT = "exact"
    #: The worker offers the property, with whatever value.
    PRIORITY = "priority"
    #: Not compared.
    IGNORE = "ignore"


class Allocation(StrEnum):
    """Which of several workers that suit gets an action."""

    #: Spreads the load.
    LEAST_RECENTLY_USED = "least_recently_used"
    #: Leaves machines idle that can be switched off.
    MOST_RECENTLY_USED = "most_recently_used"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a `simple` scheduler's configuration says, and what has no key there.

    Attributes:
        supported_properties: how each declared platform property is compared.
        allocation: which of several workers that suit gets an action.
        max_job_retries: tries after the first one that may fail before an operation does.
        max_worker_deaths: workers that may die while they run an operation before it counts as
            their murderer and fails. An action that brings workers down would otherwise take one
            after the other, for ever. Workers that are drained or say goodbye do not count. Five,
            because in a fleet where machines die by themselves a long action may well meet two or
            three of them.
        worker_timeout_s: silence after which a worker counts as lost; also how long one that can
            resume may stay away.
        client_action_timeout_s: how long an operation outlives its last client.
        max_action_executing_timeout_s: how long a worker may have an action; 0 is no limit.
        kill_revoked: whether workers are told to stop what they are not to run any more. If not,
            they finish it, and keep its resources for so long.
        kill_interval_s: how often they are told, until they answer.
        unacknowledged_kill_timeout_s: how long they may leave it unanswered before they are
            evicted.
        retain_completed_for_s: how long a finished operation can be asked for, counted from the
            last time that somebody did.
        unschedulable_timeout_s: how long an operation waits while no connected worker could ever
            run it, or workers have no room for it again and again, before it fails; 0 is for ever.
        backpressure_pause_s: how long a worker gets nothing that said that it has no room although
            it has nothing else to do, whose end could make room. It doubles each time that this
            is so again before anything ran there to its end.
        longest_pause_s: how long at most. A worker whose disk is full is asked twice a minute
            whether it still is.
        quarantine_after: actions in a row that must have failed on a worker, and been executed by
            others, for it to be quarantined: three, as one or two may be chance.
        quarantine_s: how long it gets nothing then. Then it is tried with one action at a time, and
            as long as these fail it is quarantined again, each time for twice as long.
        longest_quarantine_s: how long at most: what only this worker could run waits for so long.
        ageing_s: how much longer an operation must have waited to go before one whose priority is
            higher by one. As this orders the queue by `queued_at - priority * ageing_s`, which
            never changes while it waits, nothing is ever sorted again, and nothing starves.
        reservation_after_s: how long an operation waits, because smaller ones take every bit of
            room as soon as there is some, before a worker is kept free for it.
    """

    supported_properties: Mapping[str, PropertyKind] = field(default_factory=dict)
    allocation: Allocation = Allocation.LEAST_RECENTLY_USED
    max_job_retries: int = 3
    max_worker_deaths: int = 5
    worker_timeout_s: float = 5
    client_action_timeout_s: float = 60
    max_action_executing_timeout_s: float = 0
    kill_revoked: bool = True
    kill_interval_s: float = 5
    unacknowledged_kill_timeout_s: float = 60
    retain_completed_for_s: float = 60
    unschedulable_timeout_s: float = 1200
    backpressure_pause_s: float = 1
    longest_pause_s: float = 30
    quarantine_after: int = 3
    quarantine_s: float = 15
    longest_quarantine_s: float = 120
    ageing_s: float = 60
    reservation_after_s: float = 30
