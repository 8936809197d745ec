"""Exceptions as statuses, in the one place where that happens."""

import asyncio
import base64
import logging
from urllib.parse import unquote_to_bytes

import pytest

from nativelink.core.digest import Digest
from nativelink.core.errors import BadField, Code, MissingBlob, NativeLinkError, not_found
from nativelink.proto.google.rpc import error_details_pb2, status_pb2
from nativelink.transport.status import encode_metadata, error_of, http_status_of, status_fields


def fields_of(error):
    return dict(status_fields(error))


def decode(value):
    return base64.b64decode(value + b"=" * (-len(value) % 4))


def test_a_plain_error_is_a_number_and_a_text():
    assert status_fields(not_found("no such blob")) == [
        (b"grpc-status", b"5"),
        (b"grpc-message", b"no such blob"),
    ]


def test_the_message_is_percent_encoded_utf_8():
    encoded = fields_of(not_found("100% größe\n\x7f"))[b"grpc-message"]
    assert encoded == b"100%25 gr%C3%B6%C3%9Fe%0A%7F"
    assert unquote_to_bytes(encoded).decode() == "100% größe\n\x7f"


@pytest.mark.parametrize("text", ["a" * 10_000, "ä" * 10_000, "%" * 10_000, "\ud800" * 10_000])
def test_a_long_message_is_cut_to_what_clients_take(text):
    encoded = fields_of(not_found(text))[b"grpc-message"]
    assert len(encoded) <= 2100
    unquote_to_bytes(encoded).decode()


def test_missing_blobs_are_violations_of_a_failed_precondition():
    missing = [MissingBlob(Digest("ab" * 32, 7)), MissingBlob(Digest("cd" * 32, 2**40), "blake3/")]
    error = NativeLinkError(Code.FAILED_PRECONDITION, "gone", details=missing)
    status = status_pb2.Status.FromString(decode(fields_of(error)[b"grpc-status-details-bin"]))
    assert (status.code, status.message) == (9, "gone")
    failure = error_details_pb2.PreconditionFailure()
    assert status.details[0].Unpack(failure)
    assert [(v.type, v.subject) for v in failure.violations] == [
        ("MISSING", f"blobs/{'ab' * 32}/7"),
        ("MISSING", f"blobs/blake3/{'cd' * 32}/{2**40}"),
    ]


def test_more_missing_blobs_than_trailers_hold_are_told_in_part():
    details = [MissingBlob(Digest(f"{n:064x}", n)) for n in range(1000)]
    error = NativeLinkError(Code.FAILED_PRECONDITION, "x" * 5000, details=details)
    fields = status_fields(error)
    assert sum(len(name) + len(value) + 32 for name, value in fields) < 8192
    status = status_pb2.Status.FromString(decode(dict(fields)[b"grpc-status-details-bin"]))
    failure = error_details_pb2.PreconditionFailure()
    assert status.details[0].Unpack(failure)
    assert len(failure.violations) > 20


def test_bad_fields_are_violations_of_an_invalid_argument():
    bad = [BadField("qualifiers.name", '"vcs.commit" not supported'), BadField("uris", "ä\ud800")]
    error = NativeLinkError(Code.INVALID_ARGUMENT, "no", details=bad)
    status = status_pb2.Status.FromString(decode(fields_of(error)[b"grpc-status-details-bin"]))
    assert (status.code, status.message) == (3, "no")
    request = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(request)
    assert [(v.field, v.description) for v in request.field_violations] == [
        ("qualifiers.name", '"vcs.commit" not supported'),
        ("uris", "ä?"),
    ]


def test_a_missing_blob_under_another_code_has_no_details():
    error = NativeLinkError(Code.NOT_FOUND, "gone", details=[MissingBlob(Digest("ab" * 32, 7))])
    assert b"grpc-status-details-bin" not in fields_of(error)


def test_a_group_of_one_is_its_child():
    error = not_found("x")
    assert error_of(ExceptionGroup("g", [ExceptionGroup("h", [error])]), "m") is error


def test_a_group_of_several_is_the_first_code_with_every_distinct_message():
    blob = MissingBlob(Digest("ab" * 32, 7))
    group = ExceptionGroup(
        "g",
        [
            NativeLinkError(Code.FAILED_PRECONDITION, "one", details=[blob]),
            not_found("two"),
            not_found("two"),
        ],
    )
    error = error_of(group, "m")
    assert (error.code, error.message) == (Code.FAILED_PRECONDITION, "one; two")
    assert error.details == (blob,)


def test_a_bug_is_internal_with_an_id_that_the_log_has_too(caplog):
    with caplog.at_level(logging.ERROR):
        try:
            raise KeyError("secret")
        except KeyError as raised:
            error = error_of(raised, "/a.B/C")
    assert error.code is Code.INTERNAL
    assert "secret" not in error.message
    incident = error.message.split("incident ")[1].split(";")[0]
    assert incident in caplog.text
    assert "/a.B/C" in caplog.text
    assert "Traceback" in caplog.text


def test_a_bug_beside_an_error_is_still_a_bug(caplog):
    group = ExceptionGroup("g", [not_found("x"), KeyError("secret")])
    assert error_of(group, "m").code is Code.INTERNAL
    assert "incident" in caplog.text


def test_a_handler_cancelled_by_us_is_unavailable():
    assert error_of(asyncio.CancelledError(), "m").code is Code.UNAVAILABLE


def test_binary_metadata_travels_in_base64():
    assert encode_metadata([(b"a", b"x"), (b"b-bin", b"\x00\xff")]) == [
        (b"a", b"x"),
        (b"b-bin", b"AP8"),
    ]


@pytest.mark.parametrize(
    ("code", "status"), [(Code.NOT_FOUND, 404), (Code.INTERNAL, 500), (Code.UNAVAILABLE, 503)]
)
def test_plain_http_gets_the_status_that_says_the_same(code, status):
    assert http_status_of(code) == status
