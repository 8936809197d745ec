"""Where outgoing calls go: addresses, TLS, time-outs, and what grpcio is told of them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from nativelink.core.certificates import pair_fault
from nativelink.core.errors import NativeLinkError, invalid_argument

__all__ = ["ClientTls", "Endpoint", "channel_options", "credentials_of"]

#: Where Linux distributions keep the authorities that they trust, as one file.
_NATIVE_ROOTS: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

#: Between attempts to connect to a server that is down. grpcio would let up to two minutes pass;
#: an attempt costs one SYN, and a build waits for it.
_FIRST_RECONNECT_MS: Final = 100
_LAST_RECONNECT_MS: Final = 1000

#: Trailers with the names of many missing blobs; grpcio's own limit is 8 KiB.
_MAX_METADATA_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ClientTls:
    """TLS of connections that this process opens.

    Attributes:
        ca_file: PEM file with the authorities that may vouch for the server.
        cert_file: PEM certificate that this process shows (mutual TLS), with `key_file`.
        key_file: its PEM private key.
        use_native_roots: trust the operating system's authorities; `ca_file` is not read then.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    use_native_roots: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One upstream server.

    Attributes:
        address: `host:port`; an IPv6 address stands in brackets.
        tls: None for plain text.
        concurrency_limit: calls in flight on it; 0: no limit.
        connect_timeout_s: an attempt to connect, with the TLS handshake, may take this long.
        http2_keepalive_interval_s: between pings of an open connection, also while nothing is
            called, so that a peer behind a silent firewall is missed before it is needed.
        http2_keepalive_timeout_s: a ping unanswered for this long ends the connection.
    """

    address: str
    tls: ClientTls | None = None
    concurrency_limit: int = 0
    connect_timeout_s: float = 30
    http2_keepalive_interval_s: float = 30
    http2_keepalive_timeout_s: float = 20


def channel_options(endpoint: Endpoint) -> list[tuple[str, int | str]]:
    """The channel arguments of a connection."""
    return [
        # Every channel is one connection of its own; else those of equal arguments share one.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", _milliseconds(endpoint.http2_keepalive_interval_s)),
        ("grpc.keepalive_timeout_ms", _milliseconds(endpoint.http2_keepalive_timeout_s)),
        # Of a ping without an answer; the time-out above is only what TCP may take.
        ("grpc.http2.ping_timeout_ms", _milliseconds(endpoint.http2_keepalive_timeout_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        # A stream on which nothing is said for hours (a worker's) is pinged all the same.
        ("grpc.http2.max_pings_without_data", 0),
        # In grpcio this is also how long an attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", _milliseconds(endpoint.connect_timeout_s)),
        ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _LAST_RECONNECT_MS),
        # `http_proxy` is meant for what builds download, not for the farm's own calls.
        ("grpc.enable_http_proxy", 0),
    ]


def _milliseconds(seconds: float) -> int:
    # grpcio's arguments are 32 bits wide.
    return max(1, min(int(seconds * 1000), 2**31 - 1))


def credentials_of(tls: ClientTls) -> grpc.ChannelCredentials:
    """Read the files of `tls`.

    Raises:
        NativeLinkError: INVALID_ARGUMENT naming the file that cannot be used.
    """
    roots = _native_roots() if tls.use_native_roots else _read(tls.ca_file, "ca_file")
    if tls.cert_file is None or tls.key_file is None:
        return grpc.ssl_channel_credentials(roots)
    fault = pair_fault(tls.cert_file, tls.key_file)
    if fault is not None:
        path = tls.cert_file if fault.key == "cert_file" else tls.key_file
        raise invalid_argument(f"tls_config: {fault.key} {path} {fault.what}")
    return grpc.ssl_channel_credentials(
        roots, _read(tls.key_file, "key_file"), _read(tls.cert_file, "cert_file")
    )


def _read(path: Path | None, key: str) -> bytes:
    if path is None:
        raise invalid_argument(f"tls_config: {key} is missing; set it, or use_native_roots")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise invalid_argument(f"tls_config: {key} {path} cannot be read: {error}") from error
    if b"-----BEGIN" not in data:
        raise invalid_argument(f"tls_config: {key} {path} holds no PEM")
    return data


def _native_roots() -> bytes:
    # grpcio would take the authorities that came with it rather than the system's.
    default = ssl.get_default_verify_paths().cafile
    candidates = [default] if default else []
    for name in (*candidates, *_NATIVE_ROOTS):
        try:
            return _read(Path(name), "use_native_roots")
        except NativeLinkError:
            continue
    raise invalid_argument(
        f"tls_config: use_native_roots finds no authorities; looked for {', '.join(_NATIVE_ROOTS)}"
    )
