"""Headers of outgoing calls."""

from __future__ import annotations

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.rpc import CallContext, Peer, current_call
from nativelink.stores.remote.call_metadata import CallMetadata, Headers


def during(metadata: CallMetadata, *fields: tuple[bytes, bytes]) -> Headers:
    """The headers that are made while a call with `fields` is under way."""
    token = current_call.set(CallContext("/s/m", fields, Peer("test:1")))
    try:
        return metadata.now()
    finally:
        current_call.reset(token)


def test_static_headers_are_always_sent() -> None:
    metadata = CallMetadata({"X-Team": "blue", "x-raw-bin": "AP8="})
    expected = (("x-team", "blue"), ("x-raw-bin", b"\x00\xff"))
    assert metadata.now() == expected
    assert during(metadata, (b"x-other", b"1")) == expected


def test_listed_headers_of_the_callers_are_sent_on_and_no_others() -> None:
    metadata = CallMetadata({}, forward_headers=["Authorization", "x-raw-bin"])
    sent = during(
        metadata,
        (b"authorization", b"Bearer x"),
        (b"cookie", b"secret"),
        (b"x-raw-bin", b"AP8"),
    )
    assert sent == (("authorization", "Bearer x"), ("x-raw-bin", b"\x00\xff"))


def test_the_callers_header_wins_over_a_static_one() -> None:
    metadata = CallMetadata(
        {"authorization": "static", "x": "y"}, forward_headers=["authorization"]
    )
    assert during(metadata, (b"authorization", b"mine")) == (("x", "y"), ("authorization", "mine"))


def test_the_place_in_a_trace_and_what_builds_are_told_always() -> None:
    fields = (
        (b"traceparent", b"00-1-2-01"),
        (b"tracestate", b"a=b"),
        (b"baggage", b"c=d"),
        (b"build.bazel.remote.execution.v2.requestmetadata-bin", b"CgA"),
    )
    assert during(CallMetadata(), *fields) == (
        ("traceparent", "00-1-2-01"),
        ("tracestate", "a=b"),
        ("baggage", "c=d"),
        ("build.bazel.remote.execution.v2.requestmetadata-bin", b"\n\x00"),
    )


def test_the_span_under_way_takes_the_place_of_the_callers() -> None:
    metadata = CallMetadata(trace=lambda: [("traceparent", "00-1-3-01")])
    assert during(metadata, (b"traceparent", b"00-1-2-01"), (b"tracestate", b"a=b")) == (
        ("traceparent", "00-1-3-01"),
    )


@pytest.mark.parametrize(
    "field", [(b"x", b"\xff"), (b"x", b"a\x00b"), (b"x-bin", b"!!"), (b"x-bin", b"A")]
)
def test_a_header_that_cannot_be_sent_is_left_out(field: tuple[bytes, bytes]) -> None:
    assert during(CallMetadata(forward_headers=["x", "x-bin"]), field) == ()


@pytest.mark.parametrize("header", [("x", "ä"), ("x", "a\nb"), ("x-bin", "not base64!")])
def test_a_static_header_that_cannot_be_sent_is_refused(header: tuple[str, str]) -> None:
    with pytest.raises(NativeLinkError, match=f"header '{header[0]}'") as caught:
        CallMetadata(dict([header]))
    assert caught.value.code is Code.INVALID_ARGUMENT
