"""BatchReadBlobs and BatchUpdateBlobs: each blob has a status of its own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import Code, NativeLinkError, resource_exhausted
from nativelink.core.streams import Sink, Source
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.limits import (
    MAX_BATCH_ENTRIES,
    MAX_BATCH_TOTAL_SIZE_BYTES,
    MAX_MESSAGE_BYTES,
)
from nativelink.stores.store import DelegatingStore
from nativelink.testing.calls import digest_message
from nativelink.testing.fakes import DictStore
from tests.services.cas_calls import SHA256, caller, code_of, stored


class FailingStore(DelegatingStore):
    """Fails for some keys."""

    def __init__(self, *bad: Digest) -> None:
        super().__init__(DictStore())
        self.bad = bad

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        if key in self.bad:
            raise NativeLinkError(Code.UNAVAILABLE, "the back end is away")
        await super().get(key, sink, offset=offset, limit=limit)

    async def put(self, key: StoreKey, source: Source) -> int:
        if key in self.bad:
            raise resource_exhausted("the disk is full")
        return await super().put(key, source)


class TestBatchReadBlobs:
    @staticmethod
    async def read(
        store: DictStore | DelegatingStore, messages: Sequence[pb.Digest], **settings: int
    ) -> list[pb.BatchReadBlobsResponse.Response]:
        answer = await caller(store, **settings).unary(
            "BatchReadBlobs",
            pb.BatchReadBlobsRequest(digests=messages),
            pb.BatchReadBlobsResponse,
        )
        return list(answer.responses)

    async def test_each_blob_has_its_own_status(self) -> None:
        store = FailingStore(SHA256.digest_of(b"bad"))
        there = await stored(store._backend, b"one", b"x" * 300, b"bad", b"y" * 300)
        absent = SHA256.digest_of(b"absent")
        malformed = pb.Digest(hash="zz", size_bytes=3)
        asked = [*map(digest_message, (*there, absent, there[0])), malformed]
        entries = await self.read(store, asked)
        assert [entry.digest for entry in entries] == asked
        assert [entry.data for entry in entries] == [
            b"one",
            b"x" * 300,
            b"",
            b"y" * 300,
            b"",
            b"one",
            b"",
        ]
        assert [entry.status.code for entry in entries] == [
            Code.OK,
            Code.OK,
            Code.UNAVAILABLE,
            Code.OK,
            Code.NOT_FOUND,
            Code.OK,
            Code.INVALID_ARGUMENT,
        ]
        assert str(absent) in entries[4].status.message
        assert "'zz'" in entries[6].status.message

    async def test_the_empty_blob_can_be_read(self) -> None:
        (entry,) = await self.read(DictStore(), [digest_message(SHA256.digest_of(b""))])
        assert (entry.status.code, entry.data) == (Code.OK, b"")

    async def test_a_blob_in_pieces_is_put_together(self) -> None:
        store = DictStore(chunk_size=7)
        (digest,) = await stored(store, bytes(range(100)))
        (entry,) = await self.read(store, [digest_message(digest)])
        assert entry.data == bytes(range(100))

    @pytest.mark.parametrize("kept", [b"shor", b"longer"])
    async def test_a_blob_of_another_size_than_its_digest_says_is_data_loss(
        self, kept: bytes
    ) -> None:
        store = DictStore()
        (digest,) = await stored(store, b"short")
        store.blobs[digest] = kept
        (entry,) = await self.read(store, [digest_message(digest)])
        assert entry.status.code in {Code.DATA_LOSS, Code.RESOURCE_EXHAUSTED}
        assert not entry.data

    async def test_the_advertised_limit_is_enforced(self) -> None:
        store = DictStore()
        digests = [digest_message(digest) for digest in await stored(store, b"a" * 60, b"b" * 40)]
        assert len(await self.read(store, digests, max_batch_total_size_bytes=100)) == 2
        with pytest.raises(NativeLinkError, match="100 bytes is too large; 99") as raised:
            await self.read(store, digests, max_batch_total_size_bytes=99)
        assert code_of(raised) is Code.INVALID_ARGUMENT

    @pytest.mark.slow
    async def test_an_answer_is_no_longer_than_clients_take(self) -> None:
        """Whoever keeps to the advertised limit is answered, however small the blobs are."""
        store = DictStore()
        blobs = [b"%0100d" % n for n in range(MAX_BATCH_ENTRIES)]
        digests = await stored(store, *blobs)
        absent = [SHA256.digest_of(b"%d" % n) for n in range(len(blobs))]
        for asked, expected in ((digests, Code.OK), (absent, Code.NOT_FOUND)):
            request = pb.BatchReadBlobsRequest(digests=map(digest_message, asked))
            assert request.ByteSize() < MAX_MESSAGE_BYTES
            service = caller(store).method("BatchReadBlobs")
            answer = await service.handler(request, None)
            assert len(answer) <= MAX_MESSAGE_BYTES
            codes = [
                entry.status.code
                for entry in pb.BatchReadBlobsResponse.FromString(answer).responses
            ]
            assert len(codes) == len(asked)
            assert codes[0] == expected
            assert set(codes) <= {expected, Code.RESOURCE_EXHAUSTED}

    async def test_a_batch_that_fits_is_answered_in_full(self) -> None:
        store = DictStore()
        size = (MAX_BATCH_TOTAL_SIZE_BYTES) // 585
        digests = await stored(store, *(b"%0*d" % (size, n) for n in range(585)))
        entries = await self.read(store, list(map(digest_message, digests)))
        assert {entry.status.code for entry in entries} == {Code.OK}

    async def test_a_batch_of_more_entries_than_an_answer_holds_is_refused(self) -> None:
        empty = [digest_message(SHA256.digest_of(b""))] * (MAX_BATCH_ENTRIES + 1)
        with pytest.raises(NativeLinkError, match="32769 blobs is too large; 32768") as raised:
            await self.read(DictStore(), empty)
        assert code_of(raised) is Code.INVALID_ARGUMENT


class TestBatchUpdateBlobs:
    Request = pb.BatchUpdateBlobsRequest.Request

    @staticmethod
    async def update(
        store: DictStore | DelegatingStore,
        requests: Sequence[pb.BatchUpdateBlobsRequest.Request],
        **settings: int,
    ) -> list[pb.BatchUpdateBlobsResponse.Response]:
        answer = await caller(store, **settings).unary(
            "BatchUpdateBlobs",
            pb.BatchUpdateBlobsRequest(requests=requests),
            pb.BatchUpdateBlobsResponse,
        )
        return list(answer.responses)

    def request(self, data: bytes, sent: bytes | None = None) -> pb.BatchUpdateBlobsRequest.Request:
        return self.Request(
            digest=digest_message(SHA256.digest_of(data)), data=data if sent is None else sent
        )

    async def test_one_bad_entry_does_not_spoil_the_others(self) -> None:
        bad = SHA256.digest_of(b"bad")
        store = FailingStore(bad)
        compressed = self.request(b"zipped")
        compressed.compressor = pb.Compressor.ZSTD
        requests = [
            self.request(b"one"),
            self.request(b"three", b"tree"),
            self.request(b"bad"),
            compressed,
            self.Request(digest=pb.Digest(hash="zz"), data=b""),
            self.request(b"one"),
            self.request(b""),
        ]
        entries = await self.update(store, requests)
        assert [entry.digest for entry in entries] == [request.digest for request in requests]
        assert [entry.status.code for entry in entries] == [
            Code.OK,
            Code.INVALID_ARGUMENT,
            Code.RESOURCE_EXHAUSTED,
            Code.INVALID_ARGUMENT,
            Code.INVALID_ARGUMENT,
            Code.OK,
            Code.OK,
        ]
        assert "4 bytes were sent" in entries[1].status.message
        assert "ZSTD" in entries[3].status.message
        assert store._backend.blobs == {SHA256.digest_of(b"one"): b"one"}

    async def test_the_advertised_limit_is_enforced(self) -> None:
        store = DictStore()
        requests = [self.request(b"a" * 60), self.request(b"b" * 40)]
        with pytest.raises(NativeLinkError, match="100 bytes is too large; 99"):
            await self.update(store, requests, max_batch_total_size_bytes=99)
        assert not store.blobs
        await self.update(store, requests, max_batch_total_size_bytes=100)
        assert len(store.blobs) == 2

    @pytest.mark.slow
    async def test_an_answer_that_is_all_errors_is_no_longer_than_clients_take(self) -> None:
        requests = [self.request(b"%d" % n, b"") for n in range(MAX_BATCH_ENTRIES)]
        service = caller(DictStore()).method("BatchUpdateBlobs")
        answer = await service.handler(pb.BatchUpdateBlobsRequest(requests=requests), None)
        assert len(answer) <= MAX_MESSAGE_BYTES
        entries = pb.BatchUpdateBlobsResponse.FromString(answer).responses
        assert {entry.status.code for entry in entries} == {Code.INVALID_ARGUMENT}
        assert len(entries) == len(requests)
        assert entries[0].status.message.startswith("0 bytes were sent")

    @pytest.mark.slow
    async def test_a_request_within_the_limits_can_be_taken(self) -> None:
        size = MAX_BATCH_TOTAL_SIZE_BYTES // MAX_BATCH_ENTRIES
        requests = [self.request(b"%0*d" % (size, n)) for n in range(MAX_BATCH_ENTRIES)]
        request = pb.BatchUpdateBlobsRequest(requests=requests)
        assert request.ByteSize() > MAX_MESSAGE_BYTES
        method = caller(DictStore()).method("BatchUpdateBlobs")
        assert request.ByteSize() <= method.min_message_bytes
