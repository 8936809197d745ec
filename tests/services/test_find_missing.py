"""The table of digests against protobuf: any request reads the same with it and without it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from nativelink.core.digest import MAX_SIZE_BYTES, Digest
from nativelink.core.errors import NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.find_missing import DigestTable, parse_question

HASHES = [hashlib.sha256(bytes([n])).hexdigest() for n in range(6)]
digests = st.builds(
    Digest,
    st.sampled_from(HASHES),
    st.one_of(st.integers(0, 300), st.integers(0, MAX_SIZE_BYTES)),
)
instances = st.one_of(
    st.sampled_from(["", "main", "a/b", "x" * 64, "y" * 63, "\n@", "@" * 10]),
    st.text("\n@a\x12D", max_size=70),
)


def request_of(
    asked: Sequence[Digest], instance: str = "", function: int = 0
) -> pb.FindMissingBlobsRequest:
    return pb.FindMissingBlobsRequest(
        instance_name=instance,
        blob_digests=[pb.Digest(hash=d.hash, size_bytes=d.size_bytes) for d in asked],
        digest_function=function,  # type: ignore[arg-type]
    )


def ask(table: DigestTable, raw: bytes, absent: frozenset[Digest]) -> tuple[list[Digest], bytes]:
    """The digests as the table reads them, and the answer if `absent` are absent."""
    question = parse_question(raw)
    read, pieces = table.read(question)
    sizes = [None if digest in absent else digest.size_bytes for digest in read]
    return read, table.answer(question, read, pieces, sizes)


def expected_answer(asked: Sequence[Digest], absent: frozenset[Digest]) -> bytes:
    missing = [digest for digest in asked if digest in absent]
    return pb.FindMissingBlobsResponse(
        missing_blob_digests=[pb.Digest(hash=d.hash, size_bytes=d.size_bytes) for d in missing]
    ).SerializeToString()


@given(
    st.lists(
        st.tuples(st.lists(digests, max_size=6), instances, st.sampled_from([0, 1, 9])),
        min_size=1,
        max_size=4,
    ),
    st.frozensets(digests, max_size=4),
    st.booleans(),
)
def test_a_table_reads_and_answers_as_protobuf_does(
    questions: list[tuple[list[Digest], str, int]], absent: frozenset[Digest], all_absent: bool
) -> None:
    table = DigestTable()
    # Twice, so that everything is asked when it is new and when it is known.
    for asked, instance, function in questions * 2:
        gone = frozenset(asked) if all_absent else absent
        raw = request_of(asked, instance, function).SerializeToString()
        read, answer = ask(table, raw, gone)
        assert read == asked
        assert answer == expected_answer(asked, gone)


@given(
    st.lists(digests, min_size=1, max_size=3),
    st.lists(
        st.sampled_from(
            [
                b"\x18\x09",  # digest_function before the digests
                b"\x0a\x04main",  # the instance name after them, or twice
                b"\x7a\x02\x0a\x40",  # unknown fields
                b"\x12\x45\x0a\x40" + HASHES[0].encode() + b"\x10\x80\x00",  # a size in two bytes
                b"\x12\x44\x10\x05\x0a\x40" + HASHES[1].encode(),  # the size before the hash
                b"\x12\x45\x0a\x40" + HASHES[2].encode() + b"\x7a\x01x",  # an unknown field inside
                b"\x12\x86\x01"
                + (b"\x0a\x40" + HASHES[3].encode()) * 2
                + b"\x10\x01",  # two hashes
            ]
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
def test_an_unusual_encoding_is_read_all_the_same(
    asked: list[Digest], unusual: list[bytes], known: bool
) -> None:
    table = DigestTable()
    usual = request_of(asked).SerializeToString()
    if known:
        ask(table, usual, frozenset())
        ask(table, usual + b"\x18\x09", frozenset())
    raw = unusual[0] + usual + b"".join(unusual[1:])
    try:
        message = pb.FindMissingBlobsRequest.FromString(raw)
    except DecodeError:
        return
    expected = [Digest(m.hash, m.size_bytes) for m in message.blob_digests]
    for _ in range(2):
        for absent in (frozenset(expected), frozenset(asked[:1]), frozenset[Digest]()):
            read, answer = ask(table, raw, absent)
            assert read == expected
            missing = pb.FindMissingBlobsResponse.FromString(answer).missing_blob_digests
            assert [Digest(m.hash, m.size_bytes) for m in missing] == [
                digest for digest in expected if digest in absent
            ]


@given(st.binary(max_size=200), st.booleans())
@example(request_of([Digest(HASHES[0], 5)]).SerializeToString()[:-1], True)
def test_garbage_after_known_digests_never_reads_as_other_digests(tail: bytes, known: bool) -> None:
    table = DigestTable()
    usual = request_of([Digest(hash_, 77) for hash_ in HASHES]).SerializeToString()
    if known:
        ask(table, usual, frozenset())
    raw = usual + tail
    try:
        question = parse_question(raw)
    except DecodeError:
        return
    expected = [(m.hash, m.size_bytes) for m in question.message.blob_digests]
    try:
        read, _ = table.read(question)
    except NativeLinkError:
        return
    assert [(digest.hash, digest.size_bytes) for digest in read] == [
        (hash_.lower(), size) for hash_, size in expected
    ]


def test_known_digests_are_the_same_objects_again() -> None:
    table = DigestTable()
    raw = request_of([Digest(HASHES[0], 5), Digest(HASHES[1], 6)]).SerializeToString()
    first, _ = table.read(parse_question(raw))
    second, _ = table.read(parse_question(raw))
    assert all(one is two for one, two in zip(first, second, strict=True))
    assert len(table) == 2


def test_a_full_table_starts_again() -> None:
    table = DigestTable(capacity=3)
    for size in range(8):
        raw = request_of([Digest(HASHES[0], size), Digest(HASHES[1], size)]).SerializeToString()
        table.read(parse_question(raw))
        assert len(table) <= 3


def test_a_question_larger_than_the_table_is_not_kept() -> None:
    table = DigestTable(capacity=3)
    asked = [Digest(HASHES[0], size) for size in range(4)]
    read, answer = ask(table, request_of(asked).SerializeToString(), frozenset(asked[1:3]))
    assert (read, len(table)) == (asked, 0)
    assert answer == expected_answer(asked, frozenset(asked[1:3]))


def test_a_malformed_digest_is_never_kept() -> None:
    table = DigestTable()
    raw = request_of([Digest(HASHES[0], 5), Digest("g" * 64, 5)]).SerializeToString()
    for _ in range(2):
        with pytest.raises(NativeLinkError, match="malformed digest"):
            table.read(parse_question(raw))
    assert len(table) == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"\x12\x44\x10\x05\x0a\x40" + HASHES[0].encode(),  # the size before the hash
        b"\x12\xc2\x00\x0a\x40" + HASHES[0].encode(),  # a length in two bytes
    ],
)
def test_what_one_client_asked_never_changes_what_is_read_for_another(raw: bytes) -> None:
    table = DigestTable()
    ask(table, request_of([Digest(HASHES[0], 0)]).SerializeToString(), frozenset())
    (message,) = pb.FindMissingBlobsRequest.FromString(raw).blob_digests
    asked = [Digest(message.hash, message.size_bytes)]
    for absent in (frozenset(asked), frozenset[Digest]()):
        read, answer = ask(table, raw, absent)
        assert read == asked
        assert answer == expected_answer(asked, absent)


def test_a_question_larger_than_the_table_pushes_nothing_out() -> None:
    table = DigestTable(capacity=3)
    ask(table, request_of([Digest(HASHES[0], 5)]).SerializeToString(), frozenset())
    ask(
        table, request_of([Digest(HASHES[0], n) for n in range(4)]).SerializeToString(), frozenset()
    )
    assert len(table) == 1
