"""What a request asks for."""

import base64
import hashlib
import json
from collections.abc import Sequence

import pytest

from nativelink.core.errors import BadField, Code, NativeLinkError
from nativelink.proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as pb
from nativelink.services.remote_asset.qualifiers import Query, parse_qualifiers

URIS = ("https://a.org/x", "https://b.org/x")
SRI = "sha256-" + base64.b64encode(hashlib.sha256(b"x").digest()).decode()


def query(*qualifiers: tuple[str, str], uris: Sequence[str] = URIS) -> Query:
    return parse_qualifiers(
        uris, [pb.Qualifier(name=name, value=value) for name, value in qualifiers]
    )


def error_of(*qualifiers: tuple[str, str]) -> NativeLinkError:
    with pytest.raises(NativeLinkError) as raised:
        query(*qualifiers).headers()
    assert raised.value.code is Code.INVALID_ARGUMENT
    return raised.value


@pytest.mark.parametrize("uris", [(), ("",), ("https://a.org", ""), ["https://a.org"] * 65])
def test_one_uri_at_least_is_needed_and_not_too_many(uris: Sequence[str]) -> None:
    with pytest.raises(NativeLinkError) as raised:
        query(uris=uris)
    assert raised.value.code is Code.INVALID_ARGUMENT


def test_a_qualifier_has_a_name() -> None:
    error_of(("", "x"))


def test_there_are_not_too_many_qualifiers() -> None:
    error_of(*[("a", str(number)) for number in range(257)])


def test_bazels_headers_are_for_every_mention_of_a_uri_and_no_other() -> None:
    said = {URIS[1]: {"Authorization": "x"}, "https://c.org/x": {"Authorization": "y"}}
    asked = query(("bazel.auth_headers", json.dumps(said)), uris=(*URIS, URIS[1]))
    assert asked.headers() == ((), (("Authorization", "x"),), (("Authorization", "x"),))


def test_headers_are_for_all_uris_or_for_one() -> None:
    asked = query(
        ("http_header:Authorization", "Bearer a"),
        ("http_header:X-Own", "1"),
        ("http_header_url:1:authorization", "Bearer b"),
        ("http_header_url:1:authorization", "Bearer c"),
        ("checksum.sri", SRI),
    )

    assert asked.headers() == (
        (("Authorization", "Bearer a"), ("X-Own", "1")),
        (("authorization", "Bearer b"), ("authorization", "Bearer c"), ("X-Own", "1")),
    )


def test_headers_as_bazel_sent_them_before_it_had_qualifiers_for_each() -> None:
    asked = query(
        ("bazel.auth_headers", json.dumps({URIS[1]: {"Authorization": "Basic eA=="}, "other": {}}))
    )

    assert asked.headers() == ((), (("Authorization", "Basic eA=="),))


@pytest.mark.parametrize(
    "qualifier",
    [
        ("http_header:X Y", "a"),
        ("http_header:", "a"),
        ("http_header:X", "a\r\nb: c"),
        ("http_header:X", "ü"),
        ("http_header:X", " a"),
        ("http_header:Host", "inside.example.org"),
        ("http_header:Range", "bytes=0-1"),
        ("http_header:transfer-encoding", "chunked"),
        ("http_header_url:2:X", "a"),
        ("http_header_url:-1:X", "a"),
        ("http_header_url:x:X", "a"),
        ("http_header_url:0", "a"),
        ("bazel.auth_headers", "{"),
        ("bazel.auth_headers", "[]"),
        ("bazel.auth_headers", '{"a": {"b": 1}}'),
        ("bazel.auth_headers", "[" * 100_000),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused(qualifier: tuple[str, str]) -> None:
    assert "secret" not in error_of(qualifier).message


def test_the_value_of_a_malformed_header_is_not_repeated() -> None:
    assert "secret" not in error_of(("http_header:X", "secret\n")).message


def test_what_bazel_would_accept_compressed_comes_as_it_is() -> None:
    assert query(("http_header:Accept-Encoding", "gzip")).headers() == ((), ())


def test_with_a_checksum_it_does_not_matter_who_asks() -> None:
    header = ("http_header:Authorization", "Bearer a")

    assert query(header).identities == ((header,),)
    assert query(header, ("checksum.sri", SRI)).identities == (
        (header, ("checksum.sri", SRI)),
        (("checksum.sri", SRI),),
    )
    assert query(("checksum.sri", SRI)).identities == ((("checksum.sri", SRI),),)


def test_every_checksum_counts() -> None:
    other = "sha512-" + base64.b64encode(hashlib.sha512(b"x").digest()).decode()

    checksums = query(
        ("checksum.sri", SRI), ("checksum.sri", other), ("checksum.sri", SRI)
    ).checksums

    assert [each.algorithm for each in checksums] == ["sha256", "sha512"]


def test_downloads_must_not_pass_over_what_they_do_not_know() -> None:
    query(
        ("checksum.sri", SRI),
        ("http_header:X", "1"),
        ("http_header_url:0:X", "1"),
        ("bazel.auth_headers", "{}"),
        ("bazel.canonical_id", "x"),
        ("resource_type", "application/octet-stream"),
    ).require_downloadable()
    for name, value in (
        ("vcs.commit", "abc"),
        ("directory", "sub"),
        ("resource_type", "application/x-git"),
        ("checksum.md5", "x"),
    ):
        with pytest.raises(NativeLinkError, match=name) as raised:
            query((name, value)).require_downloadable()
        assert raised.value.code is Code.INVALID_ARGUMENT
        (detail,) = raised.value.details
        assert isinstance(detail, BadField)
        assert detail.field == "qualifiers.name"
        assert name in detail.description
