"""The table of digests against protobuf: any request reads the same with it and without it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from nativelink.core.digest import MAX_SIZE_BYTES, Digest, DigestFunction, digests_of
from nativelink.core.errors import NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services import find_missing
from nativelink.services.find_missing import DigestTable

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
        digest_function=function,
    )


class EagerTable(DigestTable):
    """A table that is always worth it, also for the small requests of these tests."""

    def _knows_some(self, raw: bytes) -> bool:
        return True


@pytest.fixture(autouse=True, scope="module")
def _no_request_is_small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(find_missing, "_SMALL_BYTES", 0)
        yield


def ask(table: DigestTable, raw: bytes, absent: frozenset[Digest]) -> tuple[list[Digest], bytes]:
    """The digests as the table reads them, and the answer if `absent` are absent."""
    question = table.parse(raw)
    read = table.read(question)
    sizes = [None if digest in absent else digest.size_bytes for digest in read]
    return read, question.answer(sizes)


def read(table: DigestTable, raw: bytes) -> list[Digest]:
    return table.read(table.parse(raw))


def agrees_with_protobuf(table: DigestTable, raw: bytes) -> None:
    """Whatever protobuf makes of a request, the table makes of it, or refuses it as well."""
    try:
        message = pb.FindMissingBlobsRequest.FromString(raw)
    except DecodeError:
        with pytest.raises(DecodeError):
            table.parse(raw)
        return
    question = table.parse(raw)
    assert question.message.instance_name == message.instance_name
    assert question.message.digest_function == message.digest_function
    expected = refusal = None
    try:
        expected = digests_of(message.blob_digests)
    except NativeLinkError as error:
        refusal = error.message
    if expected is None:
        with pytest.raises(NativeLinkError) as raised:
            table.read(question)
        assert raised.value.message == refusal
        return
    got = table.read(question)
    assert got == expected
    named = [(digest.hash, digest.size_bytes) for digest in message.blob_digests]
    for modulus in (1, 2, len(got) + 1):
        sizes = [None if place % modulus == 0 else 1 for place in range(len(got))]
        answer = pb.FindMissingBlobsResponse.FromString(table.parse(raw).answer(sizes))
        wanted = [name for name, size in zip(named, sizes, strict=True) if size is None]
        assert [(m.hash, m.size_bytes) for m in answer.missing_blob_digests] == wanted


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
    table = EagerTable()
    # Twice, so that everything is asked when it is new and when it is known.
    for asked, instance, function in questions * 2:
        gone = frozenset(asked) if all_absent else absent
        raw = request_of(asked, instance, function).SerializeToString()
        got, answer = ask(table, raw, gone)
        assert got == asked
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
    table = EagerTable()
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
            got, answer = ask(table, raw, absent)
            assert got == expected
            missing = pb.FindMissingBlobsResponse.FromString(answer).missing_blob_digests
            assert [Digest(m.hash, m.size_bytes) for m in missing] == [
                digest for digest in expected if digest in absent
            ]


@given(st.binary(max_size=200), st.booleans())
@example(request_of([Digest(HASHES[0], 5)]).SerializeToString()[:-1], True)
def test_garbage_after_known_digests_never_reads_as_other_digests(tail: bytes, known: bool) -> None:
    table = EagerTable()
    usual = request_of([Digest(hash_, 77) for hash_ in HASHES]).SerializeToString()
    if known:
        ask(table, usual, frozenset())
    raw = usual + tail
    try:
        question = table.parse(raw)
    except DecodeError:
        return
    message = pb.FindMissingBlobsRequest.FromString(raw)
    expected = [(m.hash, m.size_bytes) for m in message.blob_digests]
    try:
        got = table.read(question)
    except NativeLinkError:
        return
    assert [(digest.hash, digest.size_bytes) for digest in got] == [
        (hash_.lower(), size) for hash_, size in expected
    ]


def test_known_digests_are_the_same_objects_again() -> None:
    table = EagerTable()
    raw = request_of([Digest(HASHES[0], 5), Digest(HASHES[1], 6)]).SerializeToString()
    first, second = read(table, raw), read(table, raw)
    assert all(one is two for one, two in zip(first, second, strict=True))
    assert len(table) == 2


def test_a_full_table_starts_again() -> None:
    table = EagerTable(capacity=3)
    for size in range(8):
        raw = request_of([Digest(HASHES[0], size), Digest(HASHES[1], size)]).SerializeToString()
        read(table, raw)
        assert len(table) <= 3


def test_a_question_larger_than_the_table_is_not_kept() -> None:
    table = EagerTable(capacity=3)
    asked = [Digest(HASHES[0], size) for size in range(4)]
    got, answer = ask(table, request_of(asked).SerializeToString(), frozenset(asked[1:3]))
    assert (got, len(table)) == (asked, 0)
    assert answer == expected_answer(asked, frozenset(asked[1:3]))


def test_a_malformed_digest_is_never_kept() -> None:
    table = EagerTable()
    raw = request_of([Digest(HASHES[0], 5), Digest("g" * 64, 5)]).SerializeToString()
    for _ in range(2):
        with pytest.raises(NativeLinkError, match="malformed digest"):
            read(table, raw)
    assert len(table) == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"\x12\x44\x10\x05\x0a\x40" + HASHES[0].encode(),  # the size before the hash
        b"\x12\xc2\x00\x0a\x40" + HASHES[0].encode(),  # a length in two bytes
    ],
)
def test_what_one_client_asked_never_changes_what_is_read_for_another(raw: bytes) -> None:
    table = EagerTable()
    ask(table, request_of([Digest(HASHES[0], 0)]).SerializeToString(), frozenset())
    (message,) = pb.FindMissingBlobsRequest.FromString(raw).blob_digests
    asked = [Digest(message.hash, message.size_bytes)]
    for absent in (frozenset(asked), frozenset[Digest]()):
        got, answer = ask(table, raw, absent)
        assert got == asked
        assert answer == expected_answer(asked, absent)


def test_a_question_larger_than_the_table_pushes_nothing_out() -> None:
    table = EagerTable(capacity=3)
    ask(table, request_of([Digest(HASHES[0], 5)]).SerializeToString(), frozenset())
    ask(
        table, request_of([Digest(HASHES[0], n) for n in range(4)]).SerializeToString(), frozenset()
    )
    assert len(table) == 1


def varint(value: int, padding: int = 0) -> bytes:
    """A varint, `padding` bytes longer than need be."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value | (128 if padding else 0))
    return bytes(out) + b"\x80" * (padding - 1) + b"\0" * (padding > 0)


