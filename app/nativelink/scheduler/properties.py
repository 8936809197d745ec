"""What actions ask of workers, and what workers offer, in a form that is quick to compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import gt
from typing import Final, NamedTuple, TypeAlias

from nativelink.core.errors import invalid_argument
from nativelink.scheduler.policy import PropertyKind

__all__ = [
    "NOTHING",
    "Amounts",
    "Offer",
    "Properties",
    "PropertyRules",
    "Terms",
    "within",
]

#: Platform properties as they arrive: `(name, value)`, a name may stand several times.
Properties: TypeAlias = tuple[tuple[str, str], ...]

#: A number for each `minimum` property, in the rules' order.
Amounts: TypeAlias = tuple[int, ...]

#: Of an amount: the action does not ask for the property, or the worker does not offer it. Less
#: than any amount that can be asked for, 0 included: NativeLink v1.6.6 wants the property there.
NOTHING: Final = -1

#: Amounts are uint64, as in NativeLink; Python refuses to read numbers of thousands of digits.
_MAX_AMOUNT: Final = 2**64 - 1
_MAX_DIGITS: Final = 20


def within(asked: Amounts, offered: Amounts) -> bool:
    """Whether no amount that is asked for is more than what is offered."""
    return not any(map(gt, asked, offered))


class Terms(NamedTuple):
    """What an action asks for that a worker has or has not, whatever it runs.

    Attributes:
        exact: the worker offers each of these values.
        present: the worker offers something of each of these names.
        undeclared: the worker offers each of these values, or nothing of that name.
    """

    exact: tuple[tuple[str, str], ...]
    present: tuple[str, ...]
    undeclared: tuple[tuple[str, str], ...]

    def met_by(self, values: Mapping[str, tuple[str, ...]]) -> bool:
        """Whether a worker that offers these values can run such actions."""
        for name, value in self.exact:
            if value not in values.get(name, ()):
                return False
        for name in self.present:
            if name not in values:
                return False
        for name, value in self.undeclared:
            if name in values and value not in values[name]:
                return False
        return True

    def unmet_by(self, values: Mapping[str, tuple[str, ...]]) -> list[tuple[str, str]]:
        """The properties, and their values, for which a worker cannot run such actions."""
        unmet = [(name, value) for name, value in self.exact if value not in values.get(name, ())]
        unmet += [(name, "") for name in self.present if name not in values]
        unmet += [
            (name, value)
            for name, value in self.undeclared
            if name in values and value not in values[name]
        ]
        return unmet


class Offer(NamedTuple):
    """What a worker offers.

    Attributes:
        values: the values of each property but `minimum` and ignored ones; all are alternatives.
        totals: the largest number that it gives for each `minimum` property.
    """

    values: Mapping[str, tuple[str, ...]]
    totals: Amounts


def _amount(name: str, value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
        amount = int(value)
        if amount <= _MAX_AMOUNT:
            return amount
    raise invalid_argument(
        f"platform property {name}={value[:80]!r}: it is declared as minimum, so its value must be "
        f"a whole number from 0 to {_MAX_AMOUNT}"
    )


class PropertyRules:
    """Reads properties as the configuration declares them.

    Attributes:
        minimums: names of the `minimum` properties, in the order of `Amounts`.
    """

    def __init__(self, declared: Mapping[str, PropertyKind]) -> None:
        self._declared = dict(declared)
        self.minimums: Final = tuple(
            sorted(name for name, kind in declared.items() if kind is PropertyKind.MINIMUM)
        )
        self._places: Final = {name: place for place, name in enumerate(self.minimums)}

    def demand(self, properties: Properties) -> tuple[Terms, Amounts]:
        """What an action with these properties asks for.

        Of a name that stands several times each value is asked for.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for a `minimum` that is no number.
        """
        amounts = [NOTHING] * len(self.minimums)
        exact: set[tuple[str, str]] = set()
        present: set[str] = set()
        undeclared: set[tuple[str, str]] = set()
        for name, value in properties:
            match self._declared.get(name):
                case None:
                    undeclared.add((name, value))
                case PropertyKind.EXACT:
                    exact.add((name, value))
                case PropertyKind.PRIORITY:
                    present.add(name)
                case PropertyKind.MINIMUM:
                    place = self._places[name]
                    amounts[place] = max(amounts[place], _amount(name, value))
                case PropertyKind.IGNORE:
                    pass
        terms = Terms(tuple(sorted(exact)), tuple(sorted(present)), tuple(sorted(undeclared)))
        return terms, tuple(amounts)

    def offer(self, properties: Iterable[tuple[str, str]]) -> Offer:
        """What a worker with these properties offers.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for a `minimum` that is no number.
        """
        totals = [NOTHING] * len(self.minimums)
        values: dict[str, dict[str, None]] = {}
        for name, value in properties:
            kind = self._declared.get(name)
            if kind is PropertyKind.MINIMUM:
                place = self._places[name]
                totals[place] = max(totals[place], _amount(name, value))
            elif kind is not PropertyKind.IGNORE:
                values.setdefault(name, {})[value] = None
        return Offer({name: tuple(sorted(found)) for name, found in values.items()}, tuple(totals))

    def is_declared(self, name: str) -> bool:
        """Whether the configuration says how this property is compared."""
        return name in self._declared
