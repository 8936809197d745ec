from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nativelink.core.digest import (
    MAX_SIZE_BYTES,
    Digest,
    DigestFunction,
    digests_of,
    is_empty,
    parse_many,
)
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

HASH = hashlib.sha256(b"a blob").hexdigest()

hashes = st.one_of(
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.text("0123456789abcdefABCDEF-", min_size=62, max_size=66),
    st.text(max_size=70),
)
sizes = st.one_of(st.integers(0, MAX_SIZE_BYTES), st.integers())


def outcome(parse: object, *arguments: object) -> object:
    try:
        return parse(*arguments)
    except NativeLinkError as error:
        return error.code, error.message


@given(st.lists(st.tuples(hashes, sizes), max_size=6))
def test_many_are_parsed_as_each_alone(pairs: list[tuple[str, int]]) -> None:
    alone = outcome(lambda: [Digest.parse(hash_, size) for hash_, size in pairs])
    assert outcome(parse_many, pairs) == alone


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a" * 63, "b" * 65),
        ("a" * 32 + "-" + "b" * 31, "c" * 64),
        ("a" * 64 + "-" + "b" * 64, ""),
        ("", "a" * 128),
        ("é" * 32, "a" * 64),
        ("\ud800" * 21 + "a", "a" * 64),
    ],
)
def test_no_malformed_hash_hides_behind_another(first: str, second: str) -> None:
    with pytest.raises(NativeLinkError) as raised:
        parse_many([(first, 1), (second, 1)])
    assert raised.value.code is Code.INVALID_ARGUMENT


def test_upper_case_is_folded() -> None:
    assert parse_many([(HASH.upper(), 6)]) == [Digest(HASH, 6)]


def test_messages_become_digests() -> None:
    messages = [pb.Digest(hash=HASH, size_bytes=size) for size in (0, 6, MAX_SIZE_BYTES)]
    digests = digests_of(messages)
    assert digests == [Digest(HASH, 0), Digest(HASH, 6), Digest(HASH, MAX_SIZE_BYTES)]
    assert {type(digest) for digest in digests} == {Digest}


def test_a_digests_string_is_read_back() -> None:
    digest = Digest(HASH, 6)
    assert Digest.from_string(str(digest)) == digest


@pytest.mark.parametrize(
    "text",
    ["", HASH, f"{HASH}-", f"{HASH}--1", f"{HASH}-\u0661", f"x{HASH}-1", f"{HASH}-{'9' * 5000}"],
)
def test_a_malformed_string_names_itself(text: str) -> None:
    with pytest.raises(NativeLinkError, match="malformed digest"):
        Digest.from_string(text)


@pytest.mark.parametrize("function", DigestFunction)
def test_the_empty_blob_has_a_digest_under_each_function(function: DigestFunction) -> None:
    assert is_empty(function.digest_of(b""))
    assert not is_empty(function.digest_of(b"x"))
    assert not is_empty(Digest(HASH, 0))
