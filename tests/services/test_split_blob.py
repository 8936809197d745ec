"""SplitBlob, and what the chunk lists that it keeps are good for."""

from __future__ import annotations

import asyncio
import logging

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, MissingBlob, NativeLinkError, unavailable
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.store import write_bytes
from nativelink.testing.fakes import DictStore
from tests.services.chunk_lists import (
    AVERAGE,
    BLAKE3,
    BLOB,
    FAST_CDC,
    SHA256,
    Chunks,
    digests_in,
    pieces,
)


class TestSplit:
    @pytest.mark.parametrize("function", [SHA256, BLAKE3])
    async def test_the_chunks_of_a_blob_are_stored_and_listed(
        self, function: DigestFunction
    ) -> None:
        chunks = Chunks()
        (blob,) = await chunks.put(BLOB, function=function)

        answer = await chunks.split(blob, function=function)

        assert answer.chunking_function == FAST_CDC
        digests = digests_in(answer)
        assert len(digests) > 10
        assert b"".join(chunks.blobs.blobs[digest] for digest in digests) == BLOB
        assert digests == [function.digest_of(piece) for piece in pieces(BLOB)]

    async def test_a_blob_is_split_once(self) -> None:
        chunks = Chunks()
        (blob,) = await chunks.put(BLOB)
        first = await chunks.split(blob)
        puts = len(chunks.store.puts)

        assert await chunks.split(blob) == first
        assert (chunks.store.gets, len(chunks.store.puts)) == ([blob], puts)

    async def test_requests_of_one_moment_share_the_work(self) -> None:
        chunks = Chunks()
        (blob,) = await chunks.put(BLOB)
        answers = await run_all(chunks.split(blob) for _ in range(5))
        assert all(answer == answers[0] for answer in answers)
        assert chunks.store.gets == [blob]

    async def test_one_who_leaves_does_not_take_the_list_away_from_the_others(self) -> None:
        chunks = Chunks()
        (blob,) = await chunks.put(BLOB)
        first = asyncio.create_task(chunks.split(blob))
        second = asyncio.create_task(chunks.split(blob))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert len((await second).chunk_digests) > 10

    async def test_chunks_that_are_there_are_not_stored_again(self) -> None:
        chunks = Chunks()
        changed = BLOB[:150_000] + b"inserted" + BLOB[150_000:]
        one, other = await chunks.put(BLOB, changed)
        before = set(digests_in(await chunks.split(one)))
        chunks.store.puts.clear()

        after = digests_in(await chunks.split(other))

        assert set(chunks.store.puts) == set(after) - before
        assert len(chunks.store.puts) <= 3

    async def test_lost_chunks_are_made_again(self) -> None:
        chunks = Chunks()
        (blob,) = await chunks.put(BLOB)
        answer = await chunks.split(blob)
        lost = digests_in(answer)[3]
        del chunks.blobs.blobs[lost]
        chunks.store.puts.clear()

        assert await chunks.split(blob) == answer
        assert chunks.store.puts == [lost]

    @pytest.mark.parametrize("forgotten", [True, False])
    async def test_a_blob_that_is_not_there_is_not_found(self, forgotten: bool) -> None:
        chunks = Chunks()
        (blob,) = await chunks.put(BLOB)
        if not forgotten:
            await chunks.split(blob)
        del chunks.blobs.blobs[blob]
        with pytest.raises(NativeLinkError) as caught:
            await chunks.split(blob)
        assert caught.value.code is Code.NOT_FOUND
        assert caught.value.details == (MissingBlob(blob),)

    async def test_a_short_blob_is_its_own_chunk(self) -> None:
        chunks = Chunks()
        for size in (1, AVERAGE // 4):
            (blob,) = await chunks.put(BLOB[:size])
            assert digests_in(await chunks.split(blob)) == [blob]
        assert not chunks.store.puts
        assert not chunks.index.blobs

    async def test_the_empty_blob_has_no_chunks(self) -> None:
        assert digests_in(await Chunks().split(SHA256.digest_of(b""))) == []

    @pytest.mark.parametrize("count", [3, 10])
    async def test_a_blob_of_too_many_chunks_has_none(self, count: int) -> None:
        # Three are fewer than the longest chunks would make; ten only turn out to be too few.
        chunks = Chunks(max_chunk_count=count)
        (blob,) = await chunks.put(BLOB)
        with pytest.raises(NativeLinkError, match=f"more than {count} chunks") as caught:
            await chunks.split(blob)
        assert caught.value.code is Code.NOT_FOUND
        assert bool(chunks.store.gets) == (count == 10)

    async def test_a_wrong_digest_function_leaves_no_list(self) -> None:
        chunks = Chunks()
        (blob,) = await chunks.put(BLOB)
        with pytest.raises(NativeLinkError, match="BLAKE3 hash") as caught:
            await chunks.split(blob, function=BLAKE3)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert not chunks.index.blobs

    async def test_a_request_without_a_function_means_the_default(self) -> None:
        chunks = Chunks(default=BLAKE3)
        (blob,) = await chunks.put(BLOB, function=BLAKE3)
        assert digests_in(await chunks.split(blob))[0] == BLAKE3.digest_of(pieces(BLOB)[0])

    async def test_a_blob_that_is_shorter_in_the_store_is_data_loss(self) -> None:
        chunks = Chunks()
        (blob,) = await chunks.put(BLOB)
        chunks.blobs.blobs[blob] = BLOB[:-1]
        with pytest.raises(NativeLinkError) as caught:
            await chunks.split(blob)
        assert caught.value.code is Code.DATA_LOSS

    @pytest.mark.parametrize(
        "value",
        [b"\xff\xff", b"", pb.SplitBlobResponse(chunk_digests=[pb.Digest(hash="x")])],
        ids=str,
    )
    async def test_a_list_that_is_none_is_made_again(
        self, value: bytes | pb.SplitBlobResponse
    ) -> None:
        chunks = Chunks()
        (blob,) = await chunks.put(BLOB)
        raw = value if isinstance(value, bytes) else value.SerializeToString()
        await write_bytes(chunks.index, blob, raw)
        assert len((await chunks.split(blob)).chunk_digests) > 10
        assert chunks.index.blobs[blob] != raw

    async def test_a_list_of_another_blob_is_not_believed(self) -> None:
        chunks = Chunks()
        blob, other = await chunks.put(BLOB, BLOB[1:])
        await chunks.split(other)
        chunks.index.blobs[blob] = chunks.index.blobs[other]
        assert digests_in(await chunks.split(blob)) == [SHA256.digest_of(p) for p in pieces(BLOB)]

    async def test_an_index_that_fails_costs_work_and_nothing_else(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(DictStore):
            async def get(self, *_: object, **__: object) -> None:
                raise unavailable("no index")

            async def put(self, *_: object) -> int:
                raise unavailable("no index")

        chunks = Chunks(index=Broken())
        (blob,) = await chunks.put(BLOB)
        with caplog.at_level(logging.WARNING):
            assert len((await chunks.split(blob)).chunk_digests) > 10
        assert "are not known: no index" in caplog.text
        assert "are not remembered: no index" in caplog.text
