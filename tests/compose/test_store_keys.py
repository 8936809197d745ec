"""Every key of wrappers, joins and leaves arrives where other tests show that it is heeded."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import json5
import pytest

from nativelink.compose.environment import Environment
from nativelink.compose.object_stores import object_store
from nativelink.compose.stores import StoreBuilder
from nativelink.config import Config
from nativelink.config.specs_cloud import AwsSpec
from nativelink.core.clock import SystemClock
from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code
from nativelink.core.streams import Chunk
from nativelink.stores.cloud.aws import s3_bucket
from nativelink.stores.cloud.object_store import CloudObjectStore
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.memory import MemoryStore
from nativelink.stores.store import read_bytes, write_bytes
from tests.compose.making import made

MEMORY = {"memory": {}}

Recorded = list[tuple[tuple[Any, ...], dict[str, Any]]]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Recorded]:
    """Has a class note what it is made with; `package.module.Class` below `nativelink.stores`."""

    def patch(name: str) -> Recorded:
        module, _, kind = f"nativelink.stores.{name}".rpartition(".")
        real = getattr(__import__(module, fromlist=[kind]), kind)
        made: Recorded = []

        class Noting(real):
            def __init__(self, *arguments: Any, **keys: Any) -> None:
                made.append((arguments, keys))
                super().__init__(*arguments, **keys)

        monkeypatch.setattr(f"{module}.{kind}", Noting)
        return made

    return patch


async def build(environment: Environment, **spec: Any) -> None:
    text = json.dumps({"stores": [{"name": "A", **spec}], "servers": []})
    await StoreBuilder(Config.model_validate(json5.loads(text)).stores, environment).build_all()


async def test_the_keys_of_a_filesystem_store_arrive(
    environment: Environment, tmp_path: Path, record: Callable[[str], Recorded]
):
    made = record("filesystem.FilesystemStore")
    await build(
        environment,
        filesystem={
            "content_path": str(tmp_path / "c"),
            "temp_path": str(tmp_path / "t"),
            "read_buffer_size": 11,
            "block_size": 12,
            "max_concurrent_writes": 13,
            "evict_page_cache": True,
            "eviction_policy": {
                "max_bytes": 1400,
                "evict_bytes": 15,
                "max_seconds": 16,
                "max_count": 17,
            },
        },
    )
    ((_, keys),) = made
    assert (keys["content_path"], keys["temp_path"]) == (tmp_path / "c", tmp_path / "t")
    assert (keys["read_buffer_size"], keys["block_size"]) == (11, 12)
    assert (keys["max_concurrent_writes"], keys["evict_page_cache"]) == (13, True)
    assert keys["eviction"] == EvictionPolicy(
        max_bytes=1400, evict_bytes=15, max_seconds=16, max_count=17
    )


async def test_the_keys_of_a_fast_slow_store_arrive(
    environment: Environment, record: Callable[[str], Recorded]
):
    made = record("join.fast_slow.FastSlowStore")
    await build(
        environment,
        fast_slow={
            "fast": {"memory": {"eviction_policy": {"max_count": 1}}},
            "slow": {"memory": {"eviction_policy": {"max_count": 2}}},
            "fast_direction": "get",
            "slow_direction": "update",
            "bypass_dedup_threshold_bytes": 77,
        },
    )
    ((_, keys),) = made
    assert (keys["fast_direction"].value, keys["slow_direction"].value) == ("get", "update")
    assert keys["bypass_dedup_threshold_bytes"] == 77


async def test_the_keys_of_a_sharded_store_arrive(
    environment: Environment, record: Callable[[str], Recorded]
):
    made = record("join.shard_choice.Bounds")
    parts = [{"store": MEMORY, "weight": 3}, {"store": MEMORY, "weight": 5}, {"store": MEMORY}]
    await build(environment, shard={"stores": parts})
    assert made == [(([3, 5, 1],), {})]


async def test_the_keys_of_a_size_partitioning_store_arrive(
    environment: Environment, record: Callable[[str], Recorded]
):
    made = record("join.size_partition.SizePartitioningStore")
    await build(
        environment,
        size_partitioning={"size": 99, "lower_store": MEMORY, "upper_store": {"noop": {}}},
    )
    (((lower, upper), keys),) = made
    assert keys == {"size": 99}
    assert (type(lower).__name__, type(upper).__name__) == ("MemoryStore", "NoopStore")


@pytest.mark.parametrize(("size", "hashed"), [(True, False), (False, True)])
async def test_the_keys_of_a_verify_store_arrive(
    environment: Environment, record: Callable[[str], Recorded], *, size: bool, hashed: bool
):
    made = record("wrap.verify.VerifyStore")
    await build(environment, verify={"verify_size": size, "verify_hash": hashed, "backend": MEMORY})
    ((_, keys),) = made
    assert (keys["verify_size"], keys["verify_hash"]) == (size, hashed)


async def test_the_keys_of_a_dedup_store_arrive(
    environment: Environment, record: Callable[[str], Recorded]
):
    chunkers = record("join.chunker.Chunker")
    made = record("join.dedup.DedupStore")
    await build(
        environment,
        dedup={
            "index_store": MEMORY,
            "content_store": {"noop": {}},
            "min_size": 1_000,
            "normal_size": 4_000,
            "max_size": 9_000,
            "max_concurrent_fetch_per_get": 6,
        },
    )
    assert chunkers == [((), {"min_size": 1_000, "normal_size": 4_000, "max_size": 9_000})]
    (((index, content), keys),) = made
    assert (type(index).__name__, type(content).__name__) == ("MemoryStore", "NoopStore")
    assert keys["max_concurrent"] == 6


async def test_the_keys_of_a_compression_store_arrive(
    environment: Environment, record: Callable[[str], Recorded]
):
    made = record("wrap.compression.CompressionStore")
    lz4 = {"block_size": 5_000, "max_decode_block_size": 6_000}
    await build(environment, compression={"backend": MEMORY, "compression_algorithm": {"lz4": lz4}})
    (((_, codec), keys),) = made
    assert type(codec).__name__ == "Lz4Codec"
    assert (keys["block_size"], keys["max_block_size"]) == (5_000, 6_000)


async def test_the_keys_of_an_existence_cache_arrive(
    environment: Environment, record: Callable[[str], Recorded]
):
    made = record("wrap.existence_cache.ExistenceCacheStore")
    policy = {"max_seconds": 5, "max_count": 6}
    await build(environment, existence_cache={"backend": MEMORY, "eviction_policy": policy})
    ((_, keys),) = made
    assert keys["eviction"] == EvictionPolicy(max_seconds=5, max_count=6)


async def test_the_keys_of_an_object_store_arrive(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    made: Recorded = []

    def store(*arguments: Any, **keys: Any) -> CloudObjectStore:
        made.append((arguments, keys))
        return CloudObjectStore(*arguments, **keys)

    monkeypatch.setattr("nativelink.compose.object_stores.CloudObjectStore", store)
    buckets: list[dict[str, Any]] = []

    def noted(address: Any, **keys: Any) -> Any:
        buckets.append(keys)
        return s3_bucket(address, **keys)

    monkeypatch.setattr("nativelink.stores.cloud.aws.s3_bucket", noted)
    spec = AwsSpec.model_validate(
        {
            "provider": "aws",
            "region": "r",
            "bucket": "b",
            "endpoint": "http://127.0.0.1:1",
            "key_prefix": "p/",
            "consider_expired_after_s": 1_000,
            "max_retry_buffer_per_request": 7,
            "multipart_max_concurrent_uploads": 8,
            "retry": {"max_retries": 2, "delay": 0.001, "retry_on_errors": ("Unavailable",)},
        }
    )
    async with await object_store(spec, SystemClock()):
        pass
    ((_, keys),) = made
    assert keys["keys"].prefix == "p/"
    assert keys["consider_expired_after_s"] == 1_000
    assert keys["max_concurrent_parts"] == 8
    (bucket,) = buckets
    assert bucket["max_retry_buffer_bytes"] == 7
    assert (bucket["retry"].max_retries, bucket["retry"].codes) == (2, {Code.UNAVAILABLE})


class Pieces:
    """A sink that notes how large its pieces are."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def write(self, chunk: Chunk, /) -> None:
        self.sizes.append(len(chunk))


