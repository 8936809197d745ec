"""Metrics over OTLP: a snapshot in the SDK's words, and on the wire."""

import asyncio
import threading
from concurrent import futures

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.sdk.metrics import export as sdk

from nativelink.core.clock import SystemClock
from nativelink.telemetry.meter import Definition, Kind, Registry
from nativelink.telemetry.otlp import (
    MetricsPusher,
    compression,
    metrics_exporter,
    process_resource,
)

CALLS = Definition("calls", Kind.COUNTER, "{call}", "Calls.", ("who",))
OPEN = Definition("open", Kind.UP_DOWN_COUNTER, "", "Open.")
LEVEL = Definition("level", Kind.GAUGE, "", "Level.")
TIMES = Definition("times", Kind.HISTOGRAM, "s", "Times.", (), (1.0, 2.0))


class Collected:
    """An exporter that keeps what it gets."""

    def __init__(self) -> None:
        self.exports: list[sdk.MetricsData] = []
        self.twice = threading.Event()
        self.closed = False

    def export(self, metrics_data: sdk.MetricsData, /) -> sdk.MetricExportResult:
        self.exports.append(metrics_data)
        if len(self.exports) == 2:
            self.twice.set()
        return sdk.MetricExportResult.SUCCESS

    def shutdown(self) -> None:
        self.closed = True


def filled() -> Registry:
    registry = Registry()
    registry.counter(CALLS).bind("a").add(3)
    registry.counter(OPEN).bind().add(2)
    registry.observe(LEVEL, lambda: [((), 0.5)])
    registry.histogram(TIMES).bind().record(1.5)
    return registry


def pusher(registry: Registry, exporter: object) -> MetricsPusher:
    return MetricsPusher(
        registry,
        exporter,
        resource=process_resource("1.2.3"),
        clock=SystemClock(),
        interval_s=0.001,
    )


def test_a_snapshot_keeps_kinds_units_and_buckets():
    (resource,) = pusher(filled(), Collected()).snapshot().resource_metrics
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "nativelink"
    by_name = {metric.name: metric for metric in scope.metrics}
    calls, still_open, level = (by_name[name].data for name in ("calls", "open", "level"))
    assert isinstance(calls, sdk.Sum)
    assert calls.is_monotonic
    assert calls.data_points[0].attributes == {"who": "a"}
    assert calls.data_points[0].value == 3
    assert isinstance(still_open, sdk.Sum)
    assert not still_open.is_monotonic
    assert isinstance(level, sdk.Gauge)
    times = by_name["times"].data
    assert isinstance(times, sdk.Histogram)
    assert by_name["times"].unit == "s"
    (point,) = times.data_points
    assert (point.count, point.sum, point.bucket_counts) == (1, 1.5, [0, 1, 0])
    assert point.explicit_bounds == [1.0, 2.0]
    assert point.time_unix_nano >= point.start_time_unix_nano > 0


def test_the_service_is_called_nativelink_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
):
    assert process_resource("1.2.3").attributes["service.name"] == "nativelink"
    assert process_resource("1.2.3").attributes["service.version"] == "1.2.3"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "cache")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=production")
    named = process_resource("1.2.3").attributes
    assert named["service.name"] == "cache"
    assert named["deployment.environment"] == "production"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}, grpc.Compression.Gzip),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, grpc.Compression.Gzip),
        (
            {
                "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "none",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "zstd",
            },
            grpc.Compression.NoCompression,
        ),
    ],
)
def test_a_compression_that_grpc_does_not_have_becomes_gzip(
    environ: dict[str, str], expected: grpc.Compression | None
):
    assert compression(environ, "METRICS") is expected


async def test_snapshots_are_sent_at_the_interval_and_once_more_at_the_end():
    exporter = Collected()
    sending = pusher(filled(), exporter)
    task = asyncio.create_task(sending.run())
    assert await asyncio.to_thread(exporter.twice.wait, 60)
    task.cancel()
    await asyncio.wait([task])
    before = len(exporter.exports)
    await sending.close(60)
    assert len(exporter.exports) == before + 1
    assert exporter.closed


async def test_an_exporter_that_breaks_does_not_end_the_sending(
    caplog: pytest.LogCaptureFixture,
):
    class Broken(Collected):
        def export(self, metrics_data: sdk.MetricsData, /) -> sdk.MetricExportResult:
            super().export(metrics_data)
            raise KeyError("broken")

    exporter = Broken()
    task = asyncio.create_task(pusher(filled(), exporter).run())
    assert await asyncio.to_thread(exporter.twice.wait, 60)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    assert "metrics could not be sent" in caplog.text


class _Service(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self) -> None:
        self.requests: list[metrics_service_pb2.ExportMetricsServiceRequest] = []

    def Export(  # noqa: N802 - the service's name
        self,
        request: metrics_service_pb2.ExportMetricsServiceRequest,
        context: object,
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        self.requests.append(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()


async def test_a_real_collector_receives_what_was_measured():
    service = _Service()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        sending = pusher(filled(), metrics_exporter(f"http://127.0.0.1:{port}", {}))
        await sending.push()
        await sending.close(60)
    finally:
        server.stop(None).wait()
    metrics = service.requests[0].resource_metrics[0].scope_metrics[0].metrics
    assert {metric.name for metric in metrics} == {"calls", "open", "level", "times"}
    (times,) = (metric for metric in metrics if metric.name == "times")
    point = times.histogram.data_points[0]
    assert list(point.bucket_counts) == [0, 1, 0]
    assert not point.HasField("min")
