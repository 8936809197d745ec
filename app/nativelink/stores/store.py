"""The store contract, and what can be said with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import NativeLinkError, missing_blob, not_found
from nativelink.core.streams import BytesSink, BytesSource, Chunk, Sink, Source

__all__ = [
    "BlobFinder",
    "BlobSplitter",
    "DelegatingStore",
    "RemovalFeed",
    "Store",
    "TreeSource",
    "absent",
    "has_one",
    "read_bytes",
    "write_bytes",
]


class Store(Protocol):
    """Keys to bytes. Every kind of store, leaf, wrapper or join, keeps this contract.

    Tests cite these numbers.

    1. *Visible after put*: once `put` returned, `has` and `get` see the blob, until it is evicted.
    2. *All or nothing*: a `put` that failed or was cancelled leaves nothing that any reader could
       see, and an older value of the key stays as it was. Only a cancellation (or a connection
       that breaks) at the very moment of the commit may come too late: then the whole value is
       there, never a part of it.
    3. *Absent is NOT_FOUND*: `get` of a key that is not there raises NOT_FOUND (with a
       `MissingBlob` detail if the key is a digest) before a single `sink.write`.
    4. *Exact ranges*: `get` writes exactly the bytes `[offset, offset + limit)` cut at the end of
       the blob; `offset` equal to the size writes nothing; `offset` beyond it raises OUT_OF_RANGE.
       `limit` 0 writes nothing.
    5. *The empty blob* (`EMPTY_DIGESTS`) is always present with size 0, readable, and putting it
       succeeds, whatever the store is, and whether or not anything is kept for it.
    6. *Races of one key are benign*: concurrent puts of a key all succeed, and any reader sees one
       of the values whole.
    7. *Bounded memory*: chunks in flight, never the size of a blob, except in a store whose
       purpose is to hold blobs in memory.
    8. *Cancellation*: cancelling any of the three leaves the store usable and nothing behind.
    9. *Source consumed*: `put` reads its source to the end (or raises), so that a size that was
       announced wrongly is always noticed. A source that raises makes `put` raise the same error.
    10. *Batches keep order*: `has` answers position by position; duplicates are allowed.
    11. *Absent keys never raise in `has`*: its errors mean that the store could not find out.
    12. *No write of a ranged read*: a read with `offset` or `limit` never fills a cache with part
        of a blob.
    """

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        """The size in bytes of each key's value, None where it is absent."""
        ...

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        """Write a blob, or a range of it, into `sink`."""
        ...

    async def put(self, key: StoreKey, source: Source) -> int:
        """Store the whole of `source` under `key`; returns the number of bytes."""
        ...


class RemovalFeed(Protocol):
    """An optional power of a store: it says which keys left it.

    Passed by itself to the constructor that needs it (existence_cache); a store never asks
    another one what it can do.
    """

    def on_removed(self, callback: Callable[[StoreKey | None], None], /) -> None:
        """Call `callback`, on the event loop's thread, for every key that is evicted or lost.

        None stands for any number of keys that nobody can tell any more.
        """
        ...


class BlobFinder(Protocol):
    """An optional power of a store: it finds a blob of which only the hash is known.

    For plain HTTP, whose URLs say no size. It knows every digest that the store has; string keys
    are nobody's hash. Passed by itself to who needs it.
    """

    async def find(self, hash_: str) -> Digest | None:
        """The digest that has this hash, 64 lower-case hexadecimal digits; None if none has.

        The blob may be gone by the time that it is read.
        """
        ...


class TreeSource(Protocol):
    """An optional power of a store: it gives a whole tree of Directories in one call.

    Passed by itself to who fetches input trees.
    """

    async def get_tree(self, root: Digest) -> Sequence[bytes]:
        """The encoded directories below and including `root`, as many as are there, in any order.

        Raises:
            NativeLinkError: NOT_FOUND if the root is absent; UNIMPLEMENTED.
        """
        ...


class BlobSplitter(Protocol):
    """An optional power of a store: it splits and splices blobs where they are kept (REAPI v2).

    Passed by itself to who serves SplitBlob and SpliceBlob, so that no blob has to travel to be
    cut into chunks, and back as chunks.
    """

    async def split(self, blob: Digest, average_size: int) -> Sequence[Digest] | None:
        """The chunks that FAST_CDC_2020 makes of a blob, all of which are there afterwards.

        Args:
            blob: one that is there.
            average_size: of a chunk, in bytes.

        Returns:
            None if it cannot be done there: chunks of other sizes, too many of them, no chunks.

        Raises:
            NativeLinkError: the store could not be asked, or the blob is gone.
        """
        ...

    async def splice(self, blob: Digest, chunks: Sequence[Digest], function: int) -> bool:
        """Keep the blob that chunks make, if it has the digest.

        Args:
            blob: what they make.
            chunks: in order; all are there.
            function: the chunking function, a number of REAPI's.

        Returns:
            Whether it is there; False if it cannot be done there.

        Raises:
            NativeLinkError: the store could not be asked, or a chunk is gone.
        """
        ...


class DelegatingStore:
    """A store that passes everything on: the base of wrappers, which override what they change."""

    __slots__ = ("_backend",)

    def __init__(self, backend: Store) -> None:
        self._backend = backend

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        return await self._backend.has(keys)

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        await self._backend.get(key, sink, offset=offset, limit=limit)

    async def put(self, key: StoreKey, source: Source) -> int:
        return await self._backend.put(key, source)


def absent(key: StoreKey) -> NativeLinkError:
    """The error of contract 3."""
    return missing_blob(key) if isinstance(key, Digest) else not_found(f"key {key!r} not found")


async def has_one(store: Store, key: StoreKey) -> int | None:
    """`has` of a single key."""
    return (await store.has((key,)))[0]


async def read_bytes(
    store: Store,
    key: StoreKey,
    *,
    offset: int = 0,
    limit: int | None = None,
    max_size: int | None = None,
) -> bytes:
    """A blob, or a range of it, in memory.

    Raises:
        NativeLinkError: NOT_FOUND; RESOURCE_EXHAUSTED if there are more than `max_size` bytes.
    """
    sink = BytesSink(max_size)
    await store.get(key, sink, offset=offset, limit=limit)
    return sink.getvalue()


async def write_bytes(store: Store, key: StoreKey, data: Chunk) -> int:
    """Store a blob that is in memory."""
    return await store.put(key, BytesSource(data))
