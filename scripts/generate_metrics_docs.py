"""Write docs/metrics.md from the catalogue of instruments; `--check` only compares."""

from __future__ import annotations

import sys

from generated_page import write_or_check

from nativelink.telemetry.meter import Definition, Kind
from nativelink.telemetry.metrics import CATALOGUE
from nativelink.telemetry.prometheus import metric_name

HEAD = """\
# Metrics

<!-- Written by scripts/generate_metrics_docs.py from app/nativelink/telemetry; do not edit. -->

Every server that has a `health` or `admin` service shows its process's metrics at `/metrics`, in
Prometheus' text format. `global.metrics.prometheus.listen_address` opens a port for them alone.

They are sent by OTLP over gRPC as well, if an endpoint is named: by `OTEL_EXPORTER_OTLP_ENDPOINT`
(or `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT`), or by `NL_OTEL_ENDPOINT`, which goes before them. The
other `OTEL_` variables mean what OpenTelemetry says: `OTEL_METRIC_EXPORT_INTERVAL` (60000 ms),
`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, … Prometheus and
OTLP show the same numbers: totals since the process started. `OTEL_SDK_DISABLED=true` sends
nothing and stops counting calls.

The left column is the name in OTLP. Down to `scheduler.matching.passes`, names, units and
attributes are NativeLink's, and the names in Prometheus are those that they get behind an
OpenTelemetry collector with the namespace `nativelink`, so dashboards and alerts made for
NativeLink fit. In labels, dots become underscores. Clients choose priorities and platforms: the
first 20 priorities have labels of their own, and the 100 platforms with the longest queues; all
others are `others`.

| instrument | in Prometheus | kind | unit | attributes | meaning |
|---|---|---|---|---|---|
"""

BOUNDS = """
## Buckets of histograms

Upper bounds, each included in its bucket.

"""


def row(definition: Definition) -> str:
    """A line of the table."""
    attributes = ", ".join(f"`{name}`" for name in definition.attributes)
    unit = f"`{definition.unit}`" if definition.unit else ""
    return (
        f"| `{definition.name}` | `{metric_name(definition)}` | "
        f"{definition.kind.value.replace('_', '-')} | {unit} | {attributes} | "
        f"{definition.description} |\n"
    )


def bounds(definition: Definition) -> str:
    """A line of the list of buckets."""
    values = " ".join(
        f"{bound:.0f}" if bound.is_integer() else f"{bound:g}" for bound in definition.bounds
    )
    return f"- `{definition.name}` ({definition.unit}): {values}\n"


def page() -> str:
    """The whole page."""
    return (
        HEAD
        + "".join(map(row, CATALOGUE))
        + BOUNDS
        + "".join(bounds(each) for each in CATALOGUE if each.kind is Kind.HISTOGRAM)
    )


if __name__ == "__main__":
    sys.exit(write_or_check("metrics.md", page, __doc__))
