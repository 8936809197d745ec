"""Servers: listeners, their TLS, compression and HTTP settings."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from nativelink.config.fields import (
    EXTENSION,
    Flag,
    Items,
    NoEffect,
    NullIs,
    Number32,
    PathText,
    Seconds,
    Size,
    Size32,
    Spec,
    Text,
    Zero,
)
from nativelink.config.specs_common import SocketAddress, TlsMode, TlsModeText, split_address
from nativelink.config.specs_services import ServicesSpec

__all__ = [
    "AdvancedHttpSpec",
    "CompressionAlgorithmName",
    "HttpCompressionSpec",
    "HttpListenerSpec",
    "IdentityHeaderSpec",
    "ListenerSpec",
    "ServerSpec",
    "TlsSpec",
]


class CompressionAlgorithmName(StrEnum):
    """Compression of gRPC messages."""

    NONE = "none"
    GZIP = "gzip"


class HttpCompressionSpec(Spec):
    """gRPC message compression. Worth its CPU only on slow links."""

    send_compression_algorithm: Annotated[
        CompressionAlgorithmName, Items, NullIs(CompressionAlgorithmName.NONE)
    ] = Field(
        default=CompressionAlgorithmName.NONE,
        description="How responses are compressed to clients that accept it.",
    )
    accepted_compression_algorithms: Annotated[
        tuple[Annotated[CompressionAlgorithmName, Items], ...], Items
    ] = Field(description="How clients may compress requests.")


class AdvancedHttpSpec(Spec):
    """Settings of the HTTP/2 and HTTP/1.1 server. Unset: the server's own default."""

    http2_keep_alive_interval: Seconds | None = Field(
        default=None,
        description="Seconds of silence until a ping is sent; load balancers forget connections "
        "that are quiet for long. Unset: 120. 0: no pings.",
    )
    experimental_http2_keep_alive_timeout_s: Seconds | None = Field(
        default=None,
        description="Seconds that a ping may stay unanswered until the connection is closed.",
    )
    experimental_http2_max_pending_accept_reset_streams: Number32 | None = Field(
        default=None,
        description="Streams that a client may have reset before their handlers ended; more end "
        "the connection (rapid reset).",
    )
    experimental_http2_initial_stream_window_size: Annotated[Size32, Field(le=2**31 - 1)] | None = (
        Field(default=None, description="Request bytes in flight on one stream, at most 2^31 - 1.")
    )
    experimental_http2_initial_connection_window_size: (
        Annotated[Size32, Field(le=2**31 - 1)] | None
    ) = Field(
        default=None, description="Request bytes in flight on one connection, at most 2^31 - 1."
    )
    experimental_http2_adaptive_window: Flag | None = Field(
        default=None,
        description="Let the windows grow with the connection; overrides both window sizes.",
    )
    experimental_http2_max_frame_size: Annotated[Size32, Field(ge=16_384, le=2**24 - 1)] | None = (
        Field(
            default=None,
            description="Largest frame accepted, 16,384 to 16,777,215 bytes (RFC 9113, 6.5.2).",
        )
    )
    experimental_http2_max_concurrent_streams: Number32 | None = Field(
        default=None, description="Requests in flight on one connection."
    )
    experimental_http2_max_send_buf_size: Size32 | None = Field(
        default=None, description="Response bytes buffered for one connection."
    )
    experimental_http2_enable_connect_protocol: Flag | None = Field(
        default=None, description="Announce extended CONNECT (RFC 8441). Unset: false."
    )
    experimental_http2_max_header_list_size: Size32 | None = Field(
        default=None, description="Bytes of the header fields of one request."
    )
    max_connections: Annotated[Number32, EXTENSION] | None = Field(
        default=None, description="Open connections of the listener; further ones are refused."
    )
    idle_timeout_s: Annotated[Seconds, EXTENSION] | None = Field(
        default=None,
        description="Seconds after which a connection without requests is closed. 0: never.",
    )
    max_connection_age_s: Annotated[Seconds, EXTENSION] | None = Field(
        default=None,
        description=(
            "Seconds after which a connection is asked to go away (GOAWAY), so that clients "
            "spread over new servers behind a load balancer. 0: never."
        ),
    )
    max_connection_age_grace_s: Annotated[Seconds, EXTENSION] | None = Field(
        default=None,
        description="Seconds that requests on such a connection get to finish. 0: no limit.",
    )


