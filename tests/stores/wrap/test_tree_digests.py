"""The stream reader finds the digests that the protobuf library finds."""

import asyncio
import random
import tracemalloc

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from nativelink.core.digest import DigestFunction, StoreKey
from nativelink.core.streams import Sink
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.stores.wrap import tree_digests
from nativelink.stores.wrap.tree_digests import (
    DigestPairs,
    EnoughError,
    TreeDigests,
    read_digests,
)
from nativelink.testing.fakes import DictStore


async def read(data: bytes, chunk_size: int, *, is_tree: bool = True) -> TreeDigests:
    found = TreeDigests(is_tree=is_tree)
    for start in range(0, len(data), chunk_size):
        await found.write(memoryview(data)[start : start + chunk_size])
    found.end()
    return found


def pairs(nodes) -> DigestPairs:
    return [(node.digest.hash, node.digest.size_bytes) for node in nodes]


def random_directory(seed: random.Random) -> reapi.Directory:
    result = reapi.Directory()
    for _ in range(seed.randrange(6)):
        node = result.files.add(name="n" * seed.randrange(300), is_executable=seed.random() < 0.5)
        node.digest.hash = seed.randbytes(32).hex()
        node.digest.size_bytes = seed.choice((0, 5, 2**40))
        if seed.random() < 0.3:
            node.node_properties.unix_mode.value = 0o755
    for _ in range(seed.randrange(4)):
        result.directories.add(name="d").digest.hash = seed.randbytes(32).hex()
    if seed.random() < 0.3:
        result.symlinks.add(name="l", target="t" * seed.randrange(2_000))
    if seed.random() < 0.3:
        result.node_properties.mtime.seconds = 77
    return result


def random_tree(seed: random.Random) -> reapi.Tree:
    tree = reapi.Tree(children=[random_directory(seed) for _ in range(seed.randrange(8))])
    if seed.random() < 0.9:
        tree.root.CopyFrom(random_directory(seed))
    return tree


@pytest.mark.parametrize("whole_bytes", [0, 300, 1 << 20])
@pytest.mark.parametrize("chunk_size", [1, 7, 100, 1 << 20])
async def test_trees_read_in_pieces(
    monkeypatch: pytest.MonkeyPatch, chunk_size: int, whole_bytes: int
):
    monkeypatch.setattr(tree_digests, "_WHOLE_BYTES", whole_bytes)
    for number in range(12):
        tree = random_tree(random.Random(number))
        data = tree.SerializeToString()
        # Fields that nobody knows: numbers, fixed ones, bytes.
        unknown = b"\x78\x96\x01" + b"\x7d\x01\x02\x03\x04" + b"\x79" + b"8" * 8 + b"\x7a\x03abc"
        found = await read(unknown + data + unknown, chunk_size)
        expected = pairs(tree.root.files)
        for child in tree.children:
            expected += pairs(child.files)
        assert found.files == expected
        assert found.directories == []


@pytest.mark.parametrize("chunk_size", [1, 50, 1 << 20])
async def test_directories_read_in_pieces(chunk_size: int):
    for number in range(12):
        directory = random_directory(random.Random(number))
        found = await read(directory.SerializeToString(), chunk_size, is_tree=False)
        assert found.files == pairs(directory.files)
        assert found.directories == pairs(directory.directories)


@given(data=st.binary(max_size=60), chunk_size=st.sampled_from((1, 5, 100)))
@settings(derandomize=True, max_examples=300, deadline=None, database=None)
async def test_any_bytes_are_either_read_or_refused(data: bytes, chunk_size: int):
    for is_tree in (True, False):
        try:
            await read(data, chunk_size, is_tree=is_tree)
        except DecodeError:
            pass


@given(cut=st.integers(1, 400), seed=st.integers(0, 20))
@settings(derandomize=True, max_examples=200, deadline=None, database=None)
async def test_a_tree_that_was_cut_within_a_field_is_refused(cut: int, seed: int):
    data = random_tree(random.Random(seed)).SerializeToString()[:-cut]
    try:
        reapi.Tree.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            await read(data, 100)
    else:
        await read(data, 100)


async def test_what_is_longer_than_its_directory_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tree_digests, "_WHOLE_BYTES", 0)
    with pytest.raises(DecodeError, match="longer than its directory"):
        await read(b"\x0a\x04" + b"\x0a\x04\x0a\x02xy", 100)


async def test_a_node_of_megabytes_is_refused():
    node = reapi.FileNode(name="x" * (1024 * 1024)).SerializeToString()
    directory = reapi.Directory(files=[reapi.FileNode.FromString(node)]).SerializeToString()
    with pytest.raises(DecodeError, match="node of"):
        await read(directory, 65_536, is_tree=False)


@pytest.mark.slow
async def test_memory_does_not_grow_with_the_tree():
    """One directory of 24 MiB and many small ones of 12 MiB, flushed as they come."""
    node = reapi.FileNode(name="n" * 900).SerializeToString()
    field = b"\x0a" + bytes((len(node) & 0x7F | 0x80, len(node) >> 7)) + node
    assert reapi.Directory.FromString(field).files[0].name == "n" * 900
    count = 26_000
    flushed = 0

    async def write(piece: bytes) -> None:
        nonlocal flushed
        try:
            await found.write(piece)
        except EnoughError:
            flushed += len(found.take())

    found = TreeDigests()
    size = len(field) * count
    head = b"\x0a"
    while size:
        head += bytes((size & 0x7F | (0x80 if size > 0x7F else 0),))
        size >>= 7
    chunk = field * 100
    small = b"\x12" + bytes((len(field) & 0x7F | 0x80, len(field) >> 7)) + field
    small_chunk = small * 100
    tracemalloc.start()
    try:
        await write(head)
        for _ in range(count // 100):
            await write(chunk)
        for _ in range(130):
            await write(small_chunk)
        found.end()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert flushed + len(found.files) == count + 13_000
    assert peak < 6 * 1024 * 1024


async def test_no_read_is_open_while_files_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a store of one request at a time would wait for itself."""
    monkeypatch.setattr(TreeDigests, "FLUSH_COUNT", 10)
    request = asyncio.Lock()

    class Busy(DictStore):
        async def get(
            self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
        ) -> None:
            async with request:
                data = memoryview(self.blobs[key])[offset:]
                for start in range(0, len(data), 300):
                    await sink.write(data[start : start + 300])

    seed = random.Random(2)
    hashes = [seed.randbytes(32).hex() for _ in range(100)]
    tree = reapi.Tree(
        children=[
            reapi.Directory(files=[reapi.FileNode(name="f", digest=reapi.Digest(hash=each))])
            for each in hashes
        ]
    ).SerializeToString()
    store = Busy()
    store.blobs[key := DigestFunction.SHA256.digest_of(tree)] = tree
    seen: list[DigestPairs] = []

    async def require(pairs: DigestPairs) -> None:
        async with asyncio.timeout(60), request:
            seen.append(pairs)

    left = await read_digests(store, key, require, is_tree=True)

    assert len(seen) > 5
    assert [each for pairs in (*seen, left.files) for each, _ in pairs] == hashes
