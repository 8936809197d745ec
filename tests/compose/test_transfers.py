"""Compressed and chunked transfers, as a configuration turns them on, through grpcio."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import backports.zstd as zstd
import grpc
import json5
import pytest

from nativelink.compose.system import open_system
from nativelink.config import Config
from nativelink.core.clock import SystemClock
from nativelink.core.eager import run_all
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.bytestream import bytestream_pb2 as bs
from nativelink.services.fast_cdc import FastCdc2020
from nativelink.testing.reapi import ReapiClient, digest_of

T = TypeVar("T")
BLOB = random.Random(6).randbytes(300_000) + bytes(range(256)) * 2000


class Front:
    """A server in the test's loop; clients block threads of their own."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def call(self, work: Callable[[ReapiClient], T], *, instance: str = "") -> T:
        def run() -> T:
            with ReapiClient(self.address, instance=instance, timeout_s=120) as client:
                return work(client)

        return await asyncio.to_thread(run)


@asynccontextmanager
async def opened(stores: str, services: str) -> AsyncIterator[Front]:
    text = f"""{{
      stores: [{stores}],
      servers: [{{
        listener: {{ http: {{ socket_address: "127.0.0.1:0" }} }}, services: {{ {services} }},
      }}],
    }}"""
    config = Config.model_validate(json5.loads(text))
    async with open_system(config, version="1.2.3", environ={}, clock=SystemClock()) as system:
        yield Front(system.listeners[0].address)


VERIFIED = """{ name: "CAS", verify: {
  backend: { memory: {} }, verify_size: true, verify_hash: true,
} }"""


def cache(instance: str = "", *, cas: str = "", capabilities: str = "") -> str:
    name = f'instance_name: "{instance}", '
    return f"""
      cas: [{{ {name} cas_store: "CAS", {cas} }}, {{ instance_name: "plain", cas_store: "CAS" }}],
      bytestream: [
        {{ {name} cas_store: "CAS" }}, {{ instance_name: "plain", cas_store: "CAS" }},
      ],
      capabilities: [{{ {name} {capabilities} }}, {{ instance_name: "plain" }}],
    """


def write_compressed(client: ReapiClient, blob: bytes) -> tuple[int, int]:
    """The committed size, and the bytes that travelled."""
    stream = zstd.compress(blob)
    pieces = [stream[at : at + 16_384] for at in range(0, len(stream), 16_384)]
    return client.write_chunks(digest_of(blob), pieces, zstd_size=len(stream)), len(stream)


