"""Chunking as a whole: what the store can do by itself, and what is allowed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Sink, Source
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.store import DelegatingStore, Store, read_bytes
from tests.services.chunk_lists import AVERAGE, BLOB, FAST_CDC, SHA256, Chunks, digests_in, pieces


class Limited(DelegatingStore):
    """Takes so many requests at a time; a transfer is one, however long its other end waits."""

    def __init__(self, backend: Store, requests: int) -> None:
        super().__init__(backend)
        self._requests = asyncio.Semaphore(requests)

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        async with self._requests:
            return await super().has(keys)

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        data = memoryview(await read_bytes(self._backend, key))
        async with self._requests:
            for start in range(0, len(data), 65_536):
                await sink.write(data[start : start + 65_536])

    async def put(self, key: StoreKey, source: Source) -> int:
        async with self._requests:
            return await super().put(key, source)


class TestAStoreOfFewRequests:
    """Whoever transfers a blob must leave a request to its chunks, or all wait for each other."""

    async def test_many_blobs_are_split(self) -> None:
        chunks = Chunks(average=64 * 1024, room=1)
        chunks.store._backend = Limited(chunks.blobs, 2)
        # So long that no buffer on the way takes what is left of them.
        blobs = await chunks.put(*(random.Random(seed).randbytes(6_000_000) for seed in range(2)))
        async with asyncio.timeout(60):
            answers = await run_all(map(chunks.split, blobs))
        assert all(len(answer.chunk_digests) > 50 for answer in answers)

    async def test_many_blobs_are_spliced(self) -> None:
        chunks = Chunks(room=1)
        chunks.store._backend = Limited(chunks.blobs, 2)
        data = [random.Random(seed).randbytes(100_000) for seed in range(5)]
        parts = [await chunks.put(*pieces(each)) for each in data]
        async with asyncio.timeout(60):
            await run_all(
                chunks.splice(SHA256.digest_of(each), part)
                for each, part in zip(data, parts, strict=True)
            )
        assert all(chunks.blobs.blobs[SHA256.digest_of(each)] == each for each in data)


class Splitter:
    """A store that splits and splices by itself, or says that it does not."""

    def __init__(self, *, chunks: Sequence[Digest] | None = None, spliced: bool = False) -> None:
        self.chunks = chunks
        self.spliced = spliced
        self.asked: list[object] = []

    async def split(self, blob: Digest, average_size: int) -> Sequence[Digest] | None:
        self.asked.append((blob, average_size))
        return self.chunks

    async def splice(self, blob: Digest, chunks: Sequence[Digest], function: int) -> bool:
        self.asked.append((blob, list(chunks), function))
        return self.spliced


class TestAStoreThatSplits:
    async def test_it_is_asked_for_the_chunks(self) -> None:
        splitter = Splitter()
        chunks = Chunks(splitter=splitter)
        (blob,) = await chunks.put(BLOB)
        splitter.chunks = parts = await chunks.put(BLOB[:100_000], BLOB[100_000:])
        for _ in range(2):
            assert digests_in(await chunks.split(blob)) == parts
        assert splitter.asked == [(blob, AVERAGE)]
        assert (chunks.store.gets, chunks.store.puts) == ([], [])

    @pytest.mark.parametrize("count", [None, 1, 2])
    async def test_what_it_cannot_do_is_done_here(self, count: int | None) -> None:
        chunks = Chunks(splitter=(splitter := Splitter()))
        (blob,) = await chunks.put(BLOB)
        if count is not None:
            # Its chunks are too few bytes, or too many.
            splitter.chunks = (await chunks.put(BLOB[1:])) * count
        assert digests_in(await chunks.split(blob)) == [SHA256.digest_of(p) for p in pieces(BLOB)]

    async def test_it_makes_the_blob(self) -> None:
        splitter = Splitter(spliced=True)
        chunks = Chunks(splitter=splitter)
        parts = await chunks.put(*pieces(BLOB))
        blob = SHA256.digest_of(BLOB)
        assert await chunks.splice(blob, parts) == blob
        assert splitter.asked == [(blob, parts, FAST_CDC)]
        assert (chunks.store.gets, chunks.store.puts) == ([], [])

    async def test_what_it_does_not_make_is_made_here(self) -> None:
        chunks = Chunks(splitter=Splitter())
        parts = await chunks.put(*pieces(BLOB))
        blob = SHA256.digest_of(BLOB)
        await chunks.splice(blob, parts)
        assert chunks.blobs.blobs[blob] == BLOB


async def test_without_the_setting_both_are_unimplemented() -> None:
    chunks = Chunks()
    (blob,) = await chunks.put(BLOB)
    for call in (
        chunks.split(blob, instance="plain"),
        chunks.splice(blob, [blob], instance="plain"),
    ):
        with pytest.raises(NativeLinkError, match="is not enabled for instance 'plain'") as caught:
            await call
        assert caught.value.code is Code.UNIMPLEMENTED
    with pytest.raises(NativeLinkError, match="no instance 'nobody'"):
        await chunks.split(blob, instance="nobody")


async def test_a_request_of_as_many_chunks_as_are_allowed_is_taken() -> None:
    def taken(count: int) -> int:
        methods = Chunks(max_chunk_count=count).service.methods()
        (splice,) = [each for each in methods if each.path.endswith("SpliceBlob")]
        return splice.min_message_bytes

    longest = pb.Digest(hash="a" * 64, size_bytes=2**24)
    request = pb.SpliceBlobRequest(blob_digest=longest, chunk_digests=[longest] * 60_000)
    assert taken(60_000) >= request.ByteSize() > 4 * 1024 * 1024
    assert taken(10_000_000) == 8 * 1024 * 1024