class TlsSpec(Spec):
    """TLS of a listener. Changed files are read again without a restart."""

    mode: Annotated[TlsModeText, EXTENSION] | None = Field(
        default=None,
        description="`off`: plain text, as if this was not here. `server`: clients need no "
        "certificate, whatever `client_ca_file` says. `mutual`: they do. Unset: what the other "
        "keys say. In quotes, variables expand, so that one file serves all modes.",
    )
    cert_file: PathText = Field(description="PEM file with the certificate chain.")
    key_file: PathText = Field(description="PEM file with the private key.")
    client_ca_file: PathText | None = Field(
        default=None,
        description="PEM file with the authorities of client certificates; a client without one "
        "is refused (mutual TLS). Unset: clients need no certificate.",
    )
    client_crl_file: PathText | None = Field(
        default=None,
        description="PEM file with revoked client certificates; needs `client_ca_file`. Unset, "
        "and empty: none.",
    )

    @model_validator(mode="after")
    def _as_the_mode_says(self) -> TlsSpec:
        changes: dict[str, str | None] = {}
        if self.client_crl_file == "":
            changes["client_crl_file"] = None
        match self.mode:
            case TlsMode.MUTUAL if self.client_ca_file is None:
                raise PydanticCustomError("mode", 'the mode "mutual" needs "client_ca_file"')
            case TlsMode.SERVER:
                changes |= {"client_ca_file": None, "client_crl_file": None}
            case _:
                pass
        return self.model_copy(update=changes) if changes else self


class HttpListenerSpec(Spec):
    """A TCP socket that speaks gRPC (HTTP/2) and HTTP/1.1."""

    socket_address: SocketAddress = Field(
        description="`ADDRESS:PORT`. Without an address (`:50051`) all IPv4 addresses; port 0 "
        "lets the system choose."
    )
    freebind: Flag = Field(
        default=False, description="Bind even if the address does not exist yet (Linux)."
    )
    compression: HttpCompressionSpec | None = Field(
        default=None, description="gRPC message compression. Unset: none."
    )
    advanced_http: Annotated[AdvancedHttpSpec, NullIs(AdvancedHttpSpec())] = Field(
        default=AdvancedHttpSpec(), description="Settings that are best left alone."
    )
    max_decoding_message_size: Annotated[Size, Zero(4 * 1024**2)] = Field(
        default=4 * 1024**2,
        description="Bytes of the largest gRPC message accepted. Batches of blobs are limited to "
        "64 KiB less, as clients are told; a BatchUpdateBlobs request may be longer by the names "
        "of its blobs.",
    )
    tls: Annotated[
        TlsSpec | None,
        AfterValidator(lambda tls: None if tls is None or tls.mode is TlsMode.OFF else tls),
    ] = Field(default=None, description="TLS. Unset: plain text.")

    @property
    def host(self) -> str:
        """Address or name to listen on; `0.0.0.0` where none was given."""
        return split_address(self.socket_address)[0]

    @property
    def port(self) -> int:
        """Port to listen on."""
        return split_address(self.socket_address)[1]


class ListenerSpec(Spec):
    """A listener, under the key that names its kind."""

    http: HttpListenerSpec = Field(description="TCP.")


class IdentityHeaderSpec(Spec):
    """How requests say who sent them. The identity is read from the W3C baggage `enduser.id`."""

    header_name: Annotated[Text, NoEffect("the baggage header is read")] | None = Field(
        default=None, description="Accepted from existing files."
    )
    required: Flag = Field(
        default=False, description="Refuse requests that do not say who sent them."
    )


class ServerSpec(Spec):
    """A listener with its services."""

    name: Text = Field(
        default="",
        description="Seen in logs and metrics. Empty: its position in the list.",
    )
    listener: ListenerSpec = Field(description="Where it listens.")
    services: ServicesSpec = Field(description="What it offers.")
    experimental_identity_header: Annotated[IdentityHeaderSpec, NullIs(IdentityHeaderSpec())] = (
        Field(default=IdentityHeaderSpec(), description="How requests say who sent them.")
    )
