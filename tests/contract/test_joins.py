"""Every kind of store that is made of several keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nativelink.core.digest import DigestFunction
from nativelink.stores.join.chunker import Chunker
from nativelink.stores.join.dedup import DedupStore
from nativelink.stores.join.shard import ShardStore
from nativelink.stores.join.shard_choice import Bounds, Rendezvous
from nativelink.stores.join.size_partition import SizePartitioningStore
from nativelink.stores.store import Store
from nativelink.stores.wrap.verify import VerifyStore
from nativelink.testing.fakes import DictStore
from nativelink.testing.faults import FaultyStore, Latency
from nativelink.testing.store_contract import (
    DigestKeysOnly,
    StreamsBlobs,
    StringKeys,
)
from nativelink.testing.store_machine import StoreMachine
from tests.contract.parts import compression, memory, on_disk


def dedup(
    index: Store, content: Store, sizes: tuple[int, int, int] = (4096, 16_384, 65_536), **more: int
) -> DedupStore:
    low, normal, high = sizes
    chunker = Chunker(min_size=low, normal_size=normal, max_size=high)
    return DedupStore(index, content, chunker=chunker, **{"max_concurrent": 10, **more})


class TestDedup(StringKeys, StreamsBlobs):
    kind = DedupStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with on_disk() as content:
            yield dedup(memory(), content, (65_536, 262_144, 524_288), max_concurrent=2)


class TestDedupInSmallChunks(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        content = VerifyStore(
            DictStore(chunk_size=100),
            verify_size=True,
            verify_hash=True,
            default_function=DigestFunction.BLAKE3,
        )
        yield dedup(DictStore(chunk_size=7), content, (64, 500, 3000), max_concurrent=3)


class TestDedupOverCompression(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield dedup(memory(), compression(DictStore(chunk_size=1000)), max_concurrent=1)


class TestShard(StringKeys):
    kind = ShardStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield ShardStore((memory(), DictStore(chunk_size=9_000), memory()), Bounds((1, 2, 5)))


class TestShardByRendezvous(StringKeys):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield ShardStore((memory(), DictStore(chunk_size=9_000), memory()), Rendezvous((1, 0, 5)))


class TestSizePartitioning(DigestKeysOnly):
    kind = SizePartitioningStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield SizePartitioningStore(memory(), DictStore(chunk_size=9_000), size=4096)


class DedupMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        content = FaultyStore(DictStore(chunk_size=11_000), latency=Latency(3, 2))
        yield dedup(memory(), content, (256, 2000, 10_000), max_concurrent=5)


TestDedupMachine = DedupMachine.TestCase


class ShardMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        slow = FaultyStore(DictStore(chunk_size=11_000), latency=Latency(3, 2))
        yield ShardStore((memory(), slow), Bounds((1, 1)))


TestShardMachine = ShardMachine.TestCase


class SizePartitioningMachine(StoreMachine):
    string_keys = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield SizePartitioningStore(memory(), memory(), size=40_000)


TestSizePartitioningMachine = SizePartitioningMachine.TestCase
