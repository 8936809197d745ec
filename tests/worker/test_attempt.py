"""How a try of an action is reported."""

from __future__ import annotations

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import (
    Code,
    MissingBlob,
    NativeLinkError,
    failed_precondition,
    invalid_argument,
)
from nativelink.proto.google.rpc import error_details_pb2, status_pb2
from nativelink.worker.attempt import is_final, set_status


def test_a_status_fits_into_a_message_however_many_blobs_are_missing() -> None:
    missing = [MissingBlob(Digest(f"{number:064x}", 1)) for number in range(60_000)]
    status = status_pb2.Status()

    set_status(status, failed_precondition("gone", details=missing))

    assert status.code == Code.FAILED_PRECONDITION
    assert status.ByteSize() < 3 << 20
    failure = error_details_pb2.PreconditionFailure()
    assert status.details[0].Unpack(failure)
    assert {each.subject for each in failure.violations} <= {
        f"blobs/{each.digest.hash}/1" for each in missing
    }
    assert len(failure.violations) == 10_000


def test_a_missing_blob_is_named_as_in_byte_stream() -> None:
    status = status_pb2.Status()
    digest = DigestFunction.BLAKE3.digest_of(b"input")

    error = failed_precondition("gone", details=[MissingBlob(digest)])
    set_status(status, error, DigestFunction.BLAKE3)

    failure = error_details_pb2.PreconditionFailure()
    assert status.details[0].Unpack(failure)
    assert failure.violations[0].subject == f"blobs/blake3/{digest.hash}/5"


@pytest.mark.parametrize(
    "error",
    [
        invalid_argument("an argument has a NUL byte"),
        failed_precondition("gone", details=[MissingBlob(Digest("0" * 64, 1))]),
    ],
)
def test_what_is_wrong_with_the_action_is_final(error: NativeLinkError) -> None:
    assert is_final(error)


@pytest.mark.parametrize(
    "error",
    [
        # Of the worker's own stores and directories.
        failed_precondition("the directory of executables is not writable"),
        NativeLinkError(Code.PERMISSION_DENIED, "no AWS credentials"),
        NativeLinkError(Code.UNIMPLEMENTED, "the slow store takes no blobs"),
        NativeLinkError(Code.UNAVAILABLE, "connection reset"),
        NativeLinkError(Code.RESOURCE_EXHAUSTED, "no space left"),
    ],
)
def test_what_is_wrong_with_the_machine_is_tried_elsewhere(error: NativeLinkError) -> None:
    assert not is_final(error)
