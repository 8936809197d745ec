"""Which digest a bare hash stands for: URLs of HTTP caches name no sizes, keys of stores do."""

from __future__ import annotations

from typing import Final

from nativelink.core.digest import EMPTY_DIGESTS, Digest
from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.http.names import size_key
from nativelink.stores.store import BlobFinder, Store, read_bytes, write_bytes

__all__ = ["KnownDigests"]

#: Sizes that are remembered here, beside the store: 200 bytes each.
_MAX_REMEMBERED: Final = 65_536
#: `2**63 - 1` has so many digits.
_MAX_SIZE_DIGITS: Final = 19

_EMPTY: Final = {digest.hash: digest for digest in EMPTY_DIGESTS}


class KnownDigests:
    """Finds the digests of blobs by their hashes.

    Some stores can say it themselves (`BlobFinder`), of every blob that they have. For the others
    an entry of a few bytes is written beside each blob that comes by HTTP; of blobs that came by
    gRPC nothing is known then. A hash has one size for ever, so what was found out once is true
    as long as it is remembered; whether the blob is there is another question.

    Args:
        entries: where sizes are remembered, under string keys.
        finder: answers instead, if the blobs' store can.
    """

    def __init__(self, entries: Store, finder: BlobFinder | None) -> None:
        self._entries = entries
        self._finder = finder
        self._remembered: dict[str, Digest] = {}

    async def find(self, hash_: str) -> Digest | None:
        """The digest of a blob, None if its size is not known."""
        known = _EMPTY.get(hash_) or self._remembered.get(hash_)
        if known is not None:
            return known
        if self._finder is not None:
            return await self._finder.find(hash_)
        try:
            size = await read_bytes(self._entries, size_key(hash_), max_size=_MAX_SIZE_DIGITS)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise
        digest = Digest.parse(hash_, int(size))
        self._remember(digest)
        return digest

    async def learn(self, digest: Digest) -> None:
        """Remember a blob that was just stored, for everybody who uses the same stores."""
        if self._finder is not None or await self.find(digest.hash) is not None:
            return
        try:
            await write_bytes(self._entries, size_key(digest.hash), b"%d" % digest.size_bytes)
        except NativeLinkError as error:
            # A store that takes no string keys (`grpc`): then it is known here, while we run.
            if error.code is not Code.INVALID_ARGUMENT:
                raise
        self._remember(digest)

    def _remember(self, digest: Digest) -> None:
        if len(self._remembered) >= _MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest.hash] = digest
