"""How what a peer reports in trailers becomes a `NativeLinkError`: `status.py` the other way.

Unknown details and unknown fields are passed over: what a peer adds is not its fault.
Source: "gRPC over HTTP2" (Responses), google.rpc.Status, google.rpc.PreconditionFailure; REAPI
v2, Execution.Execute, for the subject of a MISSING violation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from nativelink.core.digest import Digest
from nativelink.core.errors import Code, Detail, MissingBlob, NativeLinkError

__all__ = ["error_of_peer", "missing_of"]

_DETAILS: Final = "grpc-status-details-bin"
_PRECONDITION_FAILURE: Final = b"/google.rpc.PreconditionFailure"
#: `blobs/{hash}/{size}`, behind an instance name and before a digest function or not.
_SUBJECT: Final = re.compile(rb"(?:^|/)blobs/([a-z0-9]+/)?([0-9a-fA-F]{64})/([0-9]{1,19})$")
#: SHA-256 must not be named, but is by some.
_UNNAMED: Final = frozenset({b"", b"sha256/"})


def error_of_peer(
    code: int, message: str, trailers: Iterable[tuple[str, str | bytes]]
) -> NativeLinkError:
    """The error that a peer answered with.

    Args:
        code: `grpc-status`; a number that no code has counts as UNKNOWN.
        message: `grpc-message`, decoded.
        trailers: names lower case, values of `-bin` names decoded.
    """
    details: tuple[Detail, ...] = ()
    for name, value in trailers:
        if name == _DETAILS and isinstance(value, bytes):
            details = missing_of(value)
    try:
        known = Code(code)
    except ValueError:
        known = Code.UNKNOWN
    return NativeLinkError(known, message or f"{known.name} without a message", details=details)


def missing_of(status: bytes) -> tuple[Detail, ...]:
    """The blobs that a serialized `google.rpc.Status` says are missing; none if it is damaged."""
    try:
        return tuple(_missing(status))
    except (IndexError, ValueError):
        return ()


def _missing(status: bytes) -> Iterator[MissingBlob]:
    for tag, packed in _fields(status):
        if tag != 3:  # details
            continue
        fields = dict(_fields(packed))
        if not fields.get(1, b"").endswith(_PRECONDITION_FAILURE):
            continue
        for inner, violation in _fields(fields.get(2, b"")):
            if inner != 1:  # violations
                continue
            said = dict(_fields(violation))
            subject = _SUBJECT.search(said.get(2, b""))
            if said.get(1) == b"MISSING" and subject is not None:
                segment = subject[1] or b""
                digest = Digest(subject[2].decode().lower(), int(subject[3]))
                yield MissingBlob(digest, "" if segment in _UNNAMED else segment.decode())


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message, in order.

    Raises:
        ValueError, IndexError: these are no protobuf fields.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(data, at)
                if at + size > len(data):
                    raise ValueError("a field ends behind its message")
                yield key >> 3, data[at : at + size]
                at += size
            case 5:
                at += 4
            case kind:
                raise ValueError(f"unknown wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
