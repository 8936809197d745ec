"""Endpoint specs to outgoing gRPC channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from nativelink.config.specs_common import ClientTlsSpec, GrpcEndpointSpec, RetrySpec
from nativelink.core.errors import Code, invalid_argument
from nativelink.core.retry import Retry
from nativelink.transport.channel import GrpcChannel
from nativelink.transport.endpoints import ClientTls, Endpoint
from nativelink.transport.pool import PoolRecorder

__all__ = ["endpoint_of", "grpc_channel", "host_and_port", "is_tls", "retry_of"]

_PLAIN = frozenset({"grpc", "http"})
_TLS = frozenset({"grpcs", "https"})
_DEFAULT_PORTS = {"http": 80, "https": 443}


def grpc_channel(
    endpoints: Sequence[GrpcEndpointSpec],
    *,
    connections_per_endpoint: int,
    max_concurrent_requests: int,
    recorder: PoolRecorder | None = None,
) -> GrpcChannel:
    """A channel to any of several servers; the caller enters and leaves it.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for an address that is none.
    """
    return GrpcChannel(
        [
            endpoint_of(
                each.address,
                each.tls_config,
                concurrency_limit=each.concurrency_limit or 0,
                connect_timeout_s=each.connect_timeout_s,
                http2_keepalive_interval_s=each.http2_keepalive_interval_s,
                http2_keepalive_timeout_s=each.http2_keepalive_timeout_s,
            )
            for each in endpoints
        ],
        connections_per_endpoint=connections_per_endpoint,
        max_concurrent_requests=max_concurrent_requests,
        recorder=recorder,
    )


def retry_of(spec: RetrySpec) -> Retry:
    """The pauses and the codes of a retry spec."""
    return Retry(
        spec.max_retries,
        spec.delay,
        spec.jitter,
        frozenset(Code[each.name] for each in spec.retry_on_errors),
    )


def endpoint_of(
    address: str,
    tls: ClientTlsSpec | None,
    *,
    concurrency_limit: int = 0,
    connect_timeout_s: float = 30,
    http2_keepalive_interval_s: float = 30,
    http2_keepalive_timeout_s: float = 20,
) -> Endpoint:
    """An endpoint as the transport wants it.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for an address that is none, or one for TLS whose
            `tls_config` is missing.
    """
    host, port = host_and_port(address)
    secure = is_tls(address)
    if secure and tls is None:
        # The certificates of the operating system, as everybody expects of https.
        tls = ClientTlsSpec(use_native_roots=True)
    return Endpoint(
        f"{host}:{port}",
        tls=_client_tls(tls) if secure and tls is not None else None,
        concurrency_limit=concurrency_limit,
        connect_timeout_s=connect_timeout_s,
        http2_keepalive_interval_s=http2_keepalive_interval_s,
        http2_keepalive_timeout_s=http2_keepalive_timeout_s,
    )


def is_tls(address: str) -> bool:
    """Whether an address asks for TLS."""
    return urlsplit(address).scheme in _TLS


def host_and_port(address: str) -> tuple[str, int]:
    """Host and port of `grpc://host:port` (or `grpcs`, `http`, `https`).

    Raises:
        NativeLinkError: INVALID_ARGUMENT.
    """
    parts = urlsplit(address)
    try:
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        port = None
    if parts.scheme not in _PLAIN | _TLS or not parts.hostname or port is None:
        raise invalid_argument(
            f"address {address!r}: grpc://host:port is expected, or grpcs://host:port for TLS; "
            "an IPv6 address stands in brackets"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return host, port


def _client_tls(spec: ClientTlsSpec) -> ClientTls:
    return ClientTls(
        ca_file=_path(spec.ca_file),
        cert_file=_path(spec.cert_file),
        key_file=_path(spec.key_file),
        use_native_roots=spec.use_native_roots,
    )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