paddings = st.sampled_from([0, 0, 0, 0, 1, 3])


@st.composite
def fields(draw: st.DrawFn, number: int, content: st.SearchStrategy[bytes]) -> bytes:
    """A length-delimited field, whose tag or length may be longer than need be, or wrong."""
    data = draw(content)
    tag = varint(number << 3 | 2, draw(paddings))
    length = max(0, len(data) + draw(st.sampled_from([0] * 12 + [-2, -1, 1, 2])))
    return tag + varint(length, draw(paddings)) + data


hash_fields = fields(
    1,
    st.one_of(
        st.sampled_from([hash_.encode() for hash_ in HASHES]),
        st.sampled_from([HASHES[0].upper().encode(), b"", b"f" * 63, b"g" * 64, b"\xff" * 64]),
        st.sampled_from([b"\n@" + HASHES[1].encode(), HASHES[2].encode() + b"\x12D\n@"]),
    ),
)
size_fields = st.builds(
    lambda size, padding: b"\x10" + varint(size, padding),
    st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1)),
    paddings,
)
unknown_fields = st.sampled_from([b"\x7a\x02\n@", b"\x78\x05", b"\x7b\x7c", b"\x7c", b"\x0d\n@\n@"])
entries = fields(
    2,
    st.one_of(
        st.tuples(hash_fields, size_fields).map(b"".join),
        st.lists(st.one_of(hash_fields, size_fields, unknown_fields), max_size=3).map(b"".join),
    ),
)
usual_entries = st.lists(digests, min_size=1, max_size=4).map(
    lambda asked: request_of(asked).SerializeToString()
)
settings_fields = st.one_of(
    fields(1, st.sampled_from([b"main", b"", b"\n@", b"\n@" + HASHES[0].encode() + b"\x12B"])),
    st.builds(lambda value, padding: b"\x18" + varint(value, padding), st.integers(0, 9), paddings),
    unknown_fields,
)
odd_requests = st.lists(
    st.one_of(usual_entries, usual_entries, entries, settings_fields), min_size=1, max_size=5
).map(b"".join)


