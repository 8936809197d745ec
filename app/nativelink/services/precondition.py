"""Missing blobs inside a `google.rpc.Status`, for statuses that travel in messages.

The transport writes the status of a call; these are for `ExecuteResponse.status` and
`ExecuteResult.internal_error`. Source: REAPI v2, Execution.Execute: a PreconditionFailure with a
violation of type MISSING and the subject `blobs/{function/}{hash}/{size}` for each blob, which
makes clients upload them and ask again. SHA-256 must not be named in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from nativelink.core.digest import Digest, DigestFunction
from nativelink.proto.google.protobuf import any_pb2
from nativelink.proto.google.rpc import error_details_pb2, status_pb2

__all__ = ["missing_in", "missing_status"]

_TYPE: Final = error_details_pb2.PreconditionFailure.DESCRIPTOR.full_name
_MISSING: Final = "MISSING"
#: An instance name may stand before it and a digest function in it (REAPI v2, ByteStream names).
_SUBJECT: Final = re.compile(r"(?:^|/)blobs/(?:[a-z0-9]+/)?([0-9a-fA-F]{64})/([0-9]{1,18})$")
#: 10,000 violations of some 100 bytes are 1 MB, a quarter of what clients take in one message. A
#: client that uploads these and asks again hears of the others.
_MAX_VIOLATIONS: Final = 10_000


def missing_status(
    code: int, message: str, missing: Sequence[Digest], function: DigestFunction
) -> status_pb2.Status:
    """A status that names blobs which the CAS lacks.

    Args:
        code: its gRPC code.
        message: for people.
        missing: none makes a status without details.
        function: made their digests.
    """
    status = status_pb2.Status(code=code, message=message)
    if missing:
        failure = error_details_pb2.PreconditionFailure()
        for digest in missing[:_MAX_VIOLATIONS]:
            failure.violations.add(
                type=_MISSING,
                subject=f"blobs/{function.segment}{digest.hash}/{digest.size_bytes}",
            )
        status.details.add(
            type_url=f"type.googleapis.com/{_TYPE}", value=failure.SerializeToString()
        )
    return status


def missing_in(status: status_pb2.Status) -> tuple[Digest, ...]:
    """The blobs that a status says are missing, each once; what cannot be read is passed over."""
    found: dict[Digest, None] = {}
    for detail in status.details:
        for violation in _violations(detail):
            subject = _SUBJECT.search(violation.subject)
            if violation.type == _MISSING and subject is not None:
                found[Digest(subject[1].lower(), int(subject[2]))] = None
    return tuple(found)


def _violations(
    detail: any_pb2.Any,
) -> Sequence[error_details_pb2.PreconditionFailure.Violation]:
    if detail.type_url.rpartition("/")[2] != _TYPE:
        return ()
    try:
        return error_details_pb2.PreconditionFailure.FromString(detail.value).violations
    except DecodeError:
        return ()
