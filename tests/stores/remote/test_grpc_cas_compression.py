"""Blobs that travel compressed, where both sides can."""

from __future__ import annotations

import random

import backports.zstd as zstd
import pytest

from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.core.rpc import CallContext, MessageSink, MessageSource, Method
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.bytestream import bytestream_pb2 as bs
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import DictStore, PiecesSource
from tests.stores.remote.cas_upstream import (
    LARGE,
    LARGE_DATA,
    READ,
    REAPI,
    SHA,
    WRITE,
    Names,
    blob,
    retrying,
)
from tests.stores.remote.upstream import INSTANCE, NO_BATCHES, cas_of, serving


class Compressing:
    """An upstream that can zstd and keeps what it is sent."""

    def __init__(self) -> None:
        self.streams: dict[str, bytes] = {}
        self.reads: list[str] = []

    async def capabilities(
        self, request: pb.GetCapabilitiesRequest, context: CallContext
    ) -> pb.ServerCapabilities:
        return pb.ServerCapabilities(
            cache_capabilities=pb.CacheCapabilities(supported_compressors=[pb.Compressor.ZSTD])
        )

    async def write(self, source: MessageSource, context: CallContext) -> bs.WriteResponse:
        name, data = "", b""
        while (message := await source.read()) is not None:
            request = bs.WriteRequest.FromString(bytes(message))
            name = name or request.resource_name
            data += request.data
        self.streams[name.partition("compressed-")[2]] = data
        return bs.WriteResponse(committed_size=len(data))

    async def read(self, request: bs.ReadRequest, context: CallContext, sink: MessageSink) -> None:
        name = request.resource_name.removeprefix(f"{INSTANCE}/")
        self.reads.append(name)
        data = self.streams[name.removeprefix("compressed-").replace("blobs/zstd/", "blobs/")]
        if not name.startswith("compressed-"):
            data = zstd.decompress(data)[request.read_offset :]
        for start in range(0, len(data), 50_000):
            piece = data[start : start + 50_000]
            await sink.write(bs.ReadResponse(data=piece).SerializeToString())
            if start and name.startswith("compressed-"):
                raise unavailable("broken")

    def methods(self) -> list[Method]:
        return [
            Method(
                REAPI + "Capabilities/GetCapabilities",
                self.capabilities,
                parse=pb.GetCapabilitiesRequest.FromString,
            ),
            Method(WRITE, self.write, client_streaming=True),
            Method(READ, self.read, parse=bs.ReadRequest.FromString, server_streaming=True),
        ]


async def test_large_blobs_travel_compressed_where_both_sides_can() -> None:
    data = random.Random(3).randbytes(40_000) * 50
    digest = SHA.digest_of(data)
    peer = Compressing()
    async with (
        serving(DictStore(), instead=peer.methods()) as upstream,
        cas_of(upstream.address, compression=True, batching=NO_BATCHES) as store,
    ):
        await store.put(digest, PiecesSource.split(data, 300_000))
        (stream,) = peer.streams.values()
        assert len(stream) < 60_000
        assert zstd.decompress(stream) == data
        peer.streams[f"blobs/{digest.hash}/{digest.size_bytes}"] = stream
        assert await read_bytes(store, digest) == data
        assert peer.reads == [f"compressed-blobs/zstd/{digest.hash}/{digest.size_bytes}"]


@pytest.mark.parametrize("code", [Code.UNAUTHENTICATED, Code.PERMISSION_DENIED])
async def test_a_caller_who_is_refused_decides_nothing_for_the_others(code: Code) -> None:
    class Guarded(Compressing):
        refused = 1

        async def capabilities(
            self, request: pb.GetCapabilitiesRequest, context: CallContext
        ) -> pb.ServerCapabilities:
            if self.refused:
                self.refused -= 1
                raise NativeLinkError(code, "who are you?")
            return await super().capabilities(request, context)

    peer = Guarded()
    async with (
        serving(DictStore(), instead=peer.methods()) as upstream,
        cas_of(upstream.address, compression=True, batching=NO_BATCHES) as store,
    ):
        await write_bytes(store, LARGE, LARGE_DATA)
        for seed in range(3):
            await write_bytes(store, *blob(100_000, seed))
    assert upstream.calls.count("GetCapabilities") == 2
    # Only the first blob travelled plain: the upstream had not said yet what it can do.
    assert [name[:11] for name in peer.streams] == ["", *["blobs/zstd/"] * 3]


async def test_what_is_left_of_a_broken_compressed_read_is_read_plain() -> None:
    peer = Compressing()
    name = f"blobs/{LARGE.hash}/{LARGE.size_bytes}"
    peer.streams[name] = zstd.compress(LARGE_DATA)
    async with (
        serving(DictStore(), instead=peer.methods()) as upstream,
        cas_of(upstream.address, compression=True, retry=retrying()) as store,
    ):
        assert await read_bytes(store, LARGE) == LARGE_DATA
    assert peer.reads[0] == f"compressed-{name.replace('blobs/', 'blobs/zstd/')}"
    assert peer.reads[-1] == name


async def test_an_upstream_that_does_not_offer_it_gets_no_compressed_blobs() -> None:
    names = Names()
    async with (
        serving(DictStore(), instead=names.methods()) as upstream,
        cas_of(upstream.address, compression=True) as store,
    ):
        await write_bytes(store, LARGE, LARGE_DATA)
    assert "compressed" not in names.names[0]
