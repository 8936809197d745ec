"""More of the contract, by how a kind keeps blobs."""

from __future__ import annotations

import asyncio
import hashlib
import random
import tracemalloc
from abc import abstractmethod
from typing import ClassVar

import pytest

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import NativeLinkError
from nativelink.core.streams import BytesSource, Chunk, Source
from nativelink.testing.fakes import PiecesSource
from nativelink.testing.faults import FaultySource, Gate
from nativelink.testing.store_contract.contract import StoreContract
from nativelink.testing.store_contract.probes import (
    EMPTY,
    fetch,
    reached,
)

__all__ = ["RawAccess", "StreamsBlobs"]


class RawAccess(StoreContract):
    """For kinds whose stored bytes can be reached without the store."""

    @abstractmethod
    def raw_put(self, key: StoreKey, data: bytes) -> None:
        """Put a value where an opened store finds it, without using the store."""

    @abstractmethod
    def raw_get(self, key: StoreKey) -> bytes | None:
        """The bytes that are stored, None if there are none."""

    @abstractmethod
    def raw_names(self) -> set[str]:
        """Everything that exists in the backing medium, unfinished things included."""

    async def test_1_what_was_put_is_really_there(self) -> None:
        key, data = self.blob(70_000)
        async with self.open() as store:
            assert self.raw_get(key) is None
            await store.put(key, PiecesSource.split(data, 9_000))
            assert self.raw_get(key) == data

    async def test_1_what_is_really_there_is_seen(self) -> None:
        key, data = self.blob(70_000)
        async with self.open() as store:
            self.raw_put(key, data)
            assert await store.has([key]) == [len(data)]
            assert await fetch(store, key) == data
            assert await fetch(store, key, offset=60_000, limit=5_000) == data[60_000:65_000]

    async def test_2_a_put_that_failed_leaves_nothing_behind(self) -> None:
        key, data = self.blob(70_000)
        async with self.open() as store:
            before = self.raw_names()
            for fail_at in (0, 1, 50_000, len(data)):
                source = FaultySource(PiecesSource.split(data, 9_000), fail_at=fail_at)
                with pytest.raises(NativeLinkError):
                    await store.put(key, source)
                assert self.raw_names() == before

    async def test_2_a_cancelled_put_leaves_nothing_behind(self) -> None:
        key, data = self.blob(70_000)
        async with self.open() as store:
            before = self.raw_names()
            for at in (0, 9_000, len(data)):
                gate = Gate()
                source = FaultySource(PiecesSource.split(data, 9_000), gate=gate, gate_at=at)
                async with asyncio.TaskGroup() as tasks:
                    putting = tasks.create_task(store.put(key, source))
                    await reached(gate, putting)
                    putting.cancel()
                assert self.raw_names() == before

    async def test_5_nothing_need_be_kept_for_the_empty_blob(self) -> None:
        async with self.open() as store:
            before = self.raw_names()
            for key in EMPTY:
                await store.put(key, BytesSource(b""))
            assert self.raw_names() == before


class StreamsBlobs(StoreContract):
    """Clause 7, for kinds that do not hold blobs in memory."""

    #: Larger than anything a store may hold of one blob.
    large_bytes: ClassVar[int] = 24 * 1024 * 1024
    #: What chunks in flight may take, all copies together.
    allowed_bytes: ClassVar[int] = 4 * 1024 * 1024

    async def test_7_memory_is_bounded_by_chunks_in_flight(self) -> None:
        piece = random.Random(7).randbytes(256 * 1024)
        count = self.large_bytes // len(piece)
        hasher = hashlib.sha256()
        for _ in range(count):
            hasher.update(piece)
        key = Digest(hasher.hexdigest(), self.large_bytes)
        async with self.open() as store:
            tracemalloc.start()
            try:
                await store.put(key, _Repeated(piece, count))
                sink = _HashingSink()
                await store.get(key, sink)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert sink.hasher.hexdigest() == key.hash
            assert peak < self.allowed_bytes


class _Repeated(Source):
    """One piece many times, each time a new object, as from a socket."""

    size = None

    def __init__(self, piece: bytes, count: int) -> None:
        self._piece = piece
        self._left = count

    async def read(self) -> Chunk:
        if not self._left:
            return b""
        self._left -= 1
        return bytes(bytearray(self._piece))


class _HashingSink:
    """Hashes what comes and keeps none of it."""

    def __init__(self) -> None:
        self.hasher = hashlib.sha256()

    async def write(self, chunk: Chunk, /) -> None:
        self.hasher.update(chunk)
