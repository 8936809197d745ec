"""What peers report, ours and others', becomes our error again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nativelink.core.digest import Digest
from nativelink.core.errors import Code, MissingBlob, failed_precondition
from nativelink.proto.google.rpc import error_details_pb2, status_pb2
from nativelink.transport.peer_status import error_of_peer, missing_of
from nativelink.transport.status import encode_status

DIGESTS = [Digest("ab" * 32, 7), Digest("cd" * 32, 2**40)]


def status(*subjects: str, kind: str = "MISSING") -> bytes:
    failure = error_details_pb2.PreconditionFailure(
        violations=[
            error_details_pb2.PreconditionFailure.Violation(
                type=kind, subject=subject, description="gone"
            )
            for subject in subjects
        ]
    )
    told = status_pb2.Status(code=9, message="missing")
    told.details.add().Pack(error_details_pb2.RetryInfo())
    told.details.add().Pack(failure)
    return told.SerializeToString()


def test_what_we_report_is_what_we_read() -> None:
    missing = [MissingBlob(digest, segment) for digest in DIGESTS for segment in ("", "blake3/")]
    encoded = encode_status(failed_precondition("missing", details=missing))
    assert missing_of(encoded) == tuple(missing)


@pytest.mark.parametrize(
    "subject",
    [
        "blobs/{hash}/7",
        "an/instance/blobs/{hash}/7",
        "blobs/sha256/{hash}/7",
        "blobs/{HASH}/7",
    ],
)
def test_all_forms_of_a_name_are_read(subject: str) -> None:
    hash_ = DIGESTS[0].hash
    text = subject.format(hash=hash_, HASH=hash_.upper())
    assert missing_of(status(text)) == (MissingBlob(DIGESTS[0]),)


@pytest.mark.parametrize("subject", ["", "blobs/abc/7", "files/{hash}/7", "blobs/{hash}/-7"])
def test_what_is_no_name_of_a_blob_is_passed_over(subject: str) -> None:
    assert missing_of(status(subject.format(hash=DIGESTS[0].hash))) == ()


def test_violations_of_other_types_are_passed_over() -> None:
    assert missing_of(status(f"blobs/{DIGESTS[0].hash}/7", kind="TOO_OLD")) == ()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    missing_of(data)


@given(st.integers(0, len(status(f"blobs/{DIGESTS[0].hash}/7"))))
def test_a_status_that_was_cut_off_is_read_without_an_error(length: int) -> None:
    missing_of(status(f"blobs/{DIGESTS[0].hash}/7")[:length])


def test_an_error_has_code_message_and_details() -> None:
    trailers: list[tuple[str, str | bytes]] = [
        ("x", "y"),
        ("grpc-status-details-bin", status(f"blobs/{DIGESTS[0].hash}/7")),
    ]
    error = error_of_peer(9, "missing", trailers)
    assert (error.code, error.message) == (Code.FAILED_PRECONDITION, "missing")
    assert error.details == (MissingBlob(DIGESTS[0]),)


def test_a_code_that_nobody_knows_is_unknown() -> None:
    error = error_of_peer(77, "", ())
    assert (error.code, error.message) == (Code.UNKNOWN, "UNKNOWN without a message")
