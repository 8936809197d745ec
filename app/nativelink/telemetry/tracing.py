"""Traces of calls over OTLP: sampled, joined to the caller's trace, free where they are off.

Imported only where tracing is configured. Each traced call is one server span named after its
method, with the client's RequestMetadata as attributes; a `traceparent` header (W3C Trace Context)
makes it part of the caller's trace, whose decision to sample is honoured. Calls without that
header are sampled at the configured rate.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio, Sampler
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.rpc import CallContext, Method
from nativelink.services.request_metadata import describe
from nativelink.telemetry.otlp import compression

__all__ = ["Tracer", "span_exporter", "trace_headers"]

_PROPAGATOR: Final = TraceContextTextMapPropagator()
#: RequestMetadata fields under OpenTelemetry-like names.
_PREFIX: Final = "bazel."


def span_exporter(endpoint: str | None, environ: Mapping[str, str]) -> SpanExporter:
    """OpenTelemetry's exporter; `endpoint` None leaves it to the OTEL_ variables."""
    return OTLPSpanExporter(endpoint=endpoint, compression=compression(environ, "TRACES"))


def trace_headers() -> list[tuple[str, str]]:
    """`traceparent` and `tracestate` of the span under way, for calls made on its behalf."""
    headers: dict[str, str] = {}
    _PROPAGATOR.inject(headers)
    return list(headers.items())


class Tracer:
    """Makes spans of calls.

    Args:
        exporter: where finished spans go, in batches, from a thread of the SDK's.
        resource: who sends.
        sample_rate: the share of calls without a parent that is traced, 0 to 1; None leaves the
            decision to OTEL_TRACES_SAMPLER, which is "all" unless it is set.
    """

    def __init__(
        self, exporter: SpanExporter, *, resource: Resource, sample_rate: float | None
    ) -> None:
        sampler: Sampler | None = (
            None if sample_rate is None else ParentBasedTraceIdRatio(sample_rate)
        )
        self._provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("nativelink")

    def traced(self, method: Method) -> Method:
        """The method with a span around its handler."""
        service, _, name = method.path.strip("/").rpartition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        span_name = f"{service}/{name}"
        handler: Callable[..., Awaitable[Any]] = method.handler
        start_span = self._tracer.start_span

        @functools.wraps(handler)
        async def with_span(request: Any, context: CallContext, *sink: Any) -> Any:
            parent = None
            if context.header(b"traceparent") is not None:
                parent = _PROPAGATOR.extract(
                    {
                        name.decode("latin-1"): value.decode("latin-1")
                        for name, value in context.metadata
                        if name in (b"traceparent", b"tracestate")
                    }
                )
            span = start_span(
                span_name, context=parent, kind=trace.SpanKind.SERVER, attributes=attributes
            )
            if not span.is_recording():
                with trace.use_span(span):
                    return await handler(request, context, *sink)
            span.set_attribute("network.peer.address", context.peer.address)
            for key, value in describe(context).items():
                span.set_attribute(_PREFIX + key, value)
            code = Code.OK
            try:
                with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                    return await handler(request, context, *sink)
            except NativeLinkError as error:
                code = error.code
                if code in _OUR_FAULT:
                    span.set_status(trace.Status(trace.StatusCode.ERROR, error.message))
                raise
            except Exception as error:
                code = Code.INTERNAL
                span.record_exception(error)
                span.set_status(trace.Status(trace.StatusCode.ERROR, str(error)))
                raise
            except BaseException:
                code = Code.CANCELLED
                raise
            finally:
                span.set_attribute("rpc.grpc.status_code", int(code))
                span.end()

        return replace(method, handler=with_span)

    def close(self) -> None:
        """Send what is left and stop; blocks for a while."""
        self._provider.shutdown()


#: Codes that make a server's span an error (OpenTelemetry's conventions for gRPC).
_OUR_FAULT: Final = frozenset(
    {
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.UNIMPLEMENTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    }
)
