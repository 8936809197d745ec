"""FindMissingBlobs: from the request's bytes to the answer's, a thousand digests at a time.

Making a `Digest` out of a message costs 0.4 us, looking it up in a store 0.03 us. But clients ask
for the same digests over and over: a toolchain is an input of every action. So the bytes that stand
for a digest in a request are kept beside the `Digest` made of them, and of a request only those
digests are parsed that were not seen before (docs/adr/0008-digest-table.md).

An entry of the repeated field 2 is `12 LL 0a 40 <64 hexadecimal digits> [10 <size>]`. Split at
`0a 40`, a request falls into what is before the first entry, and one piece for each digest: its
hash and size, and the `12 LL` of the next entry. These pieces are the table's keys. That protobuf
would see the same entries is proven for every request, from its lengths alone: each `LL` must be
the length of the piece that follows, and what surrounds the entries must be whole fields. A piece
gets into the table only as protobuf itself would have written it, for a digest that was checked.
Whatever is unusual, another order of fields for instance, is read by protobuf alone.

Digests that are new, of which a build's own outputs are most, gain nothing by this. So a look at a
few of them tells first whether it is worth while; if it is not, protobuf reads the request, and
only its first sixteenth gets into the table. That is where it is recognized when it comes again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import itemgetter
from typing import Final, cast

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from nativelink.core.digest import Digest, digests_of
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

__all__ = ["DigestTable", "Question"]

_ENTRY_TAG: Final = b"\x12"
_HASH_FIELD: Final = b"\x0a\x40"
#: What stands behind the last digest instead of the next entry's tag and length.
_NO_NEXT_ENTRY: Final = b"\0\0"
_HASH_BYTES: Final = 64
#: How an entry starts, by the length of its piece. The answer's digests have the same field number
#: as the question's.
_ENTRY_HEADS: Final = {
    size: _ENTRY_TAG + bytes((size,)) + _HASH_FIELD
    for size in range(_HASH_BYTES + 2, _HASH_BYTES + 13)
}
#: Shorter requests, of some sixty digests, are read by protobuf in 30 us.
_SMALL_BYTES: Final = 4096
#: One digest in so many bytes is looked up to see whether the others are worth it, ...
_SAMPLE_BYTES: Final = 4096
#: ... which they are if one in so many of these is known.
_WORTH_SHARE: Final = 32
#: The part that is learned of a request that is not worth it.
_LEARNED_SHARE: Final = 16
#: As long as an entry is at least, and as two are at most.
_SMALLEST_ENTRY_BYTES: Final = 68
_WHOLE_ENTRY_BYTES: Final = 160

#: What is before a whole piece, the piece, and what is after it.
_WITH_WHOLE_PIECE: Final = 3

#: What follows a hash: its size, in the fewest bytes, and the next entry's tag and length.
_BEHIND_HASH: Final = re.compile(rb"(?:\x10[\x80-\xff]{0,8}[\x01-\x7f])?(?:\x12.|\0\0)", re.DOTALL)

_last = itemgetter(-1)


class Question:
    """A FindMissingBlobsRequest.

    Attributes:
        raw: its bytes.
        message: what protobuf read; without the digests if the table knows all of them.
        pieces: a piece for each digest, or none if they do not fit this one.
        known: what the table has for the pieces.
        new: places of those that it does not have.
        start, end: where the digests are in `raw`, if there are `pieces`.
    """

    __slots__ = ("end", "known", "message", "new", "pieces", "raw", "start")

    def __init__(self, raw: bytes, message: pb.FindMissingBlobsRequest) -> None:
        self.raw = raw
        self.message = message
        self.pieces: list[bytes] = []
        self.known: list[Digest | None] = []
        self.new: list[int] = []
        self.start = self.end = 0

    def answer(self, sizes: Sequence[int | None]) -> bytes:
        """The bytes of the FindMissingBlobsResponse; once, as it uses the message up.

        Args:
            sizes: what the store has of each digest that `DigestTable.read` gave.
        """
        if None not in sizes:
            return b""
        all_missing = sizes.count(None) == len(sizes)
        if self.pieces:
            if all_missing:
                return self.raw[self.start : self.end]
            missing = [
                piece for piece, size in zip(self.pieces, sizes, strict=True) if size is None
            ]
            return b"".join(
                [part for piece in missing for part in (_ENTRY_HEADS[len(piece)], piece[:-2])]
            )
        message = self.message
        if all_missing and not len(UnknownFieldSet(message)):
            # Its digests have the number of the answer's: without the rest it is the answer.
            message.ClearField("instance_name")
            message.ClearField("digest_function")
            return message.SerializeToString()
        messages = zip(message.blob_digests, sizes, strict=True)
        return pb.FindMissingBlobsResponse(
            missing_blob_digests=[message for message, size in messages if size is None]
        ).SerializeToString()


class DigestTable:
    """Digests by the bytes that stand for them in requests.

    Args:
        capacity: digests at most; 360 bytes of memory each. When it is full, it starts again.
    """

    __slots__ = ("_capacity", "_known")

    def __init__(self, capacity: int = 32_768) -> None:
        self._capacity = capacity
        self._known: dict[bytes, Digest] = {}

    def __len__(self) -> int:
        return len(self._known)

    def parse(self, raw: bytes) -> Question:
        """Parse a request; its digests only as far as they must be.

        Raises:
            DecodeError: it is no FindMissingBlobsRequest.
        """
        raw = bytes(raw)
        if len(raw) >= _SMALL_BYTES and self._knows_some(raw):
            question = self._look_up(raw)
            if question is not None:
                return question
        return Question(raw, pb.FindMissingBlobsRequest.FromString(raw))

    def read(self, question: Question) -> list[Digest]:
        """The digests of a question.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for a malformed digest.
        """
        if question.new:
            return self._read_new(question)
        if question.pieces:
            return cast("list[Digest]", question.known)
        digests = digests_of(question.message.blob_digests)
        if len(question.raw) >= _SMALL_BYTES:
            self._learn_beginning(question.raw, digests)
        return digests

    def _knows_some(self, raw: bytes) -> bool:
        """Whether as many digests are known as it takes to be quicker than protobuf."""
        known = self._known
        hits = samples = 0
        for place in range(0, len(raw) - _WHOLE_ENTRY_BYTES, _SAMPLE_BYTES):
            # Two entries of any length hold a whole one, and what is no request is not searched.
            pieces = raw[place : place + _WHOLE_ENTRY_BYTES].split(_HASH_FIELD, 2)
            hits += len(pieces) == _WITH_WHOLE_PIECE and pieces[1] in known
            samples += 1
        return hits * _WORTH_SHARE >= samples

    def _look_up(self, raw: bytes) -> Question | None:
        """A question with its pieces; None if they do not fit, which protobuf must judge."""
        cut = _cut(raw)
        if cut is None:
            return None
        pieces, start, end = cut
        known = list(map(self._known.get, pieces))
        new: list[int] = []
        if None in known:
            new = [place for place, digest in enumerate(known) if digest is None]
            if not _are_canonical([pieces[place] for place in new]):
                return None
        try:
            message = pb.FindMissingBlobsRequest.FromString(raw[:start])
            message.MergeFromString(raw[end:])
        except DecodeError:
            return None
        if message.blob_digests:
            return None
        if new:
            message = pb.FindMissingBlobsRequest.FromString(raw)
        question = Question(raw, message)
        question.pieces, question.known, question.new = pieces, known, new
        question.start, question.end = start, end
        return question

    def _read_new(self, question: Question) -> list[Digest]:
        """The digests of a question of which the table does not know some."""
        new, pieces, messages = question.new, question.pieces, question.message.blob_digests
        fresh = digests_of([messages[place] for place in new])
        self._learn([pieces[place] for place in new], fresh)
        digests = question.known
        for place, digest in zip(new, fresh, strict=True):
            digests[place] = digest
        return cast("list[Digest]", digests)

    def _learn_beginning(self, raw: bytes, digests: Sequence[Digest]) -> None:
        """Learn the first digests of a question, so that it is recognized."""
        next_entry = raw.rfind(_HASH_FIELD, 0, len(raw) // _LEARNED_SHARE) - len(_NO_NEXT_ENTRY)
        cut = _cut(raw[:next_entry]) if next_entry > 0 else None
        if cut is None:
            return
        pieces, start, end = cut
        if end == next_entry and _are_canonical(pieces) and _has_no_digests(raw[:start]):
            # The last one is followed by another entry in truth.
            pieces.pop()
            self._learn(pieces, digests[: len(pieces)])

    def _learn(self, pieces: Sequence[bytes], digests: Sequence[Digest]) -> None:
        if len(pieces) > self._capacity:
            return
        if len(self._known) + len(pieces) > self._capacity:
            self._known.clear()
        self._known.update(zip(pieces, digests, strict=True))


def _cut(raw: bytes) -> tuple[list[bytes], int, int] | None:
    """The pieces of a request's digests, and where the first begins and the last ends.

    None if its lengths do not prove that protobuf would see these very entries; provided that the
    pieces are canonical, and that what is before and after them are whole fields.
    """
    front, *pieces = raw.split(_HASH_FIELD, len(raw) // _SMALLEST_ENTRY_BYTES)
    start = len(front) - len(_NO_NEXT_ENTRY)
    if start < 0 or not pieces or not front.startswith(_ENTRY_TAG, start):
        return None
    last = pieces[-1]
    try:
        lengths = front[-1:] + bytes(map(_last, pieces[:-1]))
        own_bytes = lengths[-1] - len(_HASH_FIELD)
        pieces[-1] = last[:own_bytes] + _NO_NEXT_ENTRY
        if own_bytes < _HASH_BYTES or bytes(map(len, pieces)) != lengths:
            return None
    except (IndexError, ValueError):
        return None
    return pieces, start, len(raw) - len(last) + own_bytes


def _has_no_digests(raw: bytes) -> bool:
    """Whether bytes are whole fields of a request other than its digests."""
    try:
        return not raw or not pb.FindMissingBlobsRequest.FromString(raw).blob_digests
    except DecodeError:
        return False


def _are_canonical(pieces: Sequence[bytes]) -> bool:
    """Whether all pieces are what protobuf writes, if their digests are well-formed."""
    return None not in map(_BEHIND_HASH.fullmatch, [piece[_HASH_BYTES:] for piece in pieces])