@pytest.mark.parametrize(("size", "piece"), [(16_384, 2**19), (2**20, 2**20)])
async def test_a_file_is_read_in_pieces_of_the_read_buffer_or_of_512_kib(
    environment: Environment, tmp_path: Path, size: int, piece: int
):
    paths = {"content_path": str(tmp_path / "c"), "temp_path": str(tmp_path / "t")}
    # What is in memory anyway is given in smaller pieces.
    keys = {"read_buffer_size": size, "evict_page_cache": True}
    store = await made(environment, filesystem={**paths, **keys})
    data = bytes(3_000_000)
    digest = DigestFunction.SHA256.digest_of(data)
    await write_bytes(store, digest, data)
    pieces = Pieces()
    await store.get(digest, pieces)
    assert max(pieces.sizes) == piece
    assert sum(pieces.sizes) == len(data)


@pytest.mark.parametrize(("count", "at_once"), [(1, 1), (4, 2), (10, 5)])
async def test_dedup_fetches_half_of_so_many_chunks_at_once(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, count: int, at_once: int
):
    # The other half are those that the reader takes meanwhile.
    store = await made(
        environment,
        dedup={
            "index_store": {"memory": {}},
            "content_store": {"memory": {}},
            "min_size": 1_000,
            "normal_size": 4_000,
            "max_size": 8_000,
            "max_concurrent_fetch_per_get": count,
        },
    )
    data = random.Random(1).randbytes(100_000)
    digest = DigestFunction.SHA256.digest_of(data)
    await write_bytes(store, digest, data)
    fetching = most = 0
    real = MemoryStore.get

    async def counted(self: MemoryStore, *arguments: Any, **keys: Any) -> None:
        nonlocal fetching, most
        fetching += 1
        most = max(most, fetching)
        # Long enough for all others that may to begin.
        for _ in range(20):
            await asyncio.sleep(0)
        await real(self, *arguments, **keys)
        fetching -= 1

    monkeypatch.setattr(MemoryStore, "get", counted)
    assert await read_bytes(store, digest) == data
    assert most == at_once