def code_of(raised: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    code: grpc.StatusCode = raised.value.code()
    return code


async def test_remote_cache_compression_concerns_one_instance() -> None:
    services = cache("a/b", capabilities="remote_cache_compression: true")

    def compressed(client: ReapiClient) -> None:
        cache = client.capabilities().cache_capabilities
        assert list(cache.supported_compressors) == [pb.Compressor.ZSTD]
        assert list(cache.supported_batch_update_compressors) == [pb.Compressor.ZSTD]
        committed, sent = write_compressed(client, BLOB)
        assert committed == sent < len(BLOB) // 2
        assert write_compressed(client, BLOB)[0] == -1
        stream = b"".join(client.read_chunks(digest_of(BLOB), zstd=True, offset=5))
        assert len(stream) < len(BLOB) // 2
        assert zstd.decompress(stream) == BLOB[5:]
        assert client.read(digest_of(BLOB)) == BLOB

    def plain(client: ReapiClient) -> None:
        cache = client.capabilities().cache_capabilities
        assert not cache.supported_compressors
        assert not cache.supported_batch_update_compressors
        with pytest.raises(grpc.RpcError) as refused:
            list(client.read_chunks(digest_of(BLOB), zstd=True))
        assert code_of(refused) == grpc.StatusCode.INVALID_ARGUMENT

    async with opened(VERIFIED, services) as front:
        await front.call(compressed, instance="a/b")
        await front.call(plain, instance="plain")


async def test_batches_are_compressed_too() -> None:
    def work(client: ReapiClient) -> None:
        blob = b"again " * 1000
        entry = pb.BatchUpdateBlobsRequest.Request(
            digest=digest_of(blob), data=zstd.compress(blob), compressor=pb.Compressor.ZSTD
        )
        wrong = pb.BatchUpdateBlobsRequest.Request(
            digest=digest_of(blob[::-1]), data=zstd.compress(blob), compressor=pb.Compressor.ZSTD
        )
        answer = client.unary(
            "ContentAddressableStorage/BatchUpdateBlobs",
            pb.BatchUpdateBlobsRequest(requests=[entry, wrong]),
            pb.BatchUpdateBlobsResponse,
        )
        ok, refused = answer.responses
        assert ok.status.code == 0
        assert refused.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert "hash" in refused.status.message
        (read,) = client.unary(
            "ContentAddressableStorage/BatchReadBlobs",
            pb.BatchReadBlobsRequest(
                digests=[digest_of(blob)], acceptable_compressors=[pb.Compressor.ZSTD]
            ),
            pb.BatchReadBlobsResponse,
        ).responses
        assert (read.compressor, len(read.data) < 100) == (pb.Compressor.ZSTD, True)
        assert zstd.decompress(read.data) == blob

    services = cache(capabilities="remote_cache_compression: true")
    async with opened(VERIFIED, services) as front:
        await front.call(work)


async def test_an_upload_lost_with_its_connection_goes_on_compressed() -> None:
    blob = BLOB + random.Random(8).randbytes(300_000)
    stream = zstd.compress(blob)
    name = f"uploads/one/compressed-blobs/zstd/{digest_of(blob).hash}/{len(blob)}"
    services = cache(capabilities="remote_cache_compression: true")

    async with opened(VERIFIED, services) as front:
        write = "/google.bytestream.ByteStream/Write"
        async with grpc.aio.insecure_channel(front.address) as channel:
            call = channel.stream_unary(
                write,
                request_serializer=bs.WriteRequest.SerializeToString,
                response_deserializer=bs.WriteResponse.FromString,
            )()
            await call.write(bs.WriteRequest(resource_name=name, data=stream[:400_000]))
            status = channel.unary_unary(
                "/google.bytestream.ByteStream/QueryWriteStatus",
                request_serializer=bs.QueryWriteStatusRequest.SerializeToString,
                response_deserializer=bs.QueryWriteStatusResponse.FromString,
            )
            question = bs.QueryWriteStatusRequest(resource_name=name)
            committed = 0
            while not committed:
                committed = (await status(question)).committed_size
            call.cancel()
            committed = (await status(question)).committed_size
            assert 0 < committed < len(blob)

            rest = zstd.compress(blob[committed:])
            again = channel.stream_unary(
                write,
                request_serializer=bs.WriteRequest.SerializeToString,
                response_deserializer=bs.WriteResponse.FromString,
            )
            half = len(rest) // 2
            first, last = bs.WriteRequest(), bs.WriteRequest()
            first.resource_name, first.write_offset, first.data = name, committed, rest[:half]
            last.write_offset, last.data, last.finish_write = committed + half, rest[half:], True
            answer = await again(iter((first, last)))
            assert answer.committed_size == committed + len(rest)
            assert (await status(question)).complete
        assert await front.call(lambda client: client.read(digest_of(blob))) == blob


def chunk_lengths(blob: bytes, average: int) -> list[int]:
    chunker, found = FastCdc2020(average), []
    while blob:
        found.append(chunker.cut(blob))
        blob = blob[found[-1] :]
    return found


@pytest.mark.slow
async def test_every_key_of_chunking_has_its_effect(tmp_path: Path) -> None:
    index = f"""{{ name: "INDEX", filesystem: {{
      content_path: "{tmp_path}/content", temp_path: "{tmp_path}/temp",
    }} }}"""
    keys = 'index_store: "INDEX", avg_chunk_size_bytes: "16KiB", max_chunk_count: 30'
    services = cache(cas=f"experimental_chunking: {{ {keys} }}")

    def work(client: ReapiClient) -> None:
        cache = client.capabilities().cache_capabilities
        assert cache.split_blob_support
        assert cache.splice_blob_support
        assert cache.fast_cdc_2020_params.avg_chunk_size_bytes == 16_384
        assert cache.fast_cdc_2020_params.seed == 0
        client.write(BLOB)
        answer = client.split(digest_of(BLOB))
        lengths = [digest.size_bytes for digest in answer.chunk_digests]
        assert lengths == chunk_lengths(BLOB, 16_384)
        assert answer.chunking_function == pb.ChunkingFunction.FAST_CDC_2020
        assert b"".join(client.read(digest) for digest in answer.chunk_digests) == BLOB
        # The list stands in the index as NativeLink keeps it.
        (kept,) = tmp_path.rglob(f"{digest_of(BLOB).hash}*")
        assert pb.SplitBlobResponse.FromString(kept.read_bytes()) == answer
        # Twice as many are too many.
        twice = BLOB + BLOB[::-1]
        client.write(twice)
        with pytest.raises(grpc.RpcError, match="more than 30 chunks") as many:
            client.split(digest_of(twice))
        assert code_of(many) == grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError, match="30 are allowed") as many:
            client.splice(digest_of(b"?" * 31), [digest_of(b"?")] * 31)
        assert code_of(many) == grpc.StatusCode.INVALID_ARGUMENT

    async with opened(f"{VERIFIED}, {index}", services) as front:
        await front.call(work)


