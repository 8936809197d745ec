"""Instruments that add up in place, in OpenTelemetry's data model.

OpenTelemetry's SDK spends several microseconds on a measurement (attribute sets, views, locks),
which is more than a whole unary call costs here. So measurements are added up by this module:
`bind` gives a cell for fixed attributes, whose `add` and `record` are a bisection and two
additions. Nothing else is computed until somebody looks: `Registry.collect` takes a snapshot,
which the Prometheus page and the OTLP exporter render, so both show the very same numbers
(cumulative since the process started, explicit buckets). Libraries that are instrumented with the
OpenTelemetry API report into the same registry through `nativelink.telemetry.api`.

Cells belong to one thread, the event loop's, and take no lock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeAlias, TypeVar

__all__ = [
    "AttributeValue",
    "Counter",
    "CounterCell",
    "Definition",
    "Histogram",
    "HistogramCell",
    "HistogramPoint",
    "Kind",
    "NumberPoint",
    "Observation",
    "Registry",
    "Series",
]

AttributeValue: TypeAlias = str | bool | int | float
#: Attribute names with their values.
Pairs: TypeAlias = tuple[tuple[str, AttributeValue], ...]
#: What an observer yields: attribute values in the definition's order, and the number.
Observation: TypeAlias = tuple[tuple[AttributeValue, ...], float]
Observer: TypeAlias = Callable[[], Iterable[Observation]]

#: Sets of attributes that an instrument keeps; the SDK specification's default ("Cardinality
#: limits"). What comes later is added up under `otel.metric.overflow`.
CARDINALITY_LIMIT: Final = 2000
_OVERFLOW: Final[Pairs] = (("otel.metric.overflow", True),)


class Kind(Enum):
    """What the numbers of an instrument mean."""

    COUNTER = "counter"
    UP_DOWN_COUNTER = "up_down_counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Definition:
    """One instrument.

    Attributes:
        name: with dots, as OpenTelemetry writes it.
        kind: what the numbers mean.
        unit: UCUM (`s`, `ms`, `By`, `{call}`), empty for a plain number.
        description: one sentence for operators.
        attributes: names of its attributes, in the order in which `bind` takes their values.
        bounds: upper, inclusive bounds of a histogram's buckets, ascending.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class NumberPoint:
    """The value of a counter or gauge for one set of attributes."""

    attributes: Pairs
    value: float


PointsObserver: TypeAlias = Callable[[], Iterable[NumberPoint]]


@dataclass(frozen=True, slots=True)
class HistogramPoint:
    """A histogram for one set of attributes; `counts` has one more entry than there are bounds."""

    attributes: Pairs
    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class Series:
    """A snapshot of one instrument, under the name of the library that defined it."""

    scope: str
    definition: Definition
    points: Sequence[NumberPoint | HistogramPoint]


class CounterCell:
    """The number of one set of attributes; it is shown from the start."""

    __slots__ = ("value",)

    used: Final = True

    def __init__(self) -> None:
        self.value: float = 0

    def add(self, amount: float = 1) -> None:
        """Count; a counter never goes down, an up-down counter may."""
        self.value += amount

    def point(self, attributes: Pairs) -> NumberPoint:
        """A snapshot."""
        return NumberPoint(attributes, self.value)


class HistogramCell:
    """The histogram of one set of attributes; it is shown once it holds a measurement.

    Attributes:
        counts: measurements in each bucket.
        sum: of all measurements.
    """

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    @property
    def used(self) -> bool:
        """Whether there was a measurement."""
        return any(self.counts)

    def record(self, amount: float) -> None:
        """Count one measurement."""
        # A bucket includes its upper bound, in OTLP as in Prometheus (`le`): bisect_left.
        self.counts[bisect_left(self._bounds, amount)] += 1
        self.sum += amount

    def point(self, attributes: Pairs) -> HistogramPoint:
        """A snapshot."""
        return HistogramPoint(attributes, tuple(self.counts), self.sum)


Cell = TypeVar("Cell", CounterCell, HistogramCell)


