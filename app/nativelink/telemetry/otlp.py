"""Metrics over OTLP: the registry's snapshots, sent by OpenTelemetry's own exporter.

Imported only where an endpoint is configured: the exporter and its grpcio cost a tenth of a
second and tens of megabytes. The exporter reads most `OTEL_EXPORTER_OTLP_*` variables itself
(headers, certificates, time-outs).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final, Protocol
from uuid import uuid4

from grpc import Compression
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from nativelink.core.clock import Clock
from nativelink.telemetry.meter import HistogramPoint, Kind, NumberPoint, Registry, Series

__all__ = [
    "MetricsExporter",
    "MetricsPusher",
    "compression",
    "metrics_exporter",
    "process_resource",
]

_log: Final = logging.getLogger(__name__)
_NS: Final = 1_000_000_000


class MetricsExporter(Protocol):
    """The part of OpenTelemetry's `MetricExporter` that is used here."""

    def export(self, metrics_data: sdk.MetricsData, /) -> sdk.MetricExportResult:
        """Send, retrying for a while; blocks."""
        ...

    def shutdown(self) -> None:
        """Break off an export under way and close the channel."""
        ...


def process_resource(version: str) -> Resource:
    """Who sends: `nativelink`, overridden by OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES."""
    ours = Resource(
        {
            "service.name": "nativelink",
            "service.version": version,
            "service.instance.id": str(uuid4()),
        }
    )
    return ours.merge(OTELResourceDetector().detect())


def compression(environ: Mapping[str, str], signal: str) -> Compression | None:
    """The compression to ask for, or None to leave it to the exporter.

    The exporter refuses to start with a name that grpcio does not have (`zstd`, which some
    collectors' guides suggest); a server must not, so gzip stands in.

    Args:
        environ: the process' environment.
        signal: `METRICS` or `TRACES`.
    """
    for name in (f"OTEL_EXPORTER_OTLP_{signal}_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"):
        value = environ.get(name)
        if value is not None and value not in ("gzip", "none"):
            _log.warning("%s=%s is not available over gRPC, gzip is used", name, value)
            return Compression.Gzip
        if value is not None:
            return Compression.Gzip if value == "gzip" else Compression.NoCompression
    return None


def metrics_exporter(endpoint: str | None, environ: Mapping[str, str]) -> MetricsExporter:
    """OpenTelemetry's exporter.

    Args:
        endpoint: a URL, or None to leave it to the OTEL_ variables.
        environ: the process' environment.
    """
    exporter: MetricsExporter = OTLPMetricExporter(
        endpoint=endpoint, compression=compression(environ, "METRICS")
    )
    return exporter


class MetricsPusher:
    """Sends a snapshot every `interval_s` seconds, and a last one at the end.

    Args:
        registry: whose numbers.
        exporter: where to.
        resource: who sends.
        clock: for the points' time stamps.
        interval_s: seconds between two exports.
    """

    def __init__(
        self,
        registry: Registry,
        exporter: MetricsExporter,
        *,
        resource: Resource,
        clock: Clock,
        interval_s: float,
    ) -> None:
        self._registry = registry
        self._exporter = exporter
        self._resource = resource
        self._clock = clock
        self._interval_s = interval_s
        self._start_ns = int(clock.time() * _NS)

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.push()
            except Exception:  # noqa: BLE001 - whatever an exporter does
                # Whatever becomes of its figures, the server goes on.
                _log.exception("metrics could not be sent")

    async def push(self) -> None:
        """Send one snapshot; the exporter reports a collector that is gone to the log itself."""
        await asyncio.to_thread(self._exporter.export, self.snapshot())

    async def close(self, timeout_s: float) -> None:
        """Send the last snapshot and close; takes hardly longer than `timeout_s`."""
        data = self.snapshot()
        loop = asyncio.get_running_loop()
        last = loop.run_in_executor(None, self._exporter.export, data)
        await asyncio.wait([last], timeout=timeout_s)
        if last.done() and (error := last.exception()) is not None:
            _log.warning("the last metrics could not be sent: %r", error)
        await asyncio.to_thread(self._exporter.shutdown)

    def snapshot(self) -> sdk.MetricsData:
        """The registry in the SDK's words."""
        now_ns = int(self._clock.time() * _NS)
        by_scope: dict[str, list[sdk.Metric]] = {}
        for series in self._registry.collect():
            by_scope.setdefault(series.scope, []).append(_metric(series, self._start_ns, now_ns))
        return sdk.MetricsData(
            [
                sdk.ResourceMetrics(
                    resource=self._resource,
                    scope_metrics=[
                        sdk.ScopeMetrics(InstrumentationScope(scope), metrics, schema_url="")
                        for scope, metrics in by_scope.items()
                    ],
                    schema_url="",
                )
            ]
        )


def _metric(series: Series, start_ns: int, now_ns: int) -> sdk.Metric:
    definition = series.definition
    cumulative = sdk.AggregationTemporality.CUMULATIVE
    data: sdk.Sum | sdk.Gauge | sdk.Histogram
    if definition.kind is Kind.HISTOGRAM:
        data = sdk.Histogram(
            _histograms(series.points, definition.bounds, start_ns, now_ns), cumulative
        )
    elif definition.kind is Kind.GAUGE:
        data = sdk.Gauge(_numbers(series.points, start_ns, now_ns))
    else:
        data = sdk.Sum(
            _numbers(series.points, start_ns, now_ns),
            cumulative,
            is_monotonic=definition.kind is Kind.COUNTER,
        )
    return sdk.Metric(definition.name, definition.description, definition.unit, data)


def _numbers(
    points: Sequence[NumberPoint | HistogramPoint], start_ns: int, now_ns: int
) -> list[sdk.NumberDataPoint]:
    return [
        sdk.NumberDataPoint(dict(point.attributes), start_ns, now_ns, point.value)
        for point in points
        if isinstance(point, NumberPoint)
    ]


def _histograms(
    points: Sequence[NumberPoint | HistogramPoint],
    bounds: tuple[float, ...],
    start_ns: int,
    now_ns: int,
) -> list[sdk.HistogramDataPoint]:
    # Minimum and maximum are optional fields on the wire, left unset by None: over the life of a
    # process they say little, and keeping them would cost as much as the bucket.
    return [
        sdk.HistogramDataPoint(
            attributes=dict(point.attributes),
            start_time_unix_nano=start_ns,
            time_unix_nano=now_ns,
            count=sum(point.counts),
            sum=point.sum,
            bucket_counts=list(point.counts),
            explicit_bounds=list(bounds),
            # Optional in OTLP, and left out if None; the SDK's types know only its own points.
            min=None,  # type: ignore[arg-type]
            max=None,  # type: ignore[arg-type]
        )
        for point in points
        if isinstance(point, HistogramPoint)
    ]
