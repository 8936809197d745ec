"""Blobs in chunks that are cut by their content: SplitBlob and SpliceBlob (REAPI v2).

A client that downloads asks which chunks a blob has, and fetches those that it lacks. A client
that uploads sends the chunks that the server lacks, and has the blob spliced from them. Blob and
chunks are ordinary blobs of the CAS; what is remembered of a blob is the list of its chunks.

- *Splitting* reads the blob once and puts the chunks that are not there. Its hash is checked on
  the way, under the digest function of the request: else a client that names the wrong function
  would leave a list of chunks under names that no other client can check. One request splits,
  those that ask for the same blob meanwhile wait for its list.
- *Splicing* reads the chunks and puts the blob, a few chunks ahead, through a check of size and
  hash. A list is remembered if the client's chunks are of the sizes that are announced, so nobody
  has to split the blob again.

Where the store can split and splice by itself (the CAS of another server), it does that instead.

Memory is two batches of `_BATCH_BYTES` or of one chunk, whichever is more, and as chunks differ in
length, four times that at worst; `_SPLITS` and `_SPLICES` blobs have it at a time, others wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from nativelink.core.digest import (
    Digest,
    DigestFunction,
    Hasher,
    digest_function,
    digests_of,
    is_empty,
)
from nativelink.core.eager import run_all
from nativelink.core.errors import (
    Code,
    MissingBlob,
    NativeLinkError,
    invalid_argument,
    missing_blob,
    not_found,
)
from nativelink.core.latch import Latch
from nativelink.core.streams import BytesSink, BytesSource, Pipe
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.limits import MAX_BATCH_REQUEST_BYTES
from nativelink.stores.join.cutting import CutsChunks, Cutting
from nativelink.stores.store import BlobSplitter, Store, read_bytes
from nativelink.stores.wrap.verify import VerifyStore

__all__ = ["AnnouncedChunker", "Chunking"]

_log = logging.getLogger(__name__)

#: Chunks that are read, or named and put, together.
_BATCH_BYTES: Final = 2 * 1024 * 1024
_MAX_BATCH_COUNT: Final = 256
#: What waits between a reader and a writer.
_PIPE_BYTES: Final = 256 * 1024
#: Splitting is bound to one processor; splicing waits for stores most of the time.
_SPLITS: Final = 4
_SPLICES: Final = 16
#: The longest chunk that a client may splice from, as it is read in one piece (NativeLink v1.6.6).
_MAX_CHUNK_BYTES: Final = 16 * 1024 * 1024
#: Digests whose presence is asked for in one call: about 3 MiB of messages for a remote store.
_HAS_COUNT: Final = 20_000
#: A digest in a request: hash and size (66 + 8), tags and lengths (4).
_ENTRY_BYTES: Final = 80
#: What a list may take in its store, per chunk (NativeLink v1.6.6).
_LISTED_BYTES: Final = 160
#: Missing chunks that an error names.
_NAMED: Final = 100
#: Shorter pieces are hashed on the loop.
_INLINE_BYTES: Final = 64 * 1024


class AnnouncedChunker(CutsChunks, Protocol):
    """The chunker whose parameters clients are told."""

    @property
    def min_size(self) -> int:
        """No chunk but a blob's last has fewer bytes."""
        ...

    @property
    def average_size(self) -> int:
        """Bytes of a chunk on average."""
        ...


