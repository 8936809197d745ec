"""Lifecycle hooks of EC2 Auto Scaling, which moto keeps records of only.

An instance that comes or goes waits at its group's hooks until somebody completes the action, or
the time is over (EC2 Auto Scaling User Guide, "Lifecycle hooks").
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from scripts.region_local.resources import Hook

__all__ = ["Lifecycle", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """How waiting ended.

    Attributes:
        by_time: nobody completed the action.
        goes_on: else it is abandoned.
    """

    by_time: bool
    goes_on: bool


@dataclass
class _Action:
    hook: Hook
    token: str
    deadline: float
    outcome: Outcome | None = None


class Lifecycle:
    """Who waits where. Used by several threads.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._actions: dict[tuple[str, str], _Action] = {}

    def wait_at(self, hook: Hook, instance: str) -> str:
        """An instance waits; gives the action's token."""
        token = str(uuid.uuid4())
        with self._lock:
            deadline = self._clock() + hook.timeout_s
            self._actions[instance, hook.name] = _Action(hook, token, deadline)
        return token

    def complete(self, hook: str, instance: str, *, goes_on: bool) -> bool:
        """Somebody completes an action; False if there is none."""
        with self._lock:
            action = self._open(hook, instance)
            if action is not None:
                action.outcome = Outcome(by_time=False, goes_on=goes_on)
            return action is not None

    def heartbeat(self, hook: str, instance: str) -> bool:
        """Somebody needs more time; False if there is no action."""
        with self._lock:
            action = self._open(hook, instance)
            if action is not None:
                action.deadline = self._clock() + action.hook.timeout_s
            return action is not None

    def outcome(self, hook: Hook, instance: str) -> Outcome | None:
        """How waiting ended; None while it lasts."""
        with self._lock:
            action = self._actions[instance, hook.name]
            if action.outcome is None and self._clock() >= action.deadline:
                action.outcome = Outcome(by_time=True, goes_on=hook.goes_on)
            return action.outcome

    def forget(self, instance: str) -> None:
        """An instance is gone."""
        with self._lock:
            for key in [key for key in self._actions if key[0] == instance]:
                del self._actions[key]

    def _open(self, hook: str, instance: str) -> _Action | None:
        action = self._actions.get((instance, hook))
        return action if action is not None and action.outcome is None else None
