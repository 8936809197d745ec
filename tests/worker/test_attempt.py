"""How a try of an action is reported."""

from __future__ import annotations

from nativelink.core.digest import Digest
from nativelink.core.errors import Code, MissingBlob, failed_precondition
from nativelink.proto.google.rpc import error_details_pb2, status_pb2
from nativelink.worker.attempt import set_status


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
