"""The Prometheus page: text exposition format 0.0.4 of a registry's snapshot.

Names are what NativeLink's metrics are called behind an OpenTelemetry collector whose Prometheus
exporter has the namespace `nativelink`: dots become underscores, the unit is spelled out at the
end, counters end in `_total` ("OpenTelemetry metric name to Prometheus"). A test compares them
with OpenTelemetry's own exporter. The group `process.` has no namespace, as in every client
library of Prometheus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from nativelink.core.rpc import HttpRequest, HttpResponse, HttpRoute
from nativelink.telemetry.meter import (
    AttributeValue,
    Definition,
    HistogramPoint,
    Kind,
    NumberPoint,
    Registry,
    Series,
)

__all__ = ["CONTENT_TYPE", "metric_name", "metrics_route", "render"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_NAMESPACE: Final = "nativelink"
_NOT_A_NAME: Final = re.compile(r"[^a-zA-Z0-9_]+")
#: Units as the specification spells them ("Prometheus: Metric Metadata"); what stands in braces
#: is an annotation and has no unit.
_UNITS: Final = {
    "d": "days", "h": "hours", "min": "minutes", "s": "seconds", "ms": "milliseconds",
    "us": "microseconds", "ns": "nanoseconds", "By": "bytes", "KiBy": "kibibytes",
    "MiBy": "mebibytes", "GiBy": "gibibytes", "%": "percent",
}  # fmt: skip
_TYPES: Final = {
    Kind.COUNTER: "counter",
    Kind.UP_DOWN_COUNTER: "gauge",
    Kind.GAUGE: "gauge",
    Kind.HISTOGRAM: "histogram",
}
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})


def metric_name(definition: Definition) -> str:
    """The name of the metric family, `nativelink_store_size_bytes`."""
    name = _NOT_A_NAME.sub("_", definition.name).strip("_")
    if not definition.name.startswith("process."):
        name = f"{_NAMESPACE}_{name}"
    unit = "" if definition.unit.startswith("{") else definition.unit
    unit = _UNITS.get(unit, _NOT_A_NAME.sub("_", unit))
    if unit == "1":
        unit = "ratio" if definition.kind is Kind.GAUGE else ""
    if unit and not name.endswith(f"_{unit}"):
        name = f"{name}_{unit}"
    if definition.kind is Kind.COUNTER and not name.endswith("_total"):
        name = f"{name}_total"
    return name


def render(collected: Iterable[Series]) -> str:
    """A snapshot as text."""
    families: dict[str, list[str]] = {}
    for series in collected:
        definition = series.definition
        name = metric_name(definition)
        lines = families.get(name)
        if lines is None:
            lines = families[name] = [
                f"# HELP {name} {definition.description.translate(_HELP_ESCAPES)}",
                f"# TYPE {name} {_TYPES[definition.kind]}",
            ]
        for point in series.points:
            labels = ",".join(f'{_label(key)}="{_value(val)}"' for key, val in point.attributes)
            match point:
                case NumberPoint():
                    lines.append(f"{name}{{{labels}}} {_number(point.value)}")
                case HistogramPoint():
                    lines += _histogram(name, labels, definition.bounds, point)
    return "".join(f"{line}\n" for lines in families.values() for line in lines)


def metrics_route(registry: Registry, path: str = "/metrics") -> HttpRoute:
    """The page that Prometheus scrapes."""

    async def metrics(request: HttpRequest) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return HttpResponse(405, b"GET is allowed\n", headers={"allow": "GET, HEAD"})
        return HttpResponse(200, render(registry.collect()).encode(), content_type=CONTENT_TYPE)

    return HttpRoute(path, metrics)


def _histogram(
    name: str, labels: str, bounds: tuple[float, ...], point: HistogramPoint
) -> Iterable[str]:
    prefix = f"{labels}," if labels else ""
    cumulative = 0
    for bound, count in zip(bounds, point.counts, strict=False):
        cumulative += count
        yield f'{name}_bucket{{{prefix}le="{_number(bound)}"}} {cumulative}'
    total = cumulative + point.counts[-1]
    yield f'{name}_bucket{{{prefix}le="+Inf"}} {total}'
    yield f"{name}_count{{{labels}}} {total}"
    yield f"{name}_sum{{{labels}}} {_number(point.sum)}"


def _label(name: str) -> str:
    return _NOT_A_NAME.sub("_", name)


def _value(value: AttributeValue) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text.translate(_ESCAPES)


def _number(value: float) -> str:
    """A number as Prometheus reads it, without a needless `.0` or exponent of ours."""
    if isinstance(value, int):
        return str(value)
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
