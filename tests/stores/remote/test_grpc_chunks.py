"""Splitting and splicing left to an upstream, as far as it says that it can."""

from __future__ import annotations

import random

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.core.rpc import CallContext, Method
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.fast_cdc import FastCdc2020
from nativelink.stores.store import write_bytes
from nativelink.testing.fakes import DictStore
from tests.stores.remote.upstream import cas_of, serving

SHA = DigestFunction.SHA256
SIZE = 16 * 1024
DATA = random.Random(4).randbytes(200_000)
BLOB = SHA.digest_of(DATA)
FAST_CDC = pb.ChunkingFunction.FAST_CDC_2020


def pieces(data: bytes) -> list[bytes]:
    chunker, found = FastCdc2020(SIZE), []
    while data:
        length = chunker.cut(data)
        found.append(data[:length])
        data = data[length:]
    return found


async def chunked(store: DictStore) -> list[Digest]:
    """The chunks of the blob, put into a store."""
    for piece in pieces(DATA):
        await write_bytes(store, SHA.digest_of(piece), piece)
    return [SHA.digest_of(piece) for piece in pieces(DATA)]


async def test_the_upstream_splits() -> None:
    blobs = DictStore()
    await write_bytes(blobs, BLOB, DATA)
    async with serving(blobs, chunk_size=SIZE) as upstream, cas_of(upstream.address) as store:
        expected = [SHA.digest_of(piece) for piece in pieces(DATA)]
        for _ in range(2):
            assert await store.chunks.split(BLOB, SIZE) == expected
        assert all(chunk in blobs.blobs for chunk in expected)
    assert upstream.calls == ["GetCapabilities", "SplitBlob", "SplitBlob"]


async def test_the_upstream_splices() -> None:
    blobs = DictStore()
    chunks = await chunked(blobs)
    async with serving(blobs, chunk_size=SIZE) as upstream, cas_of(upstream.address) as store:
        assert await store.chunks.splice(BLOB, chunks, FAST_CDC)
    assert blobs.blobs[BLOB] == DATA
    assert upstream.calls == ["GetCapabilities", "SpliceBlob"]


@pytest.mark.parametrize("chunk_size", [None, 2 * SIZE])
async def test_an_upstream_that_cuts_otherwise_is_not_asked(chunk_size: int | None) -> None:
    blobs = DictStore()
    await write_bytes(blobs, BLOB, DATA)
    async with (
        serving(blobs, chunk_size=chunk_size) as upstream,
        cas_of(upstream.address) as store,
    ):
        assert await store.chunks.split(BLOB, SIZE) is None
        # Whoever splices need not know how chunks were cut.
        spliced = await store.chunks.splice(BLOB, [BLOB], FAST_CDC)
    assert spliced == (chunk_size is not None)
    assert upstream.calls == ["GetCapabilities", "SpliceBlob"][: 1 + spliced]


async def test_what_the_upstream_refuses_is_no_error() -> None:
    blobs = DictStore()
    chunks = await chunked(blobs)
    async with (
        serving(blobs, chunk_size=SIZE, max_chunk_count=2) as upstream,
        cas_of(upstream.address) as store,
    ):
        assert not await store.chunks.splice(BLOB, chunks, FAST_CDC)
        # Not even asked: nobody takes a message of 5 MB.
        assert not await store.chunks.splice(BLOB, [BLOB] * 60_000, FAST_CDC)
    assert upstream.calls == ["GetCapabilities", "SpliceBlob"]


async def test_what_it_cannot_do_now_is() -> None:
    async def fails(_request: object, _context: CallContext) -> pb.SplitBlobResponse:
        raise unavailable("later")

    path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/SplitBlob"
    method = Method(path, fails, parse=pb.SplitBlobRequest.FromString)
    async with (
        serving(DictStore(), chunk_size=SIZE, instead=[method]) as upstream,
        cas_of(upstream.address) as store,
    ):
        with pytest.raises(NativeLinkError, match="later") as caught:
            await store.chunks.split(BLOB, SIZE)
    assert caught.value.code is Code.UNAVAILABLE
