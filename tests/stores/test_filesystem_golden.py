"""NativeLink's directories, byte for byte and both ways."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack
from pathlib import Path

import blake3
import pytest

from nativelink.core.digest import Digest
from nativelink.core.streams import BytesSource
from nativelink.stores.join.size_partition import SizePartitioningStore
from nativelink.stores.store import read_bytes
from tests.stores.golden import GOLDEN, INDEX, copy, make, open_store, tree


@pytest.mark.parametrize(("name", "digest"), INDEX["fs"].items())
async def test_a_blob_that_nativelink_wrote_is_read(name: str, digest: str, tmp_path: Path) -> None:
    blob, function = name.split()
    key = Digest.from_string(digest)
    data = make(blob)
    hasher = blake3.blake3(data) if function == "blake3" else hashlib.sha256(data)
    assert hasher.hexdigest() == key.hash
    async with open_store(copy("filesystem", tmp_path)) as store:
        assert await store.has([key]) == [len(data)]
        assert await read_bytes(store, key) == data


async def test_the_same_blobs_become_the_same_files(tmp_path: Path) -> None:
    async with open_store(tmp_path / "filesystem") as store:
        for name, digest in INDEX["fs"].items():
            await store.put(Digest.from_string(digest), BytesSource(make(name.split()[0])))
    assert tree(tmp_path / "filesystem") == tree(copy("filesystem", tmp_path / "golden"))
    assert tree(tmp_path / "filesystem-temp") == {}
    assert sorted(path.name for path in (tmp_path / "filesystem").iterdir()) == ["d", "s"]


async def test_an_action_result_is_read_replaced_and_written(tmp_path: Path) -> None:
    (digest,) = INDEX["action-cache"].values()
    key = Digest.from_string(digest)
    golden = (GOLDEN / "action-cache" / "d" / digest).read_bytes()
    assert len(golden) == 95
    async with open_store(copy("action-cache", tmp_path)) as store:
        assert await store.has([key]) == [95]
        assert await read_bytes(store, key) == golden
        await store.put(key, BytesSource(b"another result"))
        assert await read_bytes(store, key) == b"another result"
        await store.put(key, BytesSource(golden))
    assert tree(tmp_path / "action-cache") == tree(copy("action-cache", tmp_path / "golden"))


@pytest.mark.parametrize("direction", ["read", "write"])
async def test_size_partitioning_finds_and_puts_blobs_where_nativelink_does(
    direction: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        lower, upper = [
            await stack.enter_async_context(
                open_store(copy(name, tmp_path) if direction == "read" else tmp_path / name)
            )
            for name in ("size-lower", "size-upper")
        ]
        store = SizePartitioningStore(lower, upper, size=65_536)
        for name, digest in INDEX["size"].items():
            key, data = Digest.from_string(digest), make(name.split()[0])
            if direction == "write":
                await store.put(key, BytesSource(data))
            assert await store.has([key]) == [len(data)]
            assert await read_bytes(store, key) == data
    for name in ("size-lower", "size-upper"):
        assert tree(tmp_path / name) == tree(copy(name, tmp_path / "golden"))