@given(st.lists(odd_requests, min_size=1, max_size=4))
def test_any_encoding_is_read_as_protobuf_reads_it(requests: list[bytes]) -> None:
    table = EagerTable()
    for raw in requests * 2:
        agrees_with_protobuf(table, raw)


SCRAPS = [
    b"\x12",
    b"\n@",
    b"\x10\x05",
    b"\x10\x80\x00",
    b"\x10\x85\x01",
    b"\0\0",
    b"\n\x04main",
    b"\x18\x01",
    *[bytes((length,)) for length in range(64, 71)],
    *[b"\x12" + bytes((length,)) + b"\n@" for length in range(66, 70)] * 3,
    *[hash_.encode() for hash_ in HASHES] * 2,
]


@given(st.lists(st.sampled_from(SCRAPS), max_size=16).map(b"".join), odd_requests)
@example(b"\x12B\n@" + HASHES[0].encode() + b"\x12B\n@" + HASHES[1].encode() + b"\x10\x05", b"")
def test_pieces_put_together_wrongly_are_read_as_protobuf_reads_them(
    raw: bytes, before: bytes
) -> None:
    table = EagerTable()
    for sizes in [(0, 0), (5, 0), (0, 5), (5, 133), (133, 5)]:
        asked = [Digest(hash_, size) for hash_ in HASHES for size in sizes]
        read(table, request_of(asked).SerializeToString())
    agrees_with_protobuf(table, before + raw)
    agrees_with_protobuf(table, raw)


def many(seed: int, count: int = 400) -> list[Digest]:
    return [DigestFunction.SHA256.digest_of(b"%d %d" % (seed, n)) for n in range(count)]


def test_of_a_question_only_the_new_digests_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []

    def counted(messages: Sequence[pb.Digest]) -> list[Digest]:
        parsed.append(len(messages))
        return digests_of(messages)

    monkeypatch.setattr(find_missing, "digests_of", counted)
    table = DigestTable()
    toolchain = many(0)
    for _ in range(3):
        assert read(table, request_of(toolchain).SerializeToString()) == toolchain
    # The beginning is learned first, then the rest.
    assert (len(parsed), parsed[0]) == (2, 400)
    parsed.clear()
    mixed = many(1, 3) + toolchain[:200] + many(2, 4) + toolchain[200:] + many(3, 2)
    for _ in range(2):
        assert read(table, request_of(mixed).SerializeToString()) == mixed
    assert parsed[0] in range(9, 12)
    assert parsed[1:] == []


def test_digests_that_are_asked_for_once_do_not_fill_the_table() -> None:
    table = DigestTable()
    for seed in range(20):
        asked = many(seed)
        gone = frozenset(asked[:7])
        got, answer = ask(table, request_of(asked).SerializeToString(), gone)
        assert got == asked
        assert answer == expected_answer(asked, gone)
    assert len(table) < 20 * 400 // 15


def test_megabytes_that_are_no_request_are_read_as_protobuf_reads_them() -> None:
    table = DigestTable()
    for raw in (b"\x0a\x80\x80\x40" + b"x" * 2**20, b"\n@" * 2**19):
        agrees_with_protobuf(table, raw)
