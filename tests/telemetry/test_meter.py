"""Instruments: what they add up, and how they are found again."""

import pytest

from nativelink.core.errors import Code
from nativelink.telemetry.meter import (
    CARDINALITY_LIMIT,
    Definition,
    HistogramPoint,
    Kind,
    NumberPoint,
    Registry,
)
from nativelink.telemetry.metrics import CATALOGUE, RPC_SERVER_DURATION
from nativelink.telemetry.rpc import LoggingRpcRecorder, RpcRecorder

REQUESTS = Definition("requests", Kind.COUNTER, "{request}", "Requests.", ("who",))
SIZES = Definition("sizes", Kind.HISTOGRAM, "By", "Sizes.", (), (1.0, 10.0))


def test_a_registry_without_measurements_collects_nothing():
    registry = Registry()
    registry.counter(REQUESTS)
    registry.histogram(SIZES)
    assert registry.collect() == []


def test_cells_of_the_same_attributes_are_one_cell():
    registry = Registry()
    registry.counter(REQUESTS).bind("a").add(2)
    registry.counter(REQUESTS).bind("a").add()
    registry.counter(REQUESTS).bind("b").add(5)
    (series,) = registry.collect()
    assert series.points == [
        NumberPoint((("who", "a"),), 3),
        NumberPoint((("who", "b"),), 5),
    ]


def test_a_bucket_includes_its_upper_bound_and_the_last_one_takes_the_rest():
    registry = Registry()
    cell = registry.histogram(SIZES).bind()
    for size in (0, 1, 1.5, 10, 11, 1000):
        cell.record(size)
    (series,) = registry.collect()
    assert series.points == [HistogramPoint((), (2, 2, 2), 1023.5)]


def test_a_snapshot_does_not_change_afterwards():
    registry = Registry()
    cell = registry.histogram(SIZES).bind()
    cell.record(1)
    before = registry.collect()
    cell.record(1)
    assert before[0].points == [HistogramPoint((), (1, 0, 0), 1)]


def test_binding_the_wrong_number_of_values_fails():
    with pytest.raises(ValueError, match="zip"):
        Registry().counter(REQUESTS).bind("a", "b")


def test_attributes_beyond_the_limit_are_added_up_in_one_overflow_cell():
    registry = Registry()
    counter = registry.counter(REQUESTS)
    for number in range(CARDINALITY_LIMIT + 3):
        counter.bind(f"client-{number}").add()
    (series,) = registry.collect()
    assert len(series.points) == CARDINALITY_LIMIT + 1
    assert series.points[-1] == NumberPoint((("otel.metric.overflow", True),), 3)


def test_observers_of_one_definition_are_asked_at_every_collection():
    registry = Registry()
    size = 1
    registry.observe(REQUESTS, lambda: [(("a",), size)])
    registry.observe(REQUESTS, lambda: [(("b",), 10 * size)])
    size = 7
    (series,) = registry.collect()
    assert [point.value for point in series.points if isinstance(point, NumberPoint)] == [7, 70]


def test_a_call_is_counted_under_its_service_method_and_code():
    registry = Registry()
    path = "/build.bazel.v2.Cas/Find"
    recorder = RpcRecorder(registry, [path, "/build.bazel.v2.Cas/NeverCalled"])
    recorder.call_ended(path, Code.OK, 0.0001)
    recorder.call_ended(path, Code.OK, 0.2, 3)
    recorder.call_ended(path, Code.NOT_FOUND, 0.001)
    (series,) = registry.collect()
    assert series.definition is RPC_SERVER_DURATION
    found, missing = series.points
    assert found.attributes == (
        ("rpc.service", "build.bazel.v2.Cas"),
        ("rpc.method", "Find"),
        ("rpc.grpc.status_code", 0),
    )
    assert isinstance(found, HistogramPoint)
    assert sum(found.counts) == 4
    assert found.sum == pytest.approx(0.6001)
    assert dict(missing.attributes)["rpc.grpc.status_code"] == 5


def test_paths_that_clients_make_up_are_counted_together():
    registry = Registry()
    recorder = RpcRecorder(registry, ["/a.B/C"])
    for number in range(10):
        recorder.call_ended(f"/made/Up{number}", Code.UNIMPLEMENTED, 0)
    (series,) = registry.collect()
    (point,) = series.points
    assert isinstance(point, HistogramPoint)
    assert sum(point.counts) == 10
    assert dict(point.attributes)["rpc.method"] == "unknown"


def test_the_access_log_is_written_at_debug_level(caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG", "nativelink.access")
    LoggingRpcRecorder(Registry(), ["/a.B/C"]).call_ended("/a.B/C", Code.NOT_FOUND, 0.25, 2)
    assert caplog.messages == 2 * ["/a.B/C NOT_FOUND 0.250000 s"]


def test_every_instrument_is_described_once_and_histograms_have_ascending_bounds():
    names = [definition.name for definition in CATALOGUE]
    assert len(set(names)) == len(names)
    for definition in CATALOGUE:
        assert definition.description.endswith("."), definition.name
        assert bool(definition.bounds) == (definition.kind is Kind.HISTOGRAM), definition.name
        assert list(definition.bounds) == sorted(set(definition.bounds)), definition.name


def test_nativelinks_bounds_of_cache_operations_are_kept():
    (duration,) = (d for d in CATALOGUE if d.name == "cache.operation.duration")
    assert duration.unit == "ms"
    assert duration.bounds == (
        0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000,
        5000,
    )  # fmt: skip
