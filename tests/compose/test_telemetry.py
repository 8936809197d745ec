"""Where metrics and traces go."""

import json5
import pytest

from nativelink.compose.telemetry import (
    Export,
    export_interval_s,
    metrics_export,
    open_telemetry,
    tracing_export,
)
from nativelink.config.specs import GlobalSpec, TracingSpec
from nativelink.core.errors import NativeLinkError
from nativelink.telemetry.meter import Registry
from nativelink.testing.fakes import FakeClock

COLLECTOR = "http://collector:4317"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"NL_OTEL_ENDPOINT": COLLECTOR}, Export(COLLECTOR)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, Export(None)),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": COLLECTOR}, Export(None)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": COLLECTOR}, None),
        ({"NL_OTEL_ENDPOINT": COLLECTOR, "OTEL_SDK_DISABLED": "true"}, None),
        ({"NL_OTEL_ENDPOINT": COLLECTOR, "OTEL_METRICS_EXPORTER": "none"}, None),
    ],
)
def test_metrics_go_where_the_environment_says(environ: dict[str, str], expected: Export | None):
    assert metrics_export(environ) == expected


def test_traces_go_where_the_configuration_says_before_the_environment():
    spec = TracingSpec.model_validate(json5.loads("{ otlp: { endpoint: 'http://traces:4317' } }"))
    assert tracing_export(spec, {"NL_OTEL_ENDPOINT": COLLECTOR}) == Export("http://traces:4317")
    assert tracing_export(TracingSpec(), {"NL_OTEL_ENDPOINT": COLLECTOR}) == Export(COLLECTOR)
    assert tracing_export(TracingSpec(), {}) is None


def test_a_protocol_that_is_not_spoken_is_an_error_not_silence():
    with pytest.raises(NativeLinkError, match="http/protobuf: grpc is what"):
        metrics_export(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            }
        )


def test_the_interval_is_a_minute_unless_it_is_set():
    assert export_interval_s({}) == 60
    assert export_interval_s({"OTEL_METRIC_EXPORT_INTERVAL": "1500"}) == 1.5
    with pytest.raises(NativeLinkError, match="OTEL_METRIC_EXPORT_INTERVAL=soon"):
        export_interval_s({"OTEL_METRIC_EXPORT_INTERVAL": "soon"})


async def test_without_an_endpoint_only_the_process_is_measured():
    registry = Registry()
    async with open_telemetry(
        GlobalSpec(), registry, version="1.2.3", environ={}, clock=FakeClock()
    ) as tracer:
        assert tracer is None
    names = {series.definition.name for series in registry.collect()}
    assert {"build.info", "process.resident_memory"} <= names
