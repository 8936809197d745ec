"""Where metrics and traces go: `global.metrics`, `global.tracing` and the OTEL_ variables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nativelink.config.specs import GlobalSpec, TracingSpec
from nativelink.core.clock import Clock
from nativelink.core.errors import invalid_argument
from nativelink.telemetry.meter import Registry
from nativelink.telemetry.process import observe_process, watch_event_loop

if TYPE_CHECKING:
    from nativelink.telemetry.tracing import Tracer

__all__ = [
    "Export",
    "export_interval_s",
    "metrics_export",
    "open_telemetry",
    "sdk_disabled",
    "tracing_export",
]

#: What the last export may take at shutdown; a collector that is gone must not hold us up.
_LAST_EXPORT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Export:
    """Where one signal goes.

    Attributes:
        endpoint: a URL; None leaves it to the exporter, which reads the OTEL_ variables.
    """

    endpoint: str | None


def sdk_disabled(environ: Mapping[str, str]) -> bool:
    """`OTEL_SDK_DISABLED`: nothing is sent, and calls are not even counted."""
    return environ.get("OTEL_SDK_DISABLED", "").lower() == "true"


def metrics_export(environ: Mapping[str, str]) -> Export | None:
    """Where metrics are pushed to; None if they are not."""
    return _export(environ, "METRICS")


def tracing_export(spec: TracingSpec, environ: Mapping[str, str]) -> Export | None:
    """Where traces are pushed to; None if calls are not traced."""
    if spec.otlp is not None:
        return Export(spec.otlp.endpoint)
    return _export(environ, "TRACES")


def export_interval_s(environ: Mapping[str, str]) -> float:
    """`OTEL_METRIC_EXPORT_INTERVAL`, milliseconds there, with the specification's default."""
    text = environ.get("OTEL_METRIC_EXPORT_INTERVAL", "60000")
    if not (text.isascii() and text.isdecimal()) or int(text) == 0:
        raise invalid_argument(
            f"OTEL_METRIC_EXPORT_INTERVAL={text}: a number of milliseconds, 1 or more, is allowed"
        )
    return int(text) / 1000


@asynccontextmanager
async def open_telemetry(
    spec: GlobalSpec,
    registry: Registry,
    *,
    version: str,
    environ: Mapping[str, str],
    clock: Clock,
) -> AsyncIterator[Tracer | None]:
    """Measure the process, and send metrics and traces where they shall go.

    Yields:
        What makes spans of calls, or None where calls are not traced.
    """
    observe_process(registry, version=version)
    metrics = metrics_export(environ)
    tracing = tracing_export(spec.tracing, environ)
    interval_s = export_interval_s(environ)
    tracer: Tracer | None = None
    if tracing is not None:
        from nativelink.telemetry.otlp import process_resource
        from nativelink.telemetry.tracing import Tracer, span_exporter

        rated = "sample_rate" in spec.tracing.model_fields_set
        tracer = Tracer(
            span_exporter(tracing.endpoint, environ),
            resource=process_resource(version),
            sample_rate=spec.tracing.sample_rate if rated else None,
        )
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(watch_event_loop(registry))]
        pusher = None
        if metrics is not None:
            from nativelink.telemetry.otlp import (
                MetricsPusher,
                metrics_exporter,
                process_resource,
            )

            pusher = MetricsPusher(
                registry,
                metrics_exporter(metrics.endpoint, environ),
                resource=process_resource(version),
                clock=clock,
                interval_s=interval_s,
            )
            background.append(tasks.create_task(pusher.run()))
        try:
            yield tracer
        finally:
            for task in background:
                task.cancel()
            if pusher is not None:
                await pusher.close(_LAST_EXPORT_S)
            if tracer is not None:
                await asyncio.to_thread(tracer.close)


def _export(environ: Mapping[str, str], signal: str) -> Export | None:
    """A signal's export as the environment asks for it.

    NativeLink always sends to `localhost:4317`, answered or not; here an endpoint has to be named.
    """
    if sdk_disabled(environ):
        return None
    if environ.get(f"OTEL_{signal}_EXPORTER", "otlp") == "none":
        return None
    ours = environ.get("NL_OTEL_ENDPOINT")
    named = (
        ours
        or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
        or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    if not named:
        return None
    protocol = environ.get(
        f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    )
    if protocol != "grpc":
        raise invalid_argument(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: grpc is what this server speaks"
        )
    return Export(ours or None)
