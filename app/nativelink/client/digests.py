"""Digests as people paste them."""

from __future__ import annotations

import re
from typing import Final

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import NativeLinkError, invalid_argument

__all__ = ["digest_text", "parse_digest"]

#: In names of blobs, the function stands before the hash (REAPI v2, ContentAddressableStorage).
_TOKENS: Final = "|".join(function.token for function in DigestFunction)
_DIGEST: Final = re.compile(
    rf"(?:(?:.*/)?(?:blobs|compressed-blobs/zstd)/(?:(?:{_TOKENS})/)?)?"
    r"([0-9A-Fa-f]{64})[-/:]([0-9]{1,19})"
)


def parse_digest(text: str) -> Digest:
    """The digest in `hash-size`, `hash/size`, `hash:size` or a name that ends in `blobs/hash/size`.

    Such names are what Bazel's logs and events hold, `bytestream://host/instance/blobs/…` too. A
    digest function in it is read over: it is no part of a key.

    Raises:
        NativeLinkError: INVALID_ARGUMENT.
    """
    found = _DIGEST.fullmatch(text.strip())
    if found is None:
        raise invalid_argument(
            f"{text[:200]!r} is no digest: HASH-SIZE, HASH/SIZE or …/blobs/HASH/SIZE is expected, "
            "with 64 hexadecimal digits and a number of bytes"
        )
    try:
        return Digest.parse(found[1], int(found[2]))
    except NativeLinkError as error:
        raise invalid_argument(f"{text[:200]!r}: {error.message}") from error


def digest_text(digest: Digest) -> str:
    """`hash/size`, as Bazel writes it and `parse_digest` reads it."""
    return f"{digest.hash}/{digest.size_bytes}"
