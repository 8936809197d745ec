"""The OpenTelemetry metrics API over our registry.

A library that is instrumented with the API reports into the same registry as our own code, and
stands on `/metrics` and in what collectors get beside our own instruments. Attributes come with
every measurement and from any thread, as the API has it; our own code binds cells instead
(`meter.py`), because it measures more often than libraries do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Final

from opentelemetry import metrics as otel
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackT
from opentelemetry.util.types import Attributes

from nativelink.telemetry.meter import (
    AttributeValue,
    Counter,
    Definition,
    Histogram,
    Kind,
    NumberPoint,
    Registry,
)

__all__ = ["ApiMeterProvider"]

#: The specification's default ("Explicit Bucket Histogram Aggregation").
_DEFAULT_BOUNDS: Final = (
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0,
    10000.0,
)  # fmt: skip


class ApiMeterProvider(otel.MeterProvider):
    """Gives libraries meters whose instruments are in `registry`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> otel.Meter:
        del attributes
        return _Meter(self._registry, self._lock, name, version, schema_url)


class _Meter(otel.Meter):
    """The instruments of one library."""

    def __init__(
        self,
        registry: Registry,
        lock: threading.Lock,
        name: str,
        version: str | None,
        schema_url: str | None,
    ) -> None:
        super().__init__(name, version, schema_url)
        self._registry = registry
        self._lock = lock

    def create_counter(self, name: str, unit: str = "", description: str = "") -> otel.Counter:
        return _Counter(self._number(name, Kind.COUNTER, unit, description), self._lock)

    def create_up_down_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> otel.UpDownCounter:
        counter = self._number(name, Kind.UP_DOWN_COUNTER, unit, description)
        return _UpDownCounter(counter, self._lock)

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> Any:
        return _Gauge(self._number(name, Kind.GAUGE, unit, description), self._lock)

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> otel.Histogram:
        bounds = explicit_bucket_boundaries_advisory
        definition = Definition(
            name,
            Kind.HISTOGRAM,
            unit,
            description,
            bounds=_DEFAULT_BOUNDS if bounds is None else tuple(bounds),
        )
        return _Histogram(self._registry.histogram(definition, scope=self.name), self._lock)

    def create_observable_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> otel.ObservableCounter:
        self._observe(name, Kind.COUNTER, callbacks, unit, description)
        return _ObservableCounter()

    def create_observable_up_down_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> otel.ObservableUpDownCounter:
        self._observe(name, Kind.UP_DOWN_COUNTER, callbacks, unit, description)
        return _ObservableUpDownCounter()

    def create_observable_gauge(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> otel.ObservableGauge:
        self._observe(name, Kind.GAUGE, callbacks, unit, description)
        return _ObservableGauge()

    def _number(self, name: str, kind: Kind, unit: str, description: str) -> Counter:
        definition = Definition(name, kind, unit, description)
        return self._registry.counter(definition, scope=self.name)

    def _observe(
        self,
        name: str,
        kind: Kind,
        callbacks: Sequence[CallbackT] | None,
        unit: str,
        description: str,
    ) -> None:
        definition = Definition(name, kind, unit, description)
        for callback in callbacks or ():
            self._registry.observe_points(definition, _points_of(callback), scope=self.name)


def _points_of(callback: CallbackT) -> Callable[[], Iterable[NumberPoint]]:
    """A callback of the API, a function or a generator that yields once per collection."""
    options = otel.CallbackOptions()
    if isinstance(callback, Generator):
        next(callback)  # Up to its first yield, which takes the first options.
        ask: Callable[[otel.CallbackOptions], Iterable[otel.Observation]] = callback.send
    else:
        ask = callback

    def points() -> Iterable[NumberPoint]:
        for observation in ask(options):
            pairs = tuple(sorted(_plain(observation.attributes).items()))
            yield NumberPoint(pairs, observation.value)

    return points


class _Number:
    """A number of the registry, which libraries may change from any thread."""

    def __init__(self, counter: Counter, lock: threading.Lock) -> None:
        self._counter = counter
        self._lock = lock


class _Adding(_Number):
    def add(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        del context
        with self._lock:
            self._counter.attributed(_plain(attributes)).add(amount)


class _Counter(_Adding, otel.Counter): ...


class _UpDownCounter(_Adding, otel.UpDownCounter): ...


class _Gauge(_Number, otel._Gauge):  # noqa: SLF001 - the API's name for it
    def set(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        del context
        with self._lock:
            self._counter.attributed(_plain(attributes)).value = amount


class _Histogram(otel.Histogram):
    def __init__(self, histogram: Histogram, lock: threading.Lock) -> None:
        self._histogram = histogram
        self._lock = lock

    def record(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        del context
        with self._lock:
            self._histogram.attributed(_plain(attributes)).record(amount)


class _Observed:
    def __init__(self) -> None:
        """Its callbacks are the registry's already."""


class _ObservableCounter(_Observed, otel.ObservableCounter): ...


class _ObservableUpDownCounter(_Observed, otel.ObservableUpDownCounter): ...


class _ObservableGauge(_Observed, otel.ObservableGauge): ...


def _plain(attributes: Attributes) -> Mapping[str, AttributeValue]:
    """Attributes whose values can be keys and labels: sequences become text."""
    return {
        name: value if isinstance(value, str | bool | int | float) else str(value)
        for name, value in (attributes or {}).items()
    }
