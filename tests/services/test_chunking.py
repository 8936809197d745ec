"""SplitBlob and SpliceBlob, and what chunk lists are good for."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

import pytest

from nativelink.core.digest import Digest, DigestFunction, StoreKey
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, MissingBlob, NativeLinkError, unavailable
from nativelink.core.streams import Sink, Source
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.cas import CasInstance, CasService
from nativelink.services.chunking import Chunking
from nativelink.services.fast_cdc import FastCdc2020
from nativelink.stores.store import (
    BlobSplitter,
    DelegatingStore,
    Store,
    read_bytes,
    write_bytes,
)
from nativelink.testing.calls import Caller, digest_message
from nativelink.testing.fakes import DictStore

SHA256, BLAKE3 = DigestFunction.SHA256, DigestFunction.BLAKE3
FAST_CDC = pb.ChunkingFunction.FAST_CDC_2020
BLOB = random.Random(11).randbytes(300_000)
AVERAGE = 16 * 1024


class Counting(DelegatingStore):
    """Counts what is asked of it, and what it holds of others at a time."""

    def __init__(self, backend: Store) -> None:
        super().__init__(backend)
        self.gets: list[StoreKey] = []
        self.puts: list[StoreKey] = []

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        self.gets.append(key)
        await asyncio.sleep(0)
        await super().get(key, sink, offset=offset, limit=limit)

    async def put(self, key: StoreKey, source: Source) -> int:
        self.puts.append(key)
        return await super().put(key, source)


class Chunks:
    """A service with chunking, and calls of it."""

    def __init__(
        self,
        *,
        index: Store | None = None,
        max_chunk_count: int = 1000,
        average: int = AVERAGE,
        store: Store | None = None,
        default: DigestFunction = SHA256,
        splitter: BlobSplitter | None = None,
        room: int | None = None,
    ) -> None:
        self.blobs = DictStore()
        self.store = Counting(self.blobs if store is None else store)
        self.index = DictStore()
        chunking = Chunking(
            self.store,
            self.index if index is None else index,
            chunker=FastCdc2020(average),
            max_chunk_count=max_chunk_count,
            default_function=default,
            splitter=splitter,
            rooms=[] if room is None else [asyncio.Semaphore(room)],
        )
        instances = {
            "": CasInstance(self.store, chunking=chunking),
            "plain": CasInstance(self.store),
        }
        self.service = CasService(instances, default_function=default)
        self._caller = Caller(self.service.methods())

    async def split(
        self, blob: Digest, *, function: DigestFunction | None = None, instance: str = ""
    ) -> pb.SplitBlobResponse:
        request = pb.SplitBlobRequest(
            instance_name=instance,
            blob_digest=digest_message(blob),
            digest_function=_number(function),
            chunking_function=FAST_CDC,
        )
        return await self._caller.unary("SplitBlob", request, pb.SplitBlobResponse)

    async def splice(
        self,
        blob: Digest,
        chunks: Sequence[Digest],
        *,
        function: DigestFunction | None = None,
        instance: str = "",
        chunking: pb.ChunkingFunction.Value = FAST_CDC,
    ) -> Digest:
        request = pb.SpliceBlobRequest(
            instance_name=instance,
            blob_digest=digest_message(blob),
            chunk_digests=map(digest_message, chunks),
            digest_function=_number(function),
            chunking_function=chunking,
        )
        reply = await self._caller.unary("SpliceBlob", request, pb.SpliceBlobResponse)
        return Digest.parse(reply.blob_digest.hash, reply.blob_digest.size_bytes)

    async def put(self, *blobs: bytes, function: DigestFunction = SHA256) -> list[Digest]:
        digests = [function.digest_of(data) for data in blobs]
        for digest, data in zip(digests, blobs, strict=True):
            await write_bytes(self.blobs, digest, data)
        return digests


def _number(function: DigestFunction | None) -> pb.DigestFunction.Value:
    return pb.DigestFunction.Value.Name(function) if function else 0  # type: ignore[return-value]


def pieces(data: bytes, average: int = AVERAGE) -> list[bytes]:
    """What a client cuts."""
    chunker, found = FastCdc2020(average), []
    while data:
        length = chunker.cut(data)
        found.append(data[:length])
        data = data[length:]
    return found


def digests_in(answer: pb.SplitBlobResponse) -> list[Digest]:
    return [Digest.parse(each.hash, each.size_bytes) for each in answer.chunk_digests]


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
        async with asyncio.timeout(5):
            answers = await run_all(map(chunks.split, blobs))
        assert all(len(answer.chunk_digests) > 50 for answer in answers)

    async def test_many_blobs_are_spliced(self) -> None:
        chunks = Chunks(room=1)
        chunks.store._backend = Limited(chunks.blobs, 2)
        data = [random.Random(seed).randbytes(100_000) for seed in range(5)]
        parts = [await chunks.put(*pieces(each)) for each in data]
        async with asyncio.timeout(5):
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