class Chunking:
    """Splits and splices the blobs of one store.

    Args:
        store: has blobs and chunks.
        index: remembers lists of chunks, under the blobs' digests; so it is another store. A list
            is an encoded SplitBlobResponse (NativeLink v1.6.6). It may forget at any time.
        chunker: FAST_CDC_2020.
        max_chunk_count: chunks that one blob may have; others are transferred whole.
        default_function: the digest function of requests that name none.
        splitter: does the work where the blobs are, if the store can.
        rooms: each of them is entered while a blob is split or spliced here. One request transfers
            the blob and goes on only while others transfer its chunks, so where a store takes so
            many requests at a time, the blobs must be fewer.

    Attributes:
        average_chunk_size: for the capabilities, in bytes.
        max_request_bytes: length of a SpliceBlob request of so many chunks.
    """

    def __init__(
        self,
        store: Store,
        index: Store,
        *,
        chunker: AnnouncedChunker,
        max_chunk_count: int,
        default_function: DigestFunction,
        splitter: BlobSplitter | None = None,
        rooms: Sequence[asyncio.Semaphore] = (),
    ) -> None:
        self._store = store
        self._index = index
        self._chunker = chunker
        self._max_count = max_chunk_count
        self._default_function = default_function
        self._verified = VerifyStore(
            store, verify_size=True, verify_hash=True, default_function=default_function
        )
        self._splitter = splitter
        self._splits = (asyncio.Semaphore(_SPLITS), *rooms)
        self._splices = (asyncio.Semaphore(_SPLICES), *rooms)
        self._splitting: dict[tuple[Digest, DigestFunction], Latch] = {}
        self.average_chunk_size = chunker.average_size
        self.max_request_bytes = min(_ENTRY_BYTES * (max_chunk_count + 10), MAX_BATCH_REQUEST_BYTES)

    async def split(self, blob: Digest) -> pb.SplitBlobResponse:
        """The chunks of a blob, all of which are in the store.

        Cancelled, it leaves some of them there.

        Raises:
            NativeLinkError: NOT_FOUND for a blob that is not there, or has too many chunks;
                INVALID_ARGUMENT if its bytes do not have its hash; what the store raises.
        """
        if is_empty(blob):
            return _listed((), pb.ChunkingFunction.FAST_CDC_2020)
        splitting = blob, digest_function.get() or self._default_function
        while True:
            known = await self._remembered(blob)
            if known is not None:
                return known
            if blob.size_bytes > self._max_count * self._chunker.max_size:
                raise self._too_many(blob)
            latch = self._splitting.get(splitting)
            if latch is None:
                break
            await latch.wait()
        latch = self._splitting[splitting] = Latch()
        try:
            chunks = await self._split_elsewhere(blob)
            if chunks is None:
                async with _all_of(self._splits):
                    chunks = await self._cut(*splitting)
            answer = _listed(chunks, pb.ChunkingFunction.FAST_CDC_2020)
            await self._remember(blob, answer)
        finally:
            del self._splitting[splitting]
            latch.set()
        return answer

    async def splice(self, blob: Digest, chunks: Sequence[Digest], function: int) -> None:
        """Store the blob that chunks make, if it is not there already.

        Cancelled or failed, it leaves nothing.

        Args:
            blob: what they must have the hash of.
            chunks: in order.
            function: the client's chunking function, a number of REAPI's.

        Raises:
            NativeLinkError: INVALID_ARGUMENT if the chunks do not make the blob, or for chunks of
                a length that is not allowed; NOT_FOUND for chunks that are not there; what the
                store raises.
        """
        self._check(blob, chunks)
        unique = list(dict.fromkeys(chunks))
        missing = await self._missing([blob, *unique])
        if blob not in missing:
            return
        missing.remove(blob)
        if missing:
            lost = [chunk for chunk in unique if chunk in missing]
            raise NativeLinkError(
                Code.NOT_FOUND,
                f"{len(lost)} of the {len(unique)} chunks of blob {blob} are not here; the first "
                f"is {lost[0]}: upload them before they are spliced",
                details=[MissingBlob(chunk) for chunk in lost[:_NAMED]],
            )
        if self._splitter is None or not await self._splitter.splice(blob, chunks, function):
            async with _all_of(self._splices):
                pipe = Pipe(blob.size_bytes, capacity_bytes=_BATCH_BYTES)
                await run_all((self._join(chunks, pipe), self._put(blob, pipe)))
        sizes = [chunk.size_bytes for chunk in chunks]
        if min(sizes[:-1], default=self._chunker.min_size) >= self._chunker.min_size and (
            max(sizes) <= self._chunker.max_size
        ):
            await self._remember(blob, _listed(chunks, function))

    def _check(self, blob: Digest, chunks: Sequence[Digest]) -> None:
        """Raise for chunks that cannot make the blob."""
        if len(chunks) > self._max_count:
            raise invalid_argument(
                f"blob {blob} has {len(chunks)} chunks; {self._max_count} are allowed "
                "(max_chunk_count): upload it whole"
            )
        for chunk in chunks:
            if not 0 < chunk.size_bytes <= _MAX_CHUNK_BYTES:
                raise invalid_argument(
                    f"chunk {chunk} of blob {blob}: 1 to {_MAX_CHUNK_BYTES} bytes are allowed"
                )
        size = sum(chunk.size_bytes for chunk in chunks)
        if size != blob.size_bytes:
            raise invalid_argument(f"the chunks of blob {blob} have {size} bytes together")

    async def _remembered(self, blob: Digest) -> pb.SplitBlobResponse | None:
        """The list of a blob that is there, if it is known and all of its chunks are there."""
        answer = pb.SplitBlobResponse()
        chunks: list[Digest] = []
        if blob.size_bytes <= self._chunker.min_size:
            chunks = [blob]
            answer = _listed(chunks, pb.ChunkingFunction.FAST_CDC_2020)
        else:
            try:
                data = await read_bytes(self._index, blob, max_size=_LISTED_BYTES * self._max_count)
                answer.ParseFromString(data)
                chunks = digests_of(answer.chunk_digests)
            except DecodeError:
                pass
            except NativeLinkError as error:
                if error.code is not Code.NOT_FOUND:
                    _log.warning("the chunks of blob %s are not known: %s", blob, error)
        missing = await self._missing([blob, *chunks])
        if blob in missing:
            raise missing_blob(blob)
        fits = sum(chunk.size_bytes for chunk in chunks) == blob.size_bytes
        return answer if fits and not missing and len(chunks) <= self._max_count else None

    async def _remember(self, blob: Digest, answer: pb.SplitBlobResponse) -> None:
        if len(answer.chunk_digests) < 2:
            return
        try:
            await self._index.put(blob, BytesSource(answer.SerializeToString()))
        except NativeLinkError as error:
            _log.warning("the chunks of blob %s are not remembered: %s", blob, error)

    async def _split_elsewhere(self, blob: Digest) -> Sequence[Digest] | None:
        """The chunks that the store itself makes of a blob; None if it makes none of use."""
        if self._splitter is None:
            return None
        chunks = await self._splitter.split(blob, self.average_chunk_size)
        if (
            chunks is None
            or len(chunks) > self._max_count
            or sum(chunk.size_bytes for chunk in chunks) != blob.size_bytes
        ):
            return None
        return chunks

    async def _cut(self, blob: Digest, function: DigestFunction) -> list[Digest]:
        """Put the chunks of a blob."""
        pipe = Pipe(blob.size_bytes, capacity_bytes=_PIPE_BYTES)
        hasher = function.new()
        chunks: list[Digest] = []

        async def keep(batch: list[bytes]) -> None:
            chunks.extend(await self._keep(batch, hasher, function))
            if len(chunks) > self._max_count:
                raise self._too_many(blob)

        async def cut() -> None:
            count = min(max(1, _BATCH_BYTES // self.average_chunk_size), _MAX_BATCH_COUNT)
            cutting = Cutting(pipe, self._chunker, count)
            await cutting.cut()
            while batch := cutting.batch:
                await run_all((keep(batch), cutting.cut()))
            if cutting.size != blob.size_bytes:
                raise NativeLinkError(
                    Code.DATA_LOSS, f"the store gave {cutting.size} bytes of blob {blob}"
                )

        async def read() -> None:
            await self._store.get(blob, pipe)
            pipe.close()

        await run_all((read(), cut()))
        if hasher.hexdigest() != blob.hash:
            raise invalid_argument(
                f"the bytes stored as {blob} have the {function.name} hash {hasher.hexdigest()}: "
                "the digest function is another one, or they are damaged"
            )
        return chunks

    async def _keep(
        self, batch: list[bytes], hasher: Hasher, function: DigestFunction
    ) -> list[Digest]:
        """Put those chunks that are not there; their names."""

        def names() -> list[Digest]:
            for chunk in batch:
                hasher.update(chunk)
            return [function.digest_of(chunk) for chunk in batch]

        inline = sum(map(len, batch)) < _INLINE_BYTES
        digests = names() if inline else await asyncio.to_thread(names)
        new = dict(zip(digests, batch, strict=True))
        there = await self._store.has(list(new))
        await run_all(
            self._store.put(digest, BytesSource(data))
            for (digest, data), size in zip(new.items(), there, strict=True)
            if size is None
        )
        return digests

    async def _join(self, chunks: Sequence[Digest], pipe: Pipe) -> None:
        """Write the bytes of chunks, one after the other."""
        for batch in _batches(chunks):
            for data in await run_all(map(self._read, batch)):
                await pipe.write(data)
        pipe.close()

    async def _read(self, chunk: Digest) -> bytes:
        collected = BytesSink(chunk.size_bytes)
        await self._store.get(chunk, collected)
        if collected.size != chunk.size_bytes:
            raise NativeLinkError(
                Code.DATA_LOSS, f"the store gave {collected.size} bytes of chunk {chunk}"
            )
        return collected.getvalue()

    async def _put(self, blob: Digest, pipe: Pipe) -> None:
        await self._verified.put(blob, pipe)

    async def _missing(self, digests: Sequence[Digest]) -> set[Digest]:
        missing: set[Digest] = set()
        for start in range(0, len(digests), _HAS_COUNT):
            some = digests[start : start + _HAS_COUNT]
            sizes = await self._store.has(some)
            missing |= {digest for digest, size in zip(some, sizes, strict=True) if size is None}
        return missing

    def _too_many(self, blob: Digest) -> NativeLinkError:
        return not_found(
            f"blob {blob} has more than {self._max_count} chunks (max_chunk_count): read it whole"
        )


@asynccontextmanager
async def _all_of(rooms: Sequence[asyncio.Semaphore]) -> AsyncGenerator[None]:
    """In all of these rooms, which everybody enters in the same order."""
    async with AsyncExitStack() as stack:
        for room in rooms:
            await stack.enter_async_context(room)
        yield


def _batches(chunks: Sequence[Digest]) -> Iterator[Sequence[Digest]]:
    """The chunks in order, as many together as have `_BATCH_BYTES`, or one that has more."""
    start, size = 0, 0
    for at, chunk in enumerate(chunks):
        size += chunk.size_bytes
        if at > start and (size > _BATCH_BYTES or at - start == _MAX_BATCH_COUNT):
            yield chunks[start:at]
            start, size = at, chunk.size_bytes
    yield chunks[start:]


def _listed(chunks: Sequence[Digest], function: int) -> pb.SplitBlobResponse:
    return pb.SplitBlobResponse(
        chunk_digests=[pb.Digest(hash=hash_, size_bytes=size) for hash_, size in chunks],
        chunking_function=function,  # type: ignore[arg-type]  # any number is one on the wire
    )
