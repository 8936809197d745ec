from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.google.bytestream import bytestream_pb2 as pb
from nativelink.services.wire import parse_write_request, varint

INT64 = st.integers(-(2**63), 2**63 - 1)
requests = st.builds(
    pb.WriteRequest,
    resource_name=st.text(max_size=40),
    write_offset=INT64,
    finish_write=st.booleans(),
    data=st.binary(max_size=300),
)


def fields(raw: bytes) -> tuple[str, int, bool, bytes]:
    request = parse_write_request(raw)
    return (
        request.resource_name,
        request.write_offset,
        request.finish_write,
        bytes(request.data),
    )


def protobufs(message: pb.WriteRequest) -> tuple[str, int, bool, bytes]:
    return message.resource_name, message.write_offset, message.finish_write, message.data


@given(requests)
def test_a_request_reads_as_protobuf_reads_it(message: pb.WriteRequest) -> None:
    raw = message.SerializeToString()
    assert fields(raw) == protobufs(message)
    assert fields(memoryview(raw)) == protobufs(message)


@given(requests, requests)
def test_of_repeated_fields_the_last_counts(one: pb.WriteRequest, two: pb.WriteRequest) -> None:
    raw = one.SerializeToString() + two.SerializeToString()
    assert fields(raw) == protobufs(pb.WriteRequest.FromString(raw))


@given(st.binary(max_size=40))
@example(b"\x52\x05abc")
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x10" + b"\xff" * 10 + b"\x01")
@example(b"\x10" + b"\xff" * 9 + b"\x7f")
@example(b"\x0b\x0c")
@example(b"\x02\x01a")
@example(b"\x0d\x01")
def test_garbage_is_refused_or_read_as_protobuf_reads_it(raw: bytes) -> None:
    try:
        ours = fields(raw)
    except NativeLinkError as error:
        assert error.code is Code.INVALID_ARGUMENT  # noqa: PT017 - either outcome is right
        return
    try:
        theirs = protobufs(pb.WriteRequest.FromString(raw))
    except DecodeError:
        # Details of fields that nobody knows: protobuf looks closer at them than we do.
        return
    assert ours == theirs


@pytest.mark.parametrize(
    "unknown", [b"\x78\x05", b"\x7d\x01\x02\x03\x04", b"\x79" + bytes(8), b"\x7a\x03abc"]
)
def test_unknown_fields_are_skipped(unknown: bytes) -> None:
    message = pb.WriteRequest(resource_name="a", write_offset=3, data=b"data")
    raw = unknown + message.SerializeToString() + unknown
    assert fields(raw) == ("a", 3, False, b"data")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\x52\x05abc", "longer than it"),
        (b"\x79\x00", "longer than it"),
        (b"\x10", "cut off"),
        (b"\x0a\x01\xff", "garbled"),
        (b"\x0b", "garbled"),
        (b"\x02\x00", "field 0"),
        (b"\x10" + b"\x80" * 11, "more than ten bytes"),
    ],
)
def test_a_malformed_request_says_why(raw: bytes, why: str) -> None:
    with pytest.raises(NativeLinkError, match=why) as raised:
        parse_write_request(raw)
    assert raised.value.code is Code.INVALID_ARGUMENT


def test_data_is_a_view_into_the_message() -> None:
    raw = pb.WriteRequest(data=b"x" * 1000).SerializeToString()
    assert parse_write_request(raw).data.obj is raw


@given(st.integers(0, 2**63 - 1))
@example(0)
@example(127)
@example(128)
@example(16384)
def test_a_varint_is_read_as_the_number(value: int) -> None:
    assert fields(b"\x10" + varint(value))[1] == value
    assert pb.WriteRequest.FromString(b"\x10" + varint(value)).write_offset == value
