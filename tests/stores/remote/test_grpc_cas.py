"""The grpc store of blobs: what it calls, and by which names."""

from __future__ import annotations

import asyncio

import pytest

from nativelink.core.digest import Digest, DigestFunction, digest_function
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, MissingBlob, unimplemented
from nativelink.core.rpc import CallContext, Method
from nativelink.core.streams import BytesSource
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.remote.call_metadata import CallMetadata
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import DictStore, PiecesSource
from tests.errors import error_of
from tests.stores.remote.cas_upstream import (
    LARGE,
    LARGE_DATA,
    REAPI,
    SHA,
    SMALL,
    SMALL_DATA,
    Names,
    blob,
)
from tests.stores.remote.upstream import INSTANCE, cas_of, serving


async def test_small_blobs_read_at_once_share_a_call() -> None:
    blobs = dict(blob(500, seed) for seed in range(300))
    async with serving(DictStore()) as upstream, cas_of(upstream.address) as store:
        await run_all(write_bytes(store, digest, data) for digest, data in blobs.items())
        assert upstream.calls == ["GetCapabilities", "BatchUpdateBlobs"]
        upstream.calls.clear()
        assert await run_all(read_bytes(store, digest) for digest in blobs) == list(blobs.values())
        assert upstream.calls == ["BatchReadBlobs"]


async def test_the_same_blob_is_asked_for_once_and_each_reader_gets_it() -> None:
    async with serving(DictStore()) as upstream, cas_of(upstream.address) as store:
        await run_all(write_bytes(store, SMALL, SMALL_DATA) for _ in range(3))
        answers = await run_all(read_bytes(store, SMALL) for _ in range(3))
    assert answers == [SMALL_DATA] * 3


async def test_a_batch_is_split_at_the_limit_that_the_upstream_sets() -> None:
    async def capabilities(
        request: pb.GetCapabilitiesRequest, context: CallContext
    ) -> pb.ServerCapabilities:
        return pb.ServerCapabilities(
            cache_capabilities=pb.CacheCapabilities(max_batch_total_size_bytes=10_000)
        )

    instead = Method(
        REAPI + "Capabilities/GetCapabilities",
        capabilities,
        parse=pb.GetCapabilitiesRequest.FromString,
    )
    blobs = dict(blob(3000, seed) for seed in range(6))
    middling, middling_data = blob(20_000)
    async with (
        serving(DictStore(), instead=[instead]) as upstream,
        cas_of(upstream.address) as store,
    ):
        await run_all(write_bytes(store, digest, data) for digest, data in blobs.items())
        await write_bytes(store, middling, middling_data)
        assert upstream.calls == ["GetCapabilities", *["BatchUpdateBlobs"] * 2, "Write"]


async def test_absent_blobs_of_a_batch_do_not_harm_the_others() -> None:
    absent = blob(999, 7)[0]
    async with serving(DictStore()) as upstream, cas_of(upstream.address) as store:
        await write_bytes(store, SMALL, SMALL_DATA)
        async with asyncio.TaskGroup() as tasks:
            here = tasks.create_task(read_bytes(store, SMALL))
            gone = tasks.create_task(error_of(read_bytes(store, absent)))
    assert here.result() == SMALL_DATA
    assert (gone.result().code, gone.result().details) == (Code.NOT_FOUND, (MissingBlob(absent),))


async def test_an_upstream_without_batches_is_asked_one_by_one() -> None:
    async def refuse(request: bytes, context: CallContext) -> bytes:
        raise unimplemented("no batches here")

    instead = [
        Method(f"{REAPI}ContentAddressableStorage/Batch{kind}Blobs", refuse)
        for kind in ("Read", "Update")
    ]
    async with (
        serving(DictStore(), instead=instead) as upstream,
        cas_of(upstream.address) as store,
    ):
        for _ in range(2):
            await write_bytes(store, SMALL, SMALL_DATA)
            assert await read_bytes(store, SMALL) == SMALL_DATA
    assert upstream.calls == [
        "GetCapabilities",
        "BatchUpdateBlobs",
        "Write",
        "Read",
        "Write",
        "Read",
    ]


async def test_the_empty_blob_needs_no_call() -> None:
    empty = SHA.digest_of(b"")
    async with serving(DictStore()) as upstream, cas_of(upstream.address) as store:
        assert await store.has([empty]) == [0]
        assert await read_bytes(store, empty) == b""
        await write_bytes(store, empty, b"")
        assert upstream.calls == []


async def test_a_large_blob_is_written_in_messages_that_everybody_takes() -> None:
    names = Names()
    async with (
        serving(DictStore(), instead=names.methods()) as upstream,
        cas_of(upstream.address) as store,
    ):
        for source in (BytesSource(LARGE_DATA), PiecesSource.split(LARGE_DATA, 100_000)):
            assert await store.put(LARGE, source) == len(LARGE_DATA)
    assert max(names.sizes) <= 2 * 1024 * 1024
    assert len(names.sizes) == 6


@pytest.mark.parametrize(
    ("function", "legacy", "middle"),
    [
        (None, False, ""),
        (DigestFunction.SHA256, False, ""),
        (DigestFunction.BLAKE3, False, "blake3/"),
        (DigestFunction.BLAKE3, True, ""),
    ],
)
async def test_names_say_what_the_api_demands(
    function: DigestFunction | None, legacy: bool, middle: str
) -> None:
    names = Names()
    token = digest_function.set(function)
    try:
        async with (
            serving(DictStore(), instead=names.methods()) as upstream,
            cas_of(upstream.address, legacy_names=legacy) as store,
        ):
            await write_bytes(store, LARGE, LARGE_DATA)
    finally:
        digest_function.reset(token)
    (name,) = names.names
    assert name.startswith(f"{INSTANCE}/uploads/")
    assert name.endswith(f"/blobs/{middle}{LARGE.hash}/{LARGE.size_bytes}")


async def test_headers_reach_the_upstream() -> None:
    async with (
        serving(DictStore()) as upstream,
        cas_of(upstream.address, metadata=CallMetadata({"x-team": "blue"})) as store,
    ):
        await store.has([SMALL])
        await write_bytes(store, SMALL, SMALL_DATA)
        await read_bytes(store, SMALL)
        await write_bytes(store, LARGE, LARGE_DATA)
        await read_bytes(store, LARGE)
        assert [each.header(b"x-team") for each in upstream.contexts] == [b"blue"] * 6


async def test_a_whole_tree_comes_in_one_call() -> None:
    upstream_cas = DictStore()

    async def put(directory: pb.Directory) -> Digest:
        data = directory.SerializeToString(deterministic=True)
        await write_bytes(upstream_cas, SHA.digest_of(data), data)
        return SHA.digest_of(data)

    leaf = pb.Directory()
    leaf.symlinks.add(name="link", target="target")
    leaf_digest = await put(leaf)
    top = pb.Directory()
    for name in ("a", "b"):
        top.directories.add(
            name=name,
            digest=pb.Digest(hash=leaf_digest.hash, size_bytes=leaf_digest.size_bytes),
        )
    root = await put(top)
    async with serving(upstream_cas) as upstream, cas_of(upstream.address) as store:
        tree = await store.get_tree(root)
        assert {SHA.digest_of(data) for data in tree} == {root, leaf_digest}
        assert upstream.calls == ["GetTree"]
        error = await error_of(store.get_tree(SMALL))
        assert error.code is Code.NOT_FOUND
