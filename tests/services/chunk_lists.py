"""SplitBlob and SpliceBlob over a store that counts what it is asked for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from nativelink.core.digest import Digest, DigestFunction, StoreKey
from nativelink.core.streams import Sink, Source
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.cas import CasInstance, CasService
from nativelink.services.chunking import Chunking
from nativelink.services.fast_cdc import FastCdc2020
from nativelink.stores.store import BlobSplitter, DelegatingStore, Store, write_bytes
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
    return pb.DigestFunction.Value.Name(function) if function else 0


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