async def test_a_blob_is_uploaded_in_chunks_and_downloaded_in_chunks() -> None:
    size = 64 * 1024
    services = cache(cas='experimental_chunking: { avg_chunk_size_bytes: "64KiB" }')
    old = BLOB
    new = BLOB[:200_000] + b"another few bytes" + BLOB[200_000:]

    def chunks(blob: bytes) -> list[bytes]:
        found, at = [], 0
        for length in chunk_lengths(blob, size):
            found.append(blob[at : at + length])
            at += length
        return found

    def work(client: ReapiClient) -> None:
        sent = 0
        for blob in (old, new):
            parts = chunks(blob)
            missing = {digest.hash for digest in client.find_missing(map(digest_of, parts))}
            wanted = [part for part in parts if digest_of(part).hash in missing]
            sent += sum(map(len, wanted))
            client.batch_update(wanted)
            assert client.splice(digest_of(blob), map(digest_of, parts)) == digest_of(blob)
            assert client.read(digest_of(blob)) == blob
            listed = client.split(digest_of(blob)).chunk_digests
            assert [digest.hash for digest in listed] == [digest_of(part).hash for part in parts]
        assert sent < 1.5 * len(new)
        with pytest.raises(grpc.RpcError, match="1 of the 2 chunks") as lost:
            client.splice(digest_of(b"?" + old), [digest_of(b"?"), digest_of(old)])
        assert code_of(lost) == grpc.StatusCode.NOT_FOUND

    async with opened(VERIFIED, services) as front:
        await front.call(work)


async def test_an_instance_without_the_setting_has_no_chunks() -> None:
    def work(client: ReapiClient) -> None:
        cache = client.capabilities().cache_capabilities
        assert not cache.split_blob_support
        assert not cache.splice_blob_support
        assert not cache.HasField("fast_cdc_2020_params")
        for call in (
            lambda: client.split(digest_of(BLOB)),
            lambda: client.splice(digest_of(BLOB), []),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert code_of(refused) == grpc.StatusCode.UNIMPLEMENTED

    async with opened(VERIFIED, cache(cas="experimental_chunking: {}")) as front:
        await front.call(work, instance="plain")


@pytest.mark.slow
async def test_two_servers_compress_what_they_send_each_other() -> None:
    behind = cache(capabilities="remote_cache_compression: true")
    async with opened(VERIFIED, behind) as upstream:
        remote = f"""{{ name: "CAS", grpc: {{
          instance_name: "", store_type: "cas", experimental_remote_cache_compression: true,
          endpoints: [{{ address: "grpc://{upstream.address}" }}],
        }} }}"""
        async with opened(remote, behind) as front:

            def work(client: ReapiClient) -> None:
                committed, sent = write_compressed(client, BLOB)
                assert committed == sent
                stream = b"".join(client.read_chunks(digest_of(BLOB), zstd=True))
                assert zstd.decompress(stream) == BLOB

            await front.call(work)
            assert await upstream.call(lambda client: client.read(digest_of(BLOB))) == BLOB


@pytest.mark.slow
@pytest.mark.parametrize("upstream_splits", [False, True])
async def test_blobs_are_split_and_spliced_over_an_upstream_of_two_requests(
    upstream_splits: bool,
) -> None:
    chunking = 'experimental_chunking: { avg_chunk_size_bytes: "64KiB" }'
    async with opened(VERIFIED, cache(cas=chunking if upstream_splits else "")) as upstream:
        remote = f"""{{ name: "CAS", grpc: {{
          instance_name: "", store_type: "cas", max_concurrent_requests: 2,
          endpoints: [{{ address: "grpc://{upstream.address}" }}],
        }} }}"""
        async with opened(remote, cache(cas=chunking)) as front:

            def work(seed: int) -> Callable[[ReapiClient], None]:
                # Longer than all buffers on the way, so that its request stays open.
                blob = random.Random(seed).randbytes(6_000_000)

                def call(client: ReapiClient) -> None:
                    client.write(blob)
                    chunks = client.split(digest_of(blob)).chunk_digests
                    assert len(chunks) > 50
                    parts = [client.read(chunk) for chunk in chunks[::-1]]
                    whole = b"".join(parts)
                    assert client.splice(digest_of(whole), chunks[::-1]) == digest_of(whole)

                return call

            async with asyncio.timeout(60):
                await run_all(front.call(work(seed)) for seed in range(3))
