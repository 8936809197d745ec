"""What a listener may be told: plain values, each with its default and where that comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nativelink.core.errors import invalid_argument

__all__ = ["DEFAULT_MAX_MESSAGE_BYTES", "ServerSettings", "TlsSettings"]

#: `max_decoding_message_size` 0 means this: gRPC's own default everywhere.
DEFAULT_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024

_MIN_FRAME_BYTES: Final = 16_384
_MAX_FRAME_BYTES: Final = 2**24 - 1
_MAX_WINDOW: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """`listener.http.tls`: PEM files, read again when they change.

    Attributes:
        cert_file: the certificate chain, leaf first.
        key_file: its private key.
        client_ca_file: authorities of client certificates; a client without one is refused.
        client_crl_file: revoked client certificates of those authorities.
        verify_client: None follows from `client_ca_file`; True without one is an error; False
            asks for a certificate and checks one that is given, but lets a client without pass.
    """

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    client_crl_file: Path | None = None
    verify_client: bool | None = None

    def __post_init__(self) -> None:
        if self.client_ca_file is None and (self.verify_client or self.client_crl_file):
            raise invalid_argument(
                "tls: verify_client and client_crl_file need a client_ca_file to check against"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """One listener. Sizes in bytes, times in seconds; 0 switches a time limit off.

    The names are those of `listener.http` and `advanced_http` without `experimental_` and units
    in the suffix.

    Attributes:
        address: `ip:port`, `[ipv6]:port` or `:port`; port 0 lets the kernel choose.
        freebind: bind an address that this machine does not have yet (IP_FREEBIND).
        backlog: connections that wait to be accepted.
        max_decoding_message_size: longest message taken, after decompression; 0 is 4 MiB.
        send_gzip: compress answers for clients that accept it.
        accept_gzip: take compressed requests.
        http2_keep_alive_interval_s: PING a quiet connection so often. hyper's default is never; but
            AWS network load balancers forget a connection that is quiet for 350 s without telling
            either side, and a build then hangs.
        http2_keep_alive_timeout_s: and give it up without an answer; 20 s as in hyper.
        http2_max_pending_accept_reset_streams: resets a client may have in a burst before it is
            sent away (CVE-2023-44487); nghttp2's 1,000, regained at 33 a second.
        http2_initial_stream_window_size: unread bytes a client may send on one stream. 1 MiB as
            in hyper.
        http2_initial_connection_window_size: and on all streams together. hyper has 1 MiB here,
            which lets one slow upload stop all others; 8 streams' worth instead.
        http2_adaptive_window: let windows grow (to 16 MiB a stream) for uploads that use them up.
        http2_max_frame_size: largest frame taken.
        http2_max_concurrent_streams: calls at a time on one connection. hyper has 200; Bazel's
            `--jobs` goes beyond it on one connection.
        http2_max_send_buf_size: bytes that may wait for a slow peer's socket before handlers wait.
            hyper has 400 KiB a stream; this is for a connection, and lets an answer of 1 MiB with
            its framing go in one turn of the loop.
        http2_enable_connect_protocol: announce RFC 8441; nothing here speaks such a protocol, so
            such a request is answered 501.
        http2_max_header_list_size: request headers, 32 added for each; 16 KiB as in hyper.
        max_connection_age_s: then a connection is told to go (with 10 % jitter), so that load
            balancers spread clients anew; off by default as in gRPC.
        max_connection_age_grace_s: what its calls then have to finish; 0 is for ever.
        max_connections: beyond it new connections are closed at once.
        idle_timeout_s: a connection without any call is told to go.
        handshake_timeout_s: TLS handshake; until it is through, a connection does not count.
        header_timeout_s: from the first octet of a request's header to its last, and from accept
            to the first request's header (nginx `client_header_timeout` 60 s, hyper 30 s).
        body_timeout_s: a unary request's or an HTTP body that makes no progress. A stalled
            client stream is the handler's business, as streams may rest.
        send_timeout_s: a connection whose peer takes nothing although something waits to be sent
            (nginx `send_timeout` 60 s).
    """

    address: str = "127.0.0.1:0"
    freebind: bool = False
    backlog: int = 1024
    max_decoding_message_size: int = 0
    send_gzip: bool = False
    accept_gzip: bool = False
    http2_keep_alive_interval_s: float = 120
    http2_keep_alive_timeout_s: float = 20
    http2_max_pending_accept_reset_streams: int = 1000
    http2_initial_stream_window_size: int = 1024 * 1024
    http2_initial_connection_window_size: int = 8 * 1024 * 1024
    http2_adaptive_window: bool = False
    http2_max_frame_size: int = _MIN_FRAME_BYTES
    http2_max_concurrent_streams: int = 1000
    http2_max_send_buf_size: int = 1280 * 1024
    http2_enable_connect_protocol: bool = False
    http2_max_header_list_size: int = 16 * 1024
    max_connection_age_s: float = 0
    max_connection_age_grace_s: float = 0
    max_connections: int = 16_384
    idle_timeout_s: float = 3600
    handshake_timeout_s: float = 10
    header_timeout_s: float = 30
    body_timeout_s: float = 60
    send_timeout_s: float = 60

    def __post_init__(self) -> None:
        if not _MIN_FRAME_BYTES <= self.http2_max_frame_size <= _MAX_FRAME_BYTES:
            raise invalid_argument(
                f"http2_max_frame_size {self.http2_max_frame_size}: {_MIN_FRAME_BYTES} to "
                f"{_MAX_FRAME_BYTES} are allowed (RFC 9113 section 6.5.2)"
            )
        for name in ("http2_initial_stream_window_size", "http2_initial_connection_window_size"):
            size = getattr(self, name)
            if not 1 <= size <= _MAX_WINDOW:
                raise invalid_argument(
                    f"{name} {size}: 1 to {_MAX_WINDOW} are allowed (RFC 9113 section 6.9.1)"
                )

    @property
    def max_message_bytes(self) -> int:
        """`max_decoding_message_size` with its default."""
        return self.max_decoding_message_size or DEFAULT_MAX_MESSAGE_BYTES
