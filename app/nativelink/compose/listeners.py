"""What the specs of a listener mean to the transport."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nativelink.config.specs_servers import (
    CompressionAlgorithmName,
    HttpListenerSpec,
    TlsSpec,
)
from nativelink.transport.settings import ServerSettings, TlsSettings

__all__ = ["server_settings", "tls_settings"]


def server_settings(spec: HttpListenerSpec) -> ServerSettings:
    """The transport's settings; what the specs leave unset keeps the transport's defaults."""
    advanced = spec.advanced_http
    compression = spec.compression
    gzip = CompressionAlgorithmName.GZIP
    chosen: dict[str, Any] = {
        "http2_keep_alive_interval_s": advanced.http2_keep_alive_interval,
        "http2_keep_alive_timeout_s": advanced.experimental_http2_keep_alive_timeout_s,
        "http2_max_pending_accept_reset_streams": (
            advanced.experimental_http2_max_pending_accept_reset_streams
        ),
        "http2_initial_stream_window_size": (
            advanced.experimental_http2_initial_stream_window_size
        ),
        "http2_initial_connection_window_size": (
            advanced.experimental_http2_initial_connection_window_size
        ),
        "http2_adaptive_window": advanced.experimental_http2_adaptive_window,
        "http2_max_frame_size": advanced.experimental_http2_max_frame_size,
        "http2_max_concurrent_streams": advanced.experimental_http2_max_concurrent_streams,
        "http2_max_send_buf_size": advanced.experimental_http2_max_send_buf_size,
        "http2_enable_connect_protocol": advanced.experimental_http2_enable_connect_protocol,
        "http2_max_header_list_size": advanced.experimental_http2_max_header_list_size,
        "max_connections": advanced.max_connections,
        "idle_timeout_s": advanced.idle_timeout_s,
        "max_connection_age_s": advanced.max_connection_age_s,
        "max_connection_age_grace_s": advanced.max_connection_age_grace_s,
    }
    host = f"[{spec.host}]" if ":" in spec.host else spec.host
    return ServerSettings(
        address=f"{host}:{spec.port}",
        freebind=spec.freebind,
        max_decoding_message_size=spec.max_decoding_message_size,
        send_gzip=compression is not None and compression.send_compression_algorithm is gzip,
        accept_gzip=(
            compression is not None and gzip in compression.accepted_compression_algorithms
        ),
        **{name: value for name, value in chosen.items() if value is not None},
    )


def tls_settings(spec: TlsSpec) -> TlsSettings:
    """The transport's TLS settings."""
    return TlsSettings(
        cert_file=Path(spec.cert_file),
        key_file=Path(spec.key_file),
        client_ca_file=None if spec.client_ca_file is None else Path(spec.client_ca_file),
        client_crl_file=None if spec.client_crl_file is None else Path(spec.client_crl_file),
    )
