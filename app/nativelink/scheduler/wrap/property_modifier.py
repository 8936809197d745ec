"""Platform properties changed before a scheduler sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, TypeAlias

from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.scheduler import Scheduler, Watch
from nativelink.scheduler.wrap.delegating import DelegatingScheduler

__all__ = [
    "Addition",
    "Modification",
    "PropertyModifierScheduler",
    "Removal",
    "Replacement",
]

_Properties: TypeAlias = tuple[tuple[str, str], ...]
#: Different sets of properties whose modified form is remembered; a build has a few.
_REMEMBERED: Final = 256


@dataclass(frozen=True, slots=True)
class Addition:
    """Set a property, whether or not the action has it."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Removal:
    """Take a property away."""

    name: str


@dataclass(frozen=True, slots=True)
class Replacement:
    """Rename or change a property that the action has.

    Attributes:
        name: what to look for.
        value: only if it has this value; None takes any.
        new_name: its new name.
        new_value: its new value; None keeps the one it has.
    """

    name: str
    value: str | None
    new_name: str
    new_value: str | None


Modification: TypeAlias = Addition | Removal | Replacement


class PropertyModifierScheduler(DelegatingScheduler):
    """Changes the properties of every action, one modification after the other.

    Args:
        backend: gets the changed actions.
        modifications: in the order in which they are made.
    """

    def __init__(self, backend: Scheduler, modifications: Sequence[Modification]) -> None:
        super().__init__(backend)
        self._modifications = tuple(modifications)
        self._modified: Callable[[_Properties], _Properties] = lru_cache(_REMEMBERED)(self._modify)

    async def execute(self, action: ActionInfo, *, name: str = "") -> Watch:
        properties = self._modified(action.properties)
        if properties != action.properties:
            action = replace(action, properties=properties)
        return await self._backend.execute(action, name=name)

    def known_properties(self) -> Sequence[str]:
        """Those of the backend, and those that are turned into others here."""
        known = set(self._backend.known_properties())
        known.update(each.name for each in self._modifications if not isinstance(each, Addition))
        return sorted(known)

    def _modify(self, properties: _Properties) -> _Properties:
        changed = list(properties)
        for modification in self._modifications:
            match modification:
                case Addition(name, value):
                    changed = [(name, value), *(each for each in changed if each[0] != name)]
                case Removal(name):
                    changed = [each for each in changed if each[0] != name]
                case Replacement():
                    changed = [_replaced(each, modification) for each in changed]
        return tuple(sorted(changed))


def _replaced(found: tuple[str, str], wanted: Replacement) -> tuple[str, str]:
    name, value = found
    if name != wanted.name or wanted.value not in (None, value):
        return found
    return wanted.new_name, value if wanted.new_value is None else wanted.new_value
