"""Value types that several parts of the configuration share."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from nativelink.config.fields import (
    EXTENSION,
    Expansion,
    Flag,
    Fraction64,
    Items,
    Kind,
    NoEffect,
    NullIs,
    Number,
    PathText,
    Seconds,
    Size,
    Spec,
    Text,
    Zero,
)

__all__ = [
    "ClientTlsSpec",
    "ErrorCode",
    "EvictionSpec",
    "GrpcEndpointSpec",
    "OptionalClientTls",
    "RetrySpec",
    "SocketAddress",
    "TlsMode",
    "TlsModeText",
    "split_address",
]

_ADDRESS = 'ADDRESS:PORT such as "0.0.0.0:50051" or "[::1]:50051"; ":50051" is all addresses'


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port` or `:port`.

    Raises:
        ValueError: there is no port, or it is not in 0..65535, or the host is no IP address: names
            are not looked up, because one name may be several addresses.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("no port")
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ValueError("the port is not a number from 0 to 65535")
    if not host:
        return "0.0.0.0", int(port)  # noqa: S104 - ":50051" asks for all addresses
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        raise ValueError("names are not looked up: an IP address is needed") from None
    if (version == 6) is not (bare is not host):
        raise ValueError("an IPv6 address, and no other, is put into [ ]")
    return bare, int(port)


def _checked_address(text: str) -> str:
    try:
        split_address(text)
    except ValueError as error:
        raise PydanticCustomError(
            "value", "{what}", {"what": str(error), "allowed": _ADDRESS}
        ) from None
    return text


#: Where to listen: what `split_address` reads.
SocketAddress = Annotated[Text, AfterValidator(_checked_address)]


class ErrorCode(StrEnum):
    """gRPC status codes as `retry_on_errors` spells them."""

    CANCELLED = "Cancelled"
    UNKNOWN = "Unknown"
    INVALID_ARGUMENT = "InvalidArgument"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    NOT_FOUND = "NotFound"
    ALREADY_EXISTS = "AlreadyExists"
    PERMISSION_DENIED = "PermissionDenied"
    RESOURCE_EXHAUSTED = "ResourceExhausted"
    FAILED_PRECONDITION = "FailedPrecondition"
    ABORTED = "Aborted"
    OUT_OF_RANGE = "OutOfRange"
    UNIMPLEMENTED = "Unimplemented"
    INTERNAL = "Internal"
    UNAVAILABLE = "Unavailable"
    DATA_LOSS = "DataLoss"
    UNAUTHENTICATED = "Unauthenticated"


#: Failures that the same request may survive next time.
RETRIED_BY_DEFAULT = (
    ErrorCode.CANCELLED,
    ErrorCode.UNKNOWN,
    ErrorCode.DEADLINE_EXCEEDED,
    ErrorCode.RESOURCE_EXHAUSTED,
    ErrorCode.ABORTED,
    ErrorCode.INTERNAL,
    ErrorCode.UNAVAILABLE,
    ErrorCode.DATA_LOSS,
)


class EvictionSpec(Spec):
    """When entries leave a store, the least recently used first. Several limits may be set."""

    max_bytes: Size = Field(
        default=0, description="Evict once the store holds more than this many bytes. 0: no limit."
    )
    evict_bytes: Size = Field(
        default=0,
        description=(
            "When `max_bytes` is exceeded, evict this many bytes below it, so that a full store "
            "does not evict at every write. Must be smaller than `max_bytes`. 0: down to "
            "`max_bytes` only."
        ),
    )
    max_seconds: Seconds = Field(
        default=0,
        description="Evict an entry that nobody used for this many seconds. 0: never for its age.",
    )
    max_count: Number = Field(
        default=0, description="Evict once the store has more than this many entries. 0: no limit."
    )


class RetrySpec(Spec):
    """How often and how long after each other a failing request is tried again.

    The pause before retry n (1, 2, …) is `delay * 2^n` seconds, multiplied by a random factor
    between `1 - jitter / 2` and `1 + jitter / 2`.
    """

    max_retries: Number = Field(
        default=0, description="Tries after the first one. 0: a failure is final."
    )
    delay: Fraction64 = Field(
        default=0.0, description="Base of the pauses, in seconds; the first pause is twice as long."
    )
    jitter: Fraction64 = Field(
        default=0.0,
        description="Width of the random spread of a pause as a part of it, 0.0 to 1.0. 0: none.",
    )
    retry_on_errors: Annotated[tuple[Annotated[ErrorCode, Items], ...], Items] = Field(
        default=RETRIED_BY_DEFAULT,
        description="The status codes that are worth another try; every other one is final.",
    )


class TlsMode(StrEnum):
    """How much of TLS there is."""

    OFF = "off"
    SERVER = "server"
    MUTUAL = "mutual"


def _read_mode(kind: Kind, raw: object) -> object:
    if isinstance(raw, str) and raw in tuple(TlsMode):
        return TlsMode(raw)
    raise kind.wrong("no such mode")


#: A mode; unlike other words it may come from a variable, so that one file serves all modes.
TlsModeText = Annotated[
    TlsMode,
    Kind(
        "text",
        '"off", "server" or "mutual"',
        Expansion.ENVIRONMENT,
        _read_mode,
        ({"enum": [*TlsMode]}, {"type": "string", "pattern": r"\$"}),
    ),
]


class ClientTlsSpec(Spec):
    """TLS of a connection that this process opens."""

    mode: Annotated[TlsModeText, EXTENSION] | None = Field(
        default=None,
        description="`off`: as if this was not here. `server`: no certificate is shown, whatever "
        "`cert_file` says. `mutual`: one is. Unset: what the other keys say. In quotes, variables "
        "expand, so that one file serves all modes.",
    )

    ca_file: PathText | None = Field(
        default=None,
        description="PEM file with the authorities that may vouch for the server. Needed unless "
        "`use_native_roots` is set.",
    )
    cert_file: PathText | None = Field(
        default=None,
        description="PEM certificate that this process shows (mutual TLS); needs `key_file`.",
    )
    key_file: PathText | None = Field(
        default=None, description="PEM private key that belongs to `cert_file`."
    )
    use_native_roots: Annotated[Flag, NullIs(False)] = Field(
        default=False,
        description="Trust the authorities of the operating system instead of `ca_file`.",
    )

    @model_validator(mode="after")
    def _as_the_mode_says(self) -> ClientTlsSpec:
        match self.mode:
            case TlsMode.MUTUAL if self.cert_file is None:
                raise PydanticCustomError("mode", 'the mode "mutual" needs "cert_file"')
            case TlsMode.SERVER if self.cert_file is not None:
                return self.model_copy(update={"cert_file": None, "key_file": None})
            case _:
                return self


#: TLS of a connection; None where there is none.
OptionalClientTls = Annotated[
    ClientTlsSpec | None,
    AfterValidator(lambda tls: None if tls is None or tls.mode is TlsMode.OFF else tls),
]


class GrpcEndpointSpec(Spec):
    """One upstream gRPC server."""

    address: Text = Field(
        description="`grpc://host:port` for plain text, `grpcs://host:port` for TLS (`http` and "
        "`https` mean the same).",
    )
    tls_config: OptionalClientTls = Field(
        default=None, description="Required with a TLS address, refused with a plain one."
    )
    concurrency_limit: Number | None = Field(
        default=None, description="Requests in flight on this endpoint. Unset: no limit."
    )
    connect_timeout_s: Annotated[Seconds, Zero(30)] = Field(
        default=30, description="Seconds until an attempt to connect is given up."
    )
    tcp_keepalive_s: Annotated[
        Seconds, Zero(30), NoEffect("http2_keepalive_interval_s notices a dead connection")
    ] = Field(default=30, description="Accepted from old files.")
    http2_keepalive_interval_s: Annotated[Seconds, Zero(30)] = Field(
        default=30, description="Seconds between HTTP/2 pings that notice a dead connection."
    )
    http2_keepalive_timeout_s: Annotated[Seconds, Zero(20)] = Field(
        default=20,
        description="Seconds that a ping may stay unanswered before the connection is closed.",
    )
