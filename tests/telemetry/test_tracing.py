"""Traces: one span per call, joined to the caller's trace, sampled as configured."""

import base64
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nativelink.core.errors import not_found, unavailable
from nativelink.core.rpc import CallContext, Method, Peer
from nativelink.proto.build.bazel.remote.execution.v2.remote_execution_pb2 import RequestMetadata
from nativelink.services.request_metadata import HEADER
from nativelink.telemetry.otlp import process_resource
from nativelink.telemetry.tracing import Tracer

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = PARENT[:-2] + b"00"


def spans_of(
    rate: float, handler: Any, *metadata: tuple[bytes, bytes]
) -> tuple[Any, InMemorySpanExporter, Tracer]:
    exporter = InMemorySpanExporter()
    tracer = Tracer(exporter, resource=process_resource("0"), sample_rate=rate)
    method = tracer.traced(Method("/pkg.Service/Do", handler))
    context = CallContext("/pkg.Service/Do", metadata, Peer("10.0.0.1:9"))
    return method.handler(b"", context), exporter, tracer


async def fine(request: bytes, context: CallContext) -> bytes:
    return b"done"


async def test_a_call_becomes_a_server_span_with_the_clients_metadata():
    header = base64.b64encode(RequestMetadata(target_id="//a").SerializeToString())
    call, exporter, tracer = spans_of(1, fine, (HEADER, header))
    assert await call == b"done"
    tracer.close()
    (span,) = exporter.get_finished_spans()
    assert span.name == "pkg.Service/Do"
    assert span.kind is trace.SpanKind.SERVER
    assert dict(span.attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": "pkg.Service",
        "rpc.method": "Do",
        "rpc.grpc.status_code": 0,
        "network.peer.address": "10.0.0.1:9",
        "bazel.target": "//a",
    }


async def test_the_callers_trace_is_continued_though_the_rate_is_zero():
    call, exporter, tracer = spans_of(0, fine, (b"traceparent", PARENT))
    await call
    tracer.close()
    (span,) = exporter.get_finished_spans()
    assert span.context is not None
    assert span.context.trace_id == 0x4BF92F3577B34DA6A3CE929D0E0E4736
    assert span.parent is not None
    assert span.parent.span_id == 0x00F067AA0BA902B7


@pytest.mark.parametrize(("rate", "metadata"), [(0, ()), (1, ((b"traceparent", UNSAMPLED),))])
async def test_what_is_not_sampled_runs_and_leaves_no_span(rate: float, metadata: Any):
    call, exporter, tracer = spans_of(rate, fine, *metadata)
    assert await call == b"done"
    tracer.close()
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (not_found("x"), 5, trace.StatusCode.UNSET),
        (unavailable("x"), 14, trace.StatusCode.ERROR),
        (KeyError("x"), 13, trace.StatusCode.ERROR),
    ],
)
async def test_a_failure_gives_its_code_and_only_ours_makes_the_span_an_error(
    error: Exception, code: int, status: trace.StatusCode
):
    async def fails(request: bytes, context: CallContext) -> bytes:
        raise error

    call, exporter, tracer = spans_of(1, fails)
    with pytest.raises(type(error)):
        await call
    tracer.close()
    (span,) = exporter.get_finished_spans()
    assert (span.attributes or {})["rpc.grpc.status_code"] == code
    assert span.status.status_code is status
