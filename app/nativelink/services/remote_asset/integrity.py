"""Checksums in the form of Subresource Integrity (W3C, section 3): the qualifier `checksum.sri`."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import blake3

from nativelink.core.digest import Digest, DigestFunction, Hasher
from nativelink.core.errors import invalid_argument

__all__ = ["ALGORITHMS", "Integrity", "parse_integrity"]

#: The specification's, and the one that Bazel has beside them; the strongest last.
ALGORITHMS: Final[Mapping[str, Callable[[], Hasher]]] = {
    "sha256": hashlib.sha256,
    "blake3": blake3.blake3,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}
_STRENGTH: Final = tuple(ALGORITHMS)
_LENGTHS: Final = {"sha256": 32, "blake3": 32, "sha384": 48, "sha512": 64}
#: Of the digest functions that are algorithms of this, too.
_FUNCTIONS: Final = {DigestFunction.SHA256: "sha256", DigestFunction.BLAKE3: "blake3"}


@dataclass(frozen=True, slots=True)
class Integrity:
    """What contents must hash to.

    Attributes:
        algorithm: a key of `ALGORITHMS`, the strongest that was named.
        hashes: in hexadecimal; any one of them will do.
    """

    algorithm: str
    hashes: frozenset[str]

    def __str__(self) -> str:
        return " or ".join(f"{self.algorithm} {hash_}" for hash_ in sorted(self.hashes))

    def excludes(self, digest: Digest, function: DigestFunction) -> bool:
        """Whether a blob is another one, as far as its name tells."""
        return self.algorithm == _FUNCTIONS[function] and digest.hash not in self.hashes


def parse_integrity(text: str) -> Integrity:
    """One `checksum.sri`: hashes, separated by spaces, of which the strongest kind counts.

    Raises:
        NativeLinkError: INVALID_ARGUMENT. What is not understood must not count as checked, so
            that unknown algorithms are an error here, unlike in a browser.
    """
    found: dict[str, set[str]] = {}
    for word in text.split():
        algorithm, dash, rest = word.partition("-")
        encoded = rest.partition("?")[0]
        if not dash or algorithm not in ALGORITHMS:
            raise _malformed(text, f"{word[:80]!r} is of no known kind")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise _malformed(text, f"{word[:80]!r} is not in base64") from None
        if len(raw) != _LENGTHS[algorithm]:
            raise _malformed(
                text, f"{word[:80]!r} has {len(raw)} bytes instead of {_LENGTHS[algorithm]}"
            )
        found.setdefault(algorithm, set()).add(raw.hex())
    if not found:
        raise _malformed(text, "it is empty")
    strongest = max(found, key=_STRENGTH.index)
    return Integrity(strongest, frozenset(found[strongest]))


def _malformed(text: str, why: str) -> Exception:
    return invalid_argument(
        f"checksum.sri {text[:120]!r}: {why}; {', '.join(ALGORITHMS)} are known, each followed by "
        "'-' and the hash in base64"
    )
