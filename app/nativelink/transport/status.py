"""How an exception becomes `grpc-status`, `grpc-message` and `grpc-status-details-bin`.

The one place where that happens. Source: "gRPC over HTTP2" (Responses), google.rpc.Status,
google.rpc.PreconditionFailure and google.rpc.BadRequest. The few bytes of protobuf are written by
hand, so that the transport needs no generated code.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import secrets
from collections.abc import Sequence
from typing import Final

from nativelink.core.errors import BadField, Code, Detail, NativeLinkError
from nativelink.transport.fields import Field

__all__ = ["encode_metadata", "encode_status", "error_of", "http_status_of", "status_fields"]

_log = logging.getLogger(__name__)

_ESCAPED: Final = re.compile(rb"[^\x20-\x24\x26-\x7e]")

# Clients take 8 KiB of trailers (grpc-java, gRPC core); one that gets more reports an error of its
# own instead of ours.
_MAX_MESSAGE_BYTES: Final = 2048
_MAX_DETAILS_BYTES: Final = 3 * 1024

#: Codes that have details: the message of those.
_DETAILED: Final = {
    Code.FAILED_PRECONDITION: b"type.googleapis.com/google.rpc.PreconditionFailure",
    Code.INVALID_ARGUMENT: b"type.googleapis.com/google.rpc.BadRequest",
}

_HTTP_STATUS: Final = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 416,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


def error_of(raised: BaseException, where: str) -> NativeLinkError:
    """What the client is told about an exception that left a handler.

    An `ExceptionGroup` of one is its child; of several it is the first code with all distinct
    messages. What is no `NativeLinkError` is a defect of ours: INTERNAL with a random id, under
    which the log has the story.

    Args:
        raised: the exception.
        where: the method or route, for the log.
    """
    if isinstance(raised, NativeLinkError):
        return raised
    errors = _leaves(raised)
    ours = [error for error in errors if isinstance(error, NativeLinkError)]
    if len(ours) == len(errors):
        first = ours[0]
        if len(ours) == 1:
            return first
        return NativeLinkError(
            first.code,
            "; ".join(dict.fromkeys(error.message for error in ours)),
            details=[detail for error in ours for detail in error.details],
            retryable=first.retryable,
        )
    if all(isinstance(error, asyncio.CancelledError) for error in errors):
        # Not the peer and not the deadline, so it is our shutdown: clients may go elsewhere.
        return NativeLinkError(Code.UNAVAILABLE, "the server stopped the call")
    incident = secrets.token_hex(4)
    _log.error("%s failed, incident %s", where, incident, exc_info=raised)
    return NativeLinkError(
        Code.INTERNAL, f"internal error, incident {incident}; the server's log has the story"
    )


def _leaves(raised: BaseException) -> list[BaseException]:
    if isinstance(raised, BaseExceptionGroup):
        return [leaf for child in raised.exceptions for leaf in _leaves(child)]
    return [raised]


def http_status_of(code: Code) -> int:
    """The HTTP status that says the same (google.rpc.Code's comments)."""
    return _HTTP_STATUS.get(code, 500)


def status_fields(error: NativeLinkError) -> list[Field]:
    """The fields of trailers that report `error`."""
    fields = [(b"grpc-status", b"%d" % error.code)]
    text = error.message
    if text:
        fields.append((b"grpc-message", _percent_encode(text)))
    if error.details and error.code in _DETAILED:
        status = encode_status(error)
        fields.append((b"grpc-status-details-bin", _encode_binary(status)))
    return fields


def encode_metadata(metadata: Sequence[Field]) -> list[Field]:
    """Trailing metadata as it travels: `-bin` values in base64."""
    return [
        (name, _encode_binary(value) if name.endswith(b"-bin") else value)
        for name, value in metadata
    ]


def encode_status(error: NativeLinkError) -> bytes:
    """`google.rpc.Status` with the details that have a message of their own.

    A `MissingBlob` is a violation of type MISSING with the subject `blobs/{function/}{hash}/{size}`
    (REAPI v2, Execution.Execute), a `BadField` one of its field. As many as fit into the trailers
    are told; a client that uploads these blobs and asks again hears of the others.
    """
    parts = [
        _field(1, b"", number=int(error.code)),
        _field(2, error.message[:500].encode("utf-8", "replace")),
    ]
    message = _DETAILED.get(error.code)
    if message is not None:
        are_fields = error.code is Code.INVALID_ARGUMENT
        violations = _violations(
            [each for each in error.details if isinstance(each, BadField) == are_fields]
        )
        if violations:
            parts.append(_field(3, _field(1, message) + _field(2, violations)))
    return b"".join(parts)


def _violations(details: Sequence[Detail]) -> bytes:
    out: list[bytes] = []
    size = 0
    for detail in details:
        violation = _violation(detail)
        size += len(violation)
        if size > _MAX_DETAILS_BYTES:
            break
        out.append(violation)
    return b"".join(out)


def _violation(detail: Detail) -> bytes:
    if isinstance(detail, BadField):
        field, description = detail.field.encode(), detail.description.encode("utf-8", "replace")
        return _field(1, _field(1, field) + _field(2, description))
    digest = detail.digest
    subject = f"blobs/{detail.segment}{digest.hash}/{digest.size_bytes}"
    return _field(1, _field(1, b"MISSING") + _field(2, subject.encode()))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(tag: int, data: bytes, *, number: int | None = None) -> bytes:
    """One protobuf field: length-delimited `data`, or the varint `number`."""
    if number is not None:
        return bytes((tag << 3,)) + _varint(number)
    return bytes((tag << 3 | 2,)) + _varint(len(data)) + data


def _percent_encode(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    escaped = _escape(raw)
    if len(escaped) > _MAX_MESSAGE_BYTES:
        # Cut before it is escaped, so that no escape is cut in two.
        kept = raw[: len(raw) * (_MAX_MESSAGE_BYTES // 2) // len(escaped)]
        escaped = _escape(kept.decode("utf-8", "ignore").encode()) + b"..."
    return escaped


def _escape(raw: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: b"%%%02X" % match[0][0], raw)


def _encode_binary(value: bytes) -> bytes:
    # Padding is optional on the wire and left out, as grpc-go does.
    return base64.b64encode(value).rstrip(b"=")