class _Instrument(Generic[Cell]):
    """The cells of one definition."""

    def __init__(self, definition: Definition, make: Callable[[], Cell]) -> None:
        self.definition = definition
        self._make: Callable[[], Cell] = make
        self._cells: dict[Pairs, Cell] = {}

    def bind(self, *values: AttributeValue) -> Cell:
        """The cell of these attribute values, given in the definition's order."""
        return self._cell(tuple(zip(self.definition.attributes, values, strict=True)))

    def attributed(self, attributes: Mapping[str, AttributeValue]) -> Cell:
        """The cell of attributes that the definition need not name."""
        return self._cell(tuple(sorted(attributes.items())))

    def _cell(self, pairs: Pairs) -> Cell:
        cell = self._cells.get(pairs)
        if cell is None:
            if len(self._cells) >= CARDINALITY_LIMIT:
                pairs = _OVERFLOW
            cell = self._cells.setdefault(pairs, self._make())
        return cell

    def forget(self, name: str, values: Container[AttributeValue]) -> None:
        """Drop the cells in which this attribute has one of these values."""
        self._cells = {
            pairs: cell
            for pairs, cell in self._cells.items()
            if not any(key == name and value in values for key, value in pairs)
        }

    def points(self) -> list[NumberPoint | HistogramPoint]:
        """A snapshot of all cells that something was added to."""
        return [cell.point(pairs) for pairs, cell in list(self._cells.items()) if cell.used]


class Counter(_Instrument[CounterCell]):
    """A sum, or for a gauge the last value."""

    def __init__(self, definition: Definition) -> None:
        super().__init__(definition, CounterCell)


class Histogram(_Instrument[HistogramCell]):
    """A distribution."""

    def __init__(self, definition: Definition) -> None:
        super().__init__(definition, lambda: HistogramCell(definition.bounds))


class Registry:
    """All instruments of one process, or of one test.

    Args:
        scope: the name under which this program's own instruments are exported.
    """

    def __init__(self, scope: str = "nativelink") -> None:
        self._scope = scope
        self._instruments: dict[tuple[str, str], Counter | Histogram] = {}
        self._observers: dict[tuple[str, str], tuple[Definition, list[PointsObserver]]] = {}

    def counter(self, definition: Definition, *, scope: str | None = None) -> Counter:
        """The counter, up-down counter or gauge of a definition, made once."""
        key = (scope or self._scope, definition.name)
        made = self._instruments.get(key)
        if made is None:
            made = self._instruments[key] = Counter(definition)
        assert isinstance(made, Counter), f"{definition.name} is a histogram already"
        return made

    def histogram(self, definition: Definition, *, scope: str | None = None) -> Histogram:
        """The histogram of a definition, made once."""
        key = (scope or self._scope, definition.name)
        made = self._instruments.get(key)
        if made is None:
            made = self._instruments[key] = Histogram(definition)
        assert isinstance(made, Histogram), f"{definition.name} is no histogram"
        return made

    def observe(self, definition: Definition, observer: Observer) -> None:
        """Ask `observer` for numbers at every collection, so that nobody counts in between."""

        def points() -> Iterable[NumberPoint]:
            for values, value in observer():
                yield NumberPoint(tuple(zip(definition.attributes, values, strict=True)), value)

        self.observe_points(definition, points)

    def observe_points(
        self, definition: Definition, observer: PointsObserver, *, scope: str | None = None
    ) -> None:
        """`observe` for attributes that the definition need not name."""
        key = (scope or self._scope, definition.name)
        self._observers.setdefault(key, (definition, []))[1].append(observer)

    def collect(self) -> list[Series]:
        """A snapshot of everything that has a value, in order of definition."""
        found: list[Series] = []
        for (scope, _), instrument in self._instruments.items():
            if points := instrument.points():
                found.append(Series(scope, instrument.definition, points))
        for (scope, _), (definition, observers) in self._observers.items():
            observed: list[NumberPoint | HistogramPoint] = [
                point for observer in observers for point in observer()
            ]
            if observed:
                found.append(Series(scope, definition, observed))
        return found
