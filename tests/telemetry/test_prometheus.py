"""The Prometheus page, read back by Prometheus' own parser and compared with OpenTelemetry's."""

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from nativelink.core.rpc import HttpRequest, HttpResponse, Peer
from nativelink.telemetry.meter import Definition, Kind, Registry
from nativelink.telemetry.metrics import CATALOGUE
from nativelink.telemetry.prometheus import CONTENT_TYPE, metrics_route, render


def filled(definitions: tuple[Definition, ...]) -> Registry:
    registry = Registry()
    for definition in definitions:
        values = tuple(f"v{index}" for index, _ in enumerate(definition.attributes))
        if definition.kind is Kind.HISTOGRAM:
            registry.histogram(definition).bind(*values).record(3)
        else:
            registry.counter(definition).bind(*values).add(3)
    return registry


def samples(text: str, *, without: tuple[str, ...] = ()) -> set[tuple[str, frozenset[str], float]]:
    return {
        (sample.name, frozenset(sample.labels) - {*without}, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_names_labels_and_values_agree_with_opentelemetrys_own_exporter():
    prefixed = tuple(d for d in CATALOGUE if not d.name.startswith("process."))
    theirs = CollectorRegistry()
    provider = MeterProvider(
        metric_readers=[
            PrometheusMetricReader(
                prefix="nativelink",
                scope_info_enabled=False,
                disable_target_info=True,
                registry=theirs,
            )
        ],
        shutdown_on_exit=False,
    )
    meter = provider.get_meter("nativelink")
    for definition in prefixed:
        attributes = {name: f"v{index}" for index, name in enumerate(definition.attributes)}
        match definition.kind:
            case Kind.COUNTER:
                meter.create_counter(definition.name, definition.unit).add(3, attributes)
            case Kind.UP_DOWN_COUNTER:
                meter.create_up_down_counter(definition.name, definition.unit).add(3, attributes)
            case Kind.GAUGE:
                meter.create_gauge(definition.name, definition.unit).set(3, attributes)
            case Kind.HISTOGRAM:
                meter.create_histogram(
                    definition.name,
                    definition.unit,
                    explicit_bucket_boundaries_advisory=definition.bounds,
                ).record(3, attributes)
    expected = generate_latest(theirs).decode()
    provider.shutdown()

    assert samples(render(filled(prefixed).collect())) == samples(expected)


def test_process_metrics_have_the_names_of_all_prometheus_clients():
    process = tuple(d for d in CATALOGUE if d.name.startswith("process."))
    assert {name for name, _, _ in samples(render(filled(process).collect()))} == {
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    }


def test_label_values_are_escaped():
    registry = Registry()
    odd = 'a "quoted"\\ value\nin two lines'
    registry.counter(Definition("odd", Kind.COUNTER, "", "Odd\nnames.", ("who",))).bind(odd).add()
    (family,) = text_string_to_metric_families(render(registry.collect()))
    assert family.samples[0].labels == {"who": odd}
    assert family.documentation == "Odd\nnames."


def test_histogram_buckets_are_cumulative_and_end_in_infinity():
    registry = Registry()
    cell = registry.histogram(Definition("h", Kind.HISTOGRAM, "s", "H.", (), (0.5, 1.0))).bind()
    for value in (0.1, 0.7, 5):
        cell.record(value)
    text = render(registry.collect())
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        'nativelink_h_seconds_bucket{le="0.5"} 1',
        'nativelink_h_seconds_bucket{le="1"} 2',
        'nativelink_h_seconds_bucket{le="+Inf"} 3',
        "nativelink_h_seconds_count{} 3",
        "nativelink_h_seconds_sum{} 5.8",
    ]


async def ask(registry: Registry, method: str) -> HttpResponse:
    route = metrics_route(registry)
    assert route.path == "/metrics"
    return await route.handler(HttpRequest(method, "/metrics", "", (), b"", Peer("test:1")))


async def test_the_page_is_plain_text_of_version_0_0_4():
    response = await ask(filled(CATALOGUE), "GET")
    assert response.status == 200
    assert response.content_type == CONTENT_TYPE
    assert b"nativelink_rpc_server_duration_seconds_bucket" in response.body


async def test_the_page_can_only_be_read():
    assert (await ask(Registry(), "POST")).status == 405
