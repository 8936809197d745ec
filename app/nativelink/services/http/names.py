"""What the paths of the HTTP cache name, checked once at the edge.

A path never becomes a file name: hashes are parsed as digests, and every other path is itself
hashed into a store key. So there is nothing that `..` could lead out of.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import invalid_argument

__all__ = ["MAX_PATH_CHARACTERS", "HashName", "parse_hash_name", "raw_key", "size_key", "tree_key"]

#: Longer than any key of the clients known (sccache and ccache stay below 150), shorter than what
#: proxies cut off.
MAX_PATH_CHARACTERS: Final = 1024

_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%-]+")
_FUNCTIONS: Final = {function.token: function for function in DigestFunction}


class HashName(NamedTuple):
    """A blob or an entry, as a URL names it.

    Attributes:
        hash: 64 lower-case hexadecimal digits.
        size_bytes: of the digest, where the URL says it.
        function: the digest function, where the URL says it.
    """

    hash: str
    size_bytes: int | None
    function: DigestFunction | None


def parse_hash_name(text: str) -> HashName:
    """What stands behind `/ac/` and `/cas/`: `[sha256/|blake3/]HASH[-SIZE]`.

    The plain hash is what clients of HTTP caches send. The size is ours: it makes the name that
    of the very blob that gRPC calls `HASH/SIZE`, so that nothing need be looked up.

    Raises:
        NativeLinkError: INVALID_ARGUMENT.
    """
    token, slash, name = text.rpartition("/")
    function = _FUNCTIONS.get(token)
    if slash and function is None:
        raise invalid_argument(
            f"{text[:100]!r} names no hash: [{'/|'.join(_FUNCTIONS)}/]HASH or HASH-SIZE is expected"
        )
    if "-" in name:
        digest = Digest.from_string(name)
        return HashName(digest.hash, digest.size_bytes, function)
    return HashName(Digest.parse(name, 0).hash, None, function)


def raw_key(hash_: str) -> str:
    """The store key of what was put below `/ac/` and is no result of an Action that is known."""
    return f"HttpCache:ac:{hash_}"


def size_key(hash_: str) -> str:
    """The store key under which the size of a blob is remembered."""
    return f"HttpCache:size:{hash_}"


def tree_key(path: str) -> str:
    """The store key of a free path, such as `ccache/4d/1234`.

    Several `/` are one: clients join addresses and names with more than is needed (sccache).

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a path that is empty or too long, ends in `/`, has
            dotted segments, or characters that no URL has (RFC 3986 section 3.3).
    """
    *folders, name = path.split("/")
    segments = [*filter(None, folders), name]
    if len(path) > MAX_PATH_CHARACTERS or not all(
        _SEGMENT.fullmatch(segment) and segment not in {".", ".."} for segment in segments
    ):
        raise invalid_argument(
            f"{path[:100]!r} is no key: 1 to {MAX_PATH_CHARACTERS} characters of a URL's path are "
            "allowed, without '.' and '..' between slashes and without a '/' at the end"
        )
    return f"HttpCache:tree:{hashlib.sha256('/'.join(segments).encode()).hexdigest()}"
