"""FindMissingBlobs: from the request's bytes to the answer's, a thousand digests at a time.

Making a `Digest` out of a message costs 0.3 us, looking it up in a store 0.03 us. But clients ask
for the same digests over and over: a toolchain is an input of every action. So the bytes that stand
for a digest in a request are kept beside the `Digest` made of them, and a request whose digests
were all seen before is cut up and looked up without a line of Python for each. (Digests that are
asked for once gain nothing: docs/adr/0008-digest-table.md.)

An entry of the repeated field 2 is `12 LL 0a 40 <64 hexadecimal digits> [10 <size>]`. Nothing else
in a well-formed request contains `0a 40`, except perhaps its instance name; so between two of them
lies one digest's hash and size, and the first two bytes of the next entry. These pieces are the
table's keys. Pieces only get into the table from a request that is exactly what protobuf itself
would have written for its digests, which were checked, so a piece that is found stands for its
digest. Whatever is unusual, another order of fields for instance, is read by protobuf alone. Only
what comes before a request's first hash would be in no piece; so it is a part of the first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from nativelink.core.digest import Digest, digests_of
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

__all__ = ["DigestTable", "Question", "parse_question"]

_ENTRY_TAG: Final = b"\x12"
_HASH_FIELD: Final = b"\x0a\x40"
_NEXT_ENTRY_BYTES: Final = 2
_HASH_BYTES: Final = 64
#: How an entry starts in the answer, by the number of bytes of its hash and size. The answer's
#: digests have the same field number as the question's.
_ENTRY_HEADS: Final = {
    own: _ENTRY_TAG + bytes((own + len(_HASH_FIELD),)) + _HASH_FIELD
    for own in range(_HASH_BYTES, _HASH_BYTES + 11)
}


class Question:
    """A FindMissingBlobsRequest, and the bytes that it was read from."""

    __slots__ = ("message", "raw")

    def __init__(self, raw: bytes, message: pb.FindMissingBlobsRequest) -> None:
        self.raw = raw
        self.message = message


def parse_question(raw: bytes) -> Question:
    """Parse a request and keep its bytes."""
    raw = bytes(raw)
    return Question(raw, pb.FindMissingBlobsRequest.FromString(raw))


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

    def read(self, question: Question) -> tuple[list[Digest], list[bytes]]:
        """The digests of a question, and their pieces, or no pieces if they do not fit them.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for a malformed digest.
        """
        messages = question.message.blob_digests
        pieces = question.raw.split(_HASH_FIELD)
        if not messages or len(pieces) != len(messages) + 1:
            return digests_of(messages), []
        front = pieces.pop(0)
        pieces[0] = front + pieces[0]
        known = list(map(self._known.get, pieces))
        if None not in known:
            return cast("list[Digest]", known), pieces
        digests = digests_of(messages)
        # What protobuf does not know is dropped first, so that it cannot hide in a piece.
        question.message.DiscardUnknownFields()
        if question.message.SerializeToString() != question.raw:
            return digests, []
        if len(pieces) <= self._capacity:
            if len(self._known) + len(pieces) > self._capacity:
                self._known.clear()
            self._known.update(zip(pieces, digests, strict=True))
        return digests, pieces

    @staticmethod
    def answer(
        question: Question,
        digests: Sequence[Digest],
        pieces: list[bytes],
        sizes: Sequence[int | None],
    ) -> bytes:
        """The bytes of the FindMissingBlobsResponse.

        Args:
            question: the request.
            digests: what `read` made of it.
            pieces: the other thing that `read` made of it; used up.
            sizes: what the store has of each digest.
        """
        if None not in sizes:
            return b""
        if not pieces:
            messages = zip(question.message.blob_digests, sizes, strict=True)
            return pb.FindMissingBlobsResponse(
                missing_blob_digests=[message for message, size in messages if size is None]
            ).SerializeToString()
        raw = question.raw
        front_bytes = raw.index(_HASH_FIELD)
        # The last piece ends with the question, and other fields may come after its digest.
        own_bytes = _own_bytes(digests[-1])
        if sizes.count(None) == len(sizes):
            end = raw.rindex(_HASH_FIELD) + len(_HASH_FIELD) + own_bytes
            return raw[front_bytes - _NEXT_ENTRY_BYTES : end]
        pieces[0] = pieces[0][front_bytes:]
        pieces[-1] = pieces[-1][:own_bytes] + bytes(_NEXT_ENTRY_BYTES)
        missing = [
            piece[:-_NEXT_ENTRY_BYTES]
            for piece, size in zip(pieces, sizes, strict=True)
            if size is None
        ]
        return b"".join([part for own in missing for part in (_ENTRY_HEADS[len(own)], own)])


def _own_bytes(digest: Digest) -> int:
    """Bytes of a digest's hash and of its size with its tag, as protobuf writes them."""
    size = digest.size_bytes
    return _HASH_BYTES + (1 + -(-size.bit_length() // 7) if size else 0)
