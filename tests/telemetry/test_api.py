"""The OpenTelemetry metrics API, used as a library would use it."""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from opentelemetry.metrics import CallbackOptions, Observation

from nativelink.telemetry.api import ApiMeterProvider
from nativelink.telemetry.meter import HistogramPoint, Kind, NumberPoint, Registry


def meter(registry: Registry) -> Any:
    return ApiMeterProvider(registry).get_meter("some.library", "1.0")


def collected(registry: Registry) -> dict[str, tuple[Kind, list[Any]]]:
    found = registry.collect()
    assert {series.scope for series in found} <= {"some.library"}
    return {
        series.definition.name: (series.definition.kind, list(series.points)) for series in found
    }


def test_counters_add_up_by_attributes():
    registry = Registry()
    counter = meter(registry).create_counter("requests", "{request}", "Requests.")
    counter.add(1, {"host": "a", "port": 1})
    counter.add(2, {"port": 1, "host": "a"})
    counter.add(4)
    changing = meter(registry).create_up_down_counter("open")
    changing.add(3)
    changing.add(-1)
    assert collected(registry) == {
        "requests": (
            Kind.COUNTER,
            [NumberPoint((("host", "a"), ("port", 1)), 3), NumberPoint((), 4)],
        ),
        "open": (Kind.UP_DOWN_COUNTER, [NumberPoint((), 2)]),
    }


def test_a_gauge_keeps_the_last_value():
    registry = Registry()
    gauge = meter(registry).create_gauge("level")
    gauge.set(3)
    gauge.set(1.5)
    assert collected(registry) == {"level": (Kind.GAUGE, [NumberPoint((), 1.5)])}


def test_histograms_have_the_advised_bounds_or_the_specifications():
    registry = Registry()
    advised = meter(registry).create_histogram(
        "advised", "s", explicit_bucket_boundaries_advisory=[1, 2]
    )
    advised.record(1.5, {"kinds": ["a", "b"]})
    meter(registry).create_histogram("usual").record(7)
    found = collected(registry)
    assert found["advised"][1] == [HistogramPoint((("kinds", "['a', 'b']"),), (0, 1, 0), 1.5)]
    (usual,) = found["usual"][1]
    assert len(usual.counts) == 16
    assert usual.counts[2] == 1


def test_callbacks_are_asked_at_every_collection():
    registry = Registry()
    value = 1

    def function(options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, {"how": "function"})]

    def generator() -> Generator[Iterable[Observation], CallbackOptions, None]:
        while True:
            yield [Observation(10 * value)]

    library = meter(registry)
    library.create_observable_gauge("gauge", [function])
    library.create_observable_counter("counter", [generator()])
    library.create_observable_up_down_counter("changing", [function])
    collected(registry)
    value = 2
    assert collected(registry) == {
        "gauge": (Kind.GAUGE, [NumberPoint((("how", "function"),), 2)]),
        "counter": (Kind.COUNTER, [NumberPoint((), 20)]),
        "changing": (Kind.UP_DOWN_COUNTER, [NumberPoint((("how", "function"),), 2)]),
    }


def test_no_measurement_of_another_thread_is_lost():
    registry = Registry()
    counter = meter(registry).create_counter("requests")

    def add() -> None:
        for _ in range(2000):
            counter.add(1, {"a": "b"})

    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(add)
    assert collected(registry)["requests"][1] == [NumberPoint((("a", "b"),), 8000)]
