"""Blobs cut into chunks by their content, and equal chunks kept once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from nativelink.core.digest import Digest, DigestFunction, StoreKey, is_empty
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError, out_of_range
from nativelink.core.streams import BytesSink, BytesSource, Sink, Source, drain
from nativelink.stores.join.chunker import Chunker
from nativelink.stores.join.cutting import Cutting
from nativelink.stores.join.dedup_index import decode_index, encode_index
from nativelink.stores.store import Store, absent, read_bytes

__all__ = ["DedupStore"]

#: Indices that are read at once when many keys are asked for.
_CONCURRENT_READS: Final = 16

#: Chunks whose presence is asked for in one call: about 3 MiB of digests.
_HAS_COUNT: Final = 20_000

#: An index of this size lists six million chunks; a larger value is none.
_MAX_INDEX_BYTES: Final = 256 * 1024 * 1024


class DedupStore:
    """Two stores as one: lists of chunks in `index`, the chunks in `content`.

    Chunk boundaries, chunk names (BLAKE3, whatever function names the blobs) and lists are
    NativeLink v1.6.6's. A chunk that `content` has is not written again. The list is written when
    all chunks are there; a blob is there if its list and all chunks are.

    A chunk that is evicted takes away all blobs that use it: `get` raises NOT_FOUND, in the middle
    if the chunk went while the blob was read.

    Args:
        index: lists, under the blobs' keys.
        content: chunks, under their digests. It sees digests only.
        chunker: where to cut.
        max_concurrent: chunks of one transfer that are in memory at a time; at least 2 are.
        report: told of every blob that was put: its bytes, and those of them that were new.
    """

    __slots__ = ("_batch", "_chunker", "_content", "_index", "_report")

    def __init__(
        self,
        index: Store,
        content: Store,
        *,
        chunker: Chunker,
        max_concurrent: int,
        report: Callable[[int, int], None] | None = None,
    ) -> None:
        self._index = index
        self._content = content
        self._chunker = chunker
        # While one batch goes out, the next one comes in.
        self._batch = max(1, max_concurrent // 2)
        self._report = report

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        found = await self._index.has(keys)
        sizes: list[int | None] = [0 if is_empty(key) else None for key in keys]
        listed = [
            at for at, size in enumerate(found) if size is not None and not is_empty(keys[at])
        ]
        for start in range(0, len(listed), _CONCURRENT_READS):
            some = listed[start : start + _CONCURRENT_READS]
            indices = await run_all(self._chunks(keys[at]) for at in some)
            needed = list(dict.fromkeys(chunk for chunks in indices for chunk in chunks or ()))
            lost = await self._lost(needed)
            for at, chunks in zip(some, indices, strict=True):
                if chunks is not None and (not lost or lost.isdisjoint(chunks)):
                    sizes[at] = sum(chunk.size_bytes for chunk in chunks)
        return sizes

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        if is_empty(key):
            await self._index.get(key, sink, offset=offset, limit=limit)
            return
        chunks = await self._chunks(key)
        if chunks is None:
            raise absent(key)
        size = sum(chunk.size_bytes for chunk in chunks)
        if offset > size:
            raise out_of_range(f"offset {offset} is beyond the {size} bytes of {key}")
        parts = _parts(chunks, offset, size if limit is None else min(size, offset + limit))
        count = 1
        ahead = _Ahead(self._content, key)
        await ahead.fetch(list(islice(parts, count)))
        while data := ahead.data:
            # One chunk first, so that a reader gets something soon; then more and more at once.
            count = min(2 * count, self._batch)
            await run_all((_write_all(data, sink), ahead.fetch(list(islice(parts, count)))))

    async def put(self, key: StoreKey, source: Source) -> int:
        if is_empty(key):
            return await drain(source)
        cutting = Cutting(source, self._chunker, self._batch)
        chunks: list[Digest] = []
        kept = 0

        async def keep(batch: list[bytes]) -> None:
            nonlocal kept
            digests = [DigestFunction.BLAKE3.digest_of(chunk) for chunk in batch]
            chunks.extend(digests)
            kept += await self._keep(dict(zip(digests, batch, strict=True)))

        await cutting.cut()
        while batch := cutting.batch:
            await run_all((keep(batch), cutting.cut()))
        await self._index.put(key, BytesSource(encode_index(chunks)))
        if self._report is not None:
            self._report(cutting.size, kept)
        return cutting.size

    async def _keep(self, chunks: dict[Digest, bytes]) -> int:
        """Store those chunks that are not there; returns how many bytes that were."""
        there = await self._content.has(list(chunks))
        new = [
            (digest, data)
            for (digest, data), size in zip(chunks.items(), there, strict=True)
            if size is None
        ]
        return sum(
            await run_all(self._content.put(digest, BytesSource(data)) for digest, data in new)
        )

    async def _chunks(self, key: StoreKey) -> list[Digest] | None:
        """The list of a blob's chunks, None if there is none."""
        try:
            return decode_index(await read_bytes(self._index, key, max_size=_MAX_INDEX_BYTES))
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise

    async def _lost(self, chunks: Sequence[Digest]) -> set[Digest]:
        """Those chunks that are not there."""
        lost: set[Digest] = set()
        for start in range(0, len(chunks), _HAS_COUNT):
            some = chunks[start : start + _HAS_COUNT]
            there = await self._content.has(some)
            lost |= {chunk for chunk, size in zip(some, there, strict=True) if size is None}
        return lost


class _Part(NamedTuple):
    """A part of a chunk."""

    chunk: Digest
    start: int
    end: int


def _parts(chunks: Sequence[Digest], start: int, end: int) -> Iterator[_Part]:
    """What of each chunk lies between two positions of the blob."""
    position = 0
    for chunk in chunks:
        if max(position, start) >= end:
            return
        following = position + chunk.size_bytes
        if following > start:
            yield _Part(chunk, max(0, start - position), min(end, following) - position)
        position = following


class _Ahead:
    """Reads parts of chunks into memory.

    Attributes:
        data: what was read last, in order.
    """

    __slots__ = ("_content", "_key", "data")

    def __init__(self, content: Store, key: StoreKey) -> None:
        self._content = content
        self._key = key
        self.data: list[bytes] = []

    async def fetch(self, parts: Sequence[_Part]) -> None:
        """Read these parts, all at once.

        Raises:
            NativeLinkError: NOT_FOUND for the blob if a chunk is not there; DATA_LOSS if one is
                not as long as its name says.
        """
        self.data = await run_all(map(self._read, parts))

    async def _read(self, part: _Part) -> bytes:
        chunk, start, end = part
        collected = BytesSink(end - start)
        # A whole chunk is asked for as such, so that caches between keep it.
        limit = None if end == chunk.size_bytes else end - start
        try:
            await self._content.get(chunk, collected, offset=start, limit=limit)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                raise absent(self._key) from error
            raise
        if collected.size != end - start:
            raise NativeLinkError(
                Code.DATA_LOSS,
                f"a chunk of {self._key} gave {collected.size} bytes, not {end - start}: {chunk}",
            )
        return collected.getvalue()


async def _write_all(data: Sequence[bytes], sink: Sink) -> None:
    for chunk in data:
        await sink.write(chunk)
