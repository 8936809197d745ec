"""What NativeLink's compression, dedup and shard stores left on disk, both ways."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from nativelink.core.digest import Digest
from nativelink.core.streams import BytesSource
from nativelink.stores.join.chunker import Chunker
from nativelink.stores.join.dedup import DedupStore
from nativelink.stores.join.shard import ShardStore
from nativelink.stores.join.shard_choice import Bounds
from nativelink.stores.store import Store, read_bytes
from nativelink.stores.wrap.compression import CompressionStore
from nativelink.stores.wrap.compression_codecs import Lz4Codec
from nativelink.testing.fakes import PiecesSource
from tests.stores.golden import INDEX, copy, make, open_store, tree

SHARDS = ("shard-0", "shard-1", "shard-2")


def compression(block_size: int, backends: list[Store]) -> Store:
    return CompressionStore(
        backends[0], Lz4Codec(), block_size=block_size, max_block_size=block_size
    )


def dedup(sizes: tuple[int, int, int], backends: list[Store]) -> Store:
    low, normal, high = sizes
    return DedupStore(
        backends[0],
        backends[1],
        chunker=Chunker(min_size=low, normal_size=normal, max_size=high),
        max_concurrent=10,
    )


#: The blobs' set in the index, the folders, and the store over them.
CASES: dict[str, tuple[tuple[str, ...], Callable[[list[Store]], Store]]] = {
    "lz4": (("compression",), lambda backends: compression(65_536, backends)),
    "lz4small": (("compression-4096",), lambda backends: compression(4096, backends)),
    "dedup": (
        ("dedup-index", "dedup-content"),
        lambda backends: dedup((65_536, 262_144, 524_288), backends),
    ),
    "dedupsmall": (
        ("dedup-small-index", "dedup-small-content"),
        lambda backends: dedup((4096, 16_384, 65_536), backends),
    ),
    "shard": (SHARDS, lambda backends: ShardStore(backends, Bounds((1, 2, 5)))),
}


@pytest.mark.parametrize("name", CASES)
async def test_what_nativelink_wrote_is_read(name: str, tmp_path: Path) -> None:
    folders, build = CASES[name]
    async with AsyncExitStack() as stack:
        store = build(
            [
                await stack.enter_async_context(open_store(copy(folder, tmp_path)))
                for folder in folders
            ]
        )
        keys = [Digest.from_string(digest) for digest in INDEX[name].values()]
        assert await store.has(keys) == [key.size_bytes for key in keys]
        for blob, key in zip(INDEX[name], keys, strict=True):
            data = make(blob.split()[0])
            assert await read_bytes(store, key) == data
            for offset, limit in itertools.product(
                (0, len(data) // 3, len(data) // 2, len(data)), (0, 1, 9000)
            ):
                part = await read_bytes(store, key, offset=offset, limit=limit)
                assert part == data[offset : offset + limit]


@pytest.mark.parametrize("pieces", [None, 1000, 65_536, 300_000])
@pytest.mark.parametrize("name", CASES)
async def test_the_same_blobs_become_the_same_files(
    name: str, pieces: int | None, tmp_path: Path
) -> None:
    folders, build = CASES[name]
    async with AsyncExitStack() as stack:
        store = build(
            [await stack.enter_async_context(open_store(tmp_path / folder)) for folder in folders]
        )
        for blob, digest in INDEX[name].items():
            data = make(blob.split()[0])
            source = (
                BytesSource(data)
                if pieces is None
                else PiecesSource.split(data, pieces, announced=True)
            )
            assert await store.put(Digest.from_string(digest), source) == len(data)
    for folder in folders:
        assert tree(tmp_path / folder) == tree(copy(folder, tmp_path / "golden"))
