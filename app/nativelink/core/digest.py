"""Digests and store keys, parsed once at the edge.

A `Digest` cannot hold a malformed value if it came out of `Digest.parse`, `Digest.from_string`
or `parse_many`; nothing behind the services validates again. Only 32-byte hashes exist here
(SHA-256 and BLAKE3), and the function is no part of the key, as in NativeLink.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from enum import IntEnum
from itertools import repeat
from operator import attrgetter
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import blake3 as _blake3

from nativelink.core.errors import invalid_argument

__all__ = [
    "EMPTY_DIGESTS",
    "MAX_SIZE_BYTES",
    "Digest",
    "DigestFunction",
    "Hasher",
    "StoreKey",
    "digest_function",
    "digests_of",
    "is_empty",
    "parse_many",
]

#: REAPI sizes are int64 (REAPI v2, message Digest).
MAX_SIZE_BYTES: Final = 2**63 - 1

_HASH_LENGTH: Final = 64
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_LOWER_HEX: Final = b"0123456789abcdef"
#: `MAX_SIZE_BYTES` has as many; Python refuses to read numbers of thousands of them.
_MAX_SIZE_DIGITS: Final = 19


class Hasher(Protocol):
    """What `hashlib` and `blake3` objects have in common."""

    def update(self, data: Any, /) -> Any: ...

    def hexdigest(self) -> str: ...


def _new_blake3() -> Hasher:
    return _blake3.blake3()


class DigestFunction(IntEnum):
    """The digest functions that this server speaks, with REAPI's numbers."""

    SHA256 = 1
    BLAKE3 = 9

    @property
    def new(self) -> Callable[[], Hasher]:
        """A constructor of an incremental hasher."""
        return hashlib.sha256 if self is DigestFunction.SHA256 else _new_blake3

    @property
    def token(self) -> str:
        """The name that stands in ByteStream resource names, lower case."""
        return self.name.lower()

    @property
    def segment(self) -> str:
        """What stands before a hash in names that must not name SHA-256 (REAPI v2, ByteStream)."""
        return "" if self is DigestFunction.SHA256 else f"{self.token}/"

    def digest_of(self, data: bytes | memoryview) -> Digest:
        """The digest of a whole blob held in memory."""
        hasher = self.new()
        hasher.update(data)
        return Digest(hasher.hexdigest(), len(data))


class Digest(NamedTuple):
    """A blob's name: 64 lower-case hex digits and a size in bytes (REAPI v2, message Digest).

    A named tuple because it is the key of every hot dictionary: hashing and comparing it never
    runs Python code.
    """

    hash: str
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.hash}-{self.size_bytes}"

    @classmethod
    def parse(cls, hash_: str, size_bytes: int) -> Digest:
        """A checked digest; upper-case hex is folded to lower case.

        Raises:
            NativeLinkError: INVALID_ARGUMENT naming the value and what is allowed.
        """
        if not _HASH.fullmatch(hash_):
            folded = hash_.lower()
            if not _HASH.fullmatch(folded):
                raise invalid_argument(
                    f"malformed digest hash {hash_[:80]!r}: 64 hexadecimal digits are expected "
                    "(SHA-256 or BLAKE3)"
                )
            hash_ = folded
        if not 0 <= size_bytes <= MAX_SIZE_BYTES:
            raise invalid_argument(
                f"malformed digest size {size_bytes} of {hash_}: 0 to 2^63-1 bytes are allowed"
            )
        return cls(hash_, size_bytes)

    @classmethod
    def from_string(cls, text: str) -> Digest:
        """The reverse of `str(digest)`: `{64 hex}-{decimal size}`.

        Raises:
            NativeLinkError: INVALID_ARGUMENT.
        """
        hash_, dash, size = text.partition("-")
        if not dash or not size.isascii() or not size.isdigit() or len(size) > _MAX_SIZE_DIGITS:
            raise invalid_argument(
                f"malformed digest {text[:100]!r}: '<64 hexadecimal digits>-<size in bytes>' "
                "is expected"
            )
        return cls.parse(hash_, int(size))


#: A digest, or a plain string for the few stores that hold something else than blobs.
StoreKey: TypeAlias = Digest | str


class DigestMessage(Protocol):
    """REAPI's message Digest, as protobuf gives it."""

    @property
    def hash(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...


_FIELDS: Final = attrgetter("hash", "size_bytes")
_SLOT: Final = _HASH_LENGTH + 1


def parse_many(pairs: list[tuple[str, int]]) -> list[Digest]:
    """Checked digests of many `(hash, size)` pairs, in order: `Digest.parse` in bulk.

    All hashes are checked in one string (FindMissingBlobs asks for a thousand at a time). Joined
    by dashes, they are well-formed exactly if what is left without the hexadecimal digits are the
    dashes, and these stand behind every 64 characters.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for the first malformed one.
    """
    if not pairs:
        return []
    dashes = b"-" * (len(pairs) - 1)
    hashes = "-".join([hash_ for hash_, _ in pairs]).encode("utf-8", "surrogatepass")
    sizes = [size for _, size in pairs]
    if (
        len(hashes) == _SLOT * len(pairs) - 1
        and hashes[_HASH_LENGTH::_SLOT] == dashes
        and hashes.translate(None, _LOWER_HEX) == dashes
        and min(sizes) >= 0
        and max(sizes) <= MAX_SIZE_BYTES
    ):
        return list(map(tuple.__new__, repeat(Digest), pairs))
    return [Digest.parse(hash_, size) for hash_, size in pairs]


def digests_of(messages: Iterable[DigestMessage]) -> list[Digest]:
    """Checked digests of many Digest messages, in order.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for the first malformed one.
    """
    return parse_many(list(map(_FIELDS, messages)))


#: The empty blob under either function: always present, never stored (REAPI v2, FindMissingBlobs).
EMPTY_DIGESTS: Final = frozenset(function.digest_of(b"") for function in DigestFunction)


def is_empty(key: StoreKey) -> bool:
    """Whether `key` names the empty blob."""
    return key in EMPTY_DIGESTS


#: The digest function of the request under way. A store that must hash (verify) reads it, as no
#: key carries it; services set it only where a request differs from the configured default.
digest_function: ContextVar[DigestFunction | None] = ContextVar("digest_function", default=None)
