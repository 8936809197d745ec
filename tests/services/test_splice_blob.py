"""SpliceBlob: a blob of chunks, checked, kept, and never far ahead of its writer."""

from __future__ import annotations

import asyncio

import pytest

from nativelink.core.digest import Digest, DigestFunction, StoreKey
from nativelink.core.errors import Code, MissingBlob, NativeLinkError, unavailable
from nativelink.core.streams import Sink, Source
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.testing.fakes import DictStore
from tests.services.chunk_lists import BLAKE3, BLOB, FAST_CDC, SHA256, Chunks, digests_in, pieces


class TestSplice:
    @pytest.mark.parametrize("function", [SHA256, BLAKE3])
    async def test_a_blob_is_made_of_its_chunks(self, function: DigestFunction) -> None:
        chunks = Chunks()
        parts = await chunks.put(*pieces(BLOB), function=function)
        blob = function.digest_of(BLOB)

        assert await chunks.splice(blob, parts, function=function) == blob

        assert chunks.blobs.blobs[blob] == BLOB
        # Nobody has to read it to split it.
        chunks.store.gets.clear()
        answer = await chunks.split(blob, function=function)
        assert (digests_in(answer), answer.chunking_function) == (parts, FAST_CDC)
        assert not chunks.store.gets

    async def test_chunks_may_repeat_and_be_of_any_length(self) -> None:
        chunks = Chunks()
        data = [b"a", b"bc" * 40_000, b"a", b"a", BLOB * 10]
        parts = await chunks.put(*data)
        whole = b"".join(data)
        await chunks.splice(SHA256.digest_of(whole), parts, chunking=pb.ChunkingFunction.UNKNOWN)
        assert chunks.blobs.blobs[SHA256.digest_of(whole)] == whole
        # They are no chunks that others would have.
        assert not chunks.index.blobs

    async def test_missing_chunks_are_named(self) -> None:
        chunks = Chunks()
        parts = await chunks.put(*pieces(BLOB))
        blob = SHA256.digest_of(BLOB)
        for lost in (parts[2], parts[5]):
            del chunks.blobs.blobs[lost]
        with pytest.raises(NativeLinkError, match=f"^2 of the {len(parts)} chunks") as caught:
            await chunks.splice(blob, parts)
        assert caught.value.code is Code.NOT_FOUND
        assert caught.value.details == (MissingBlob(parts[2]), MissingBlob(parts[5]))
        assert str(parts[2]) in caught.value.message
        assert (chunks.store.gets, chunks.store.puts) == ([], [])

    async def test_chunks_that_make_another_blob_are_refused(self) -> None:
        chunks = Chunks()
        parts = await chunks.put(*pieces(BLOB))
        blob = SHA256.digest_of(BLOB)
        swapped = [parts[1], parts[0], *parts[2:]]
        with pytest.raises(NativeLinkError, match="SHA256 hash") as caught:
            await chunks.splice(blob, swapped)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert blob not in chunks.blobs.blobs
        assert not chunks.index.blobs

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ([10, 10], "have 20 bytes together"),
            ([], "have 0 bytes together"),
            ([30, 0], "1 to 16777216 bytes"),
            ([2**24 + 1], "1 to 16777216 bytes"),
            ([3] * 11, "has 11 chunks; 10 are allowed"),
        ],
    )
    async def test_chunks_that_cannot_be_right_are_refused_before_anything_is_read(
        self, sizes: list[int], message: str
    ) -> None:
        chunks = Chunks(max_chunk_count=10)
        parts = [Digest("a" * 64, size) for size in sizes]
        with pytest.raises(NativeLinkError, match=message) as caught:
            await chunks.splice(Digest("b" * 64, 30), parts)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert not chunks.store.gets

    async def test_a_blob_that_is_there_is_not_made_again(self) -> None:
        chunks = Chunks()
        (blob,) = await chunks.put(BLOB)
        await chunks.splice(blob, [SHA256.digest_of(piece) for piece in pieces(BLOB)])
        assert (chunks.store.gets, chunks.store.puts) == ([], [])
        # Nor is a list believed that nobody checked.
        assert not chunks.index.blobs

    async def test_a_blob_that_is_not_there_cannot_be_made_of_itself(self) -> None:
        chunks = Chunks()
        blob = SHA256.digest_of(BLOB)
        with pytest.raises(NativeLinkError) as caught:
            await chunks.splice(blob, [blob])
        assert (caught.value.code, caught.value.details) == (Code.NOT_FOUND, (MissingBlob(blob),))

    async def test_the_empty_blob_is_made_of_nothing(self) -> None:
        await Chunks().splice(SHA256.digest_of(b""), [])

    async def test_a_chunk_that_goes_away_meanwhile_is_not_found(self) -> None:
        class Losing(DictStore):
            async def get(
                self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
            ) -> None:
                self.blobs.pop(lost, None)
                await super().get(key, sink, offset=offset, limit=limit)

        blobs = Losing()
        chunks = Chunks(store=blobs)
        chunks.blobs = blobs
        parts = await chunks.put(*pieces(BLOB))
        lost = parts[-1]
        with pytest.raises(NativeLinkError) as caught:
            await chunks.splice(SHA256.digest_of(BLOB), parts)
        assert caught.value.code is Code.NOT_FOUND
        assert SHA256.digest_of(BLOB) not in blobs.blobs

    async def test_an_error_of_the_store_ends_the_reading_too(self) -> None:
        class Full(DictStore):
            async def put(self, key: StoreKey, source: Source) -> int:
                await source.read()
                raise unavailable("the disk is gone")

        blobs = Full()
        chunks = Chunks(store=blobs)
        parts = [BLOB] * 30
        blobs.blobs.update({SHA256.digest_of(part): part for part in parts})
        with pytest.raises(NativeLinkError, match="the disk is gone"):
            await chunks.splice(SHA256.digest_of(BLOB * 30), list(map(SHA256.digest_of, parts)))
        assert len(chunks.store.gets) < len(parts)

    async def test_reading_is_never_far_ahead_of_writing(self) -> None:
        gate = asyncio.Event()

        class Slow(DictStore):
            async def put(self, key: StoreKey, source: Source) -> int:
                await source.read()
                await gate.wait()
                return await super().put(key, source)

        blobs = Slow()
        chunks = Chunks(store=blobs)
        parts = [BLOB] * 60
        blobs.blobs.update({SHA256.digest_of(part): part for part in parts})
        whole = asyncio.create_task(
            chunks.splice(SHA256.digest_of(BLOB * 60), list(map(SHA256.digest_of, parts)))
        )
        for _ in range(1000):
            await asyncio.sleep(0)
        ahead = sum(key.size_bytes for key in chunks.store.gets if isinstance(key, Digest))
        assert 2_000_000 < ahead < 7_000_000
        whole.cancel()
        with pytest.raises(asyncio.CancelledError):
            await whole
