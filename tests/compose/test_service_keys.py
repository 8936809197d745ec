"""What keys of services do, seen from outside of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from nativelink.compose.system import open_system
from nativelink.config import Config
from nativelink.core.clock import SystemClock
from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2
from nativelink.proto.google.bytestream import bytestream_pb2
from nativelink.stores.memory import MemoryStore
from nativelink.stores.remote.grpc_cas import GrpcCasStore
from nativelink.stores.store import write_bytes
from nativelink.testing.fakes import PassingTime
from nativelink.transport.channel import GrpcChannel
from nativelink.transport.endpoints import Endpoint
from tests import plain_http
from tests.compose.making import served

pytestmark = pytest.mark.slow

BLOB = b"a blob"
DIGEST = DigestFunction.SHA256.digest_of(BLOB)


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[str]:
    """The address of a server."""
    async with open_system(config, version="1", environ={}, clock=SystemClock()) as system:
        yield system.listeners[0].address


async def test_a_read_is_sent_in_messages_of_the_size_that_bytestream_says():
    data = bytes(300_000)
    digest = DigestFunction.SHA256.digest_of(data)
    bytestream = [{"instance_name": "a", "cas_store": "CAS", "max_bytes_per_stream": 10_000}]
    async with opened(served([{"name": "CAS", "memory": {}}], {"bytestream": bytestream})) as at:
        async with GrpcChannel([Endpoint(at)]) as way, GrpcCasStore(way, instance_name="a") as cas:
            await write_bytes(cas, digest, data)
        async with grpc.aio.insecure_channel(at) as channel:
            read = channel.unary_stream(
                "/google.bytestream.ByteStream/Read",
                request_serializer=bytestream_pb2.ReadRequest.SerializeToString,
                response_deserializer=bytestream_pb2.ReadResponse.FromString,
            )
            name = f"a/blobs/{digest.hash}/{digest.size_bytes}"
            answers = read(bytestream_pb2.ReadRequest(resource_name=name))
            sizes = [len(answer.data) async for answer in answers]
    assert max(sizes) == 10_000
    assert sum(sizes) == len(data)


async def test_an_upload_without_a_call_is_kept_as_long_as_bytestream_says():
    digest = DigestFunction.SHA256.digest_of(b"0123456789abcdef")
    name = f"a/uploads/{uuid.uuid4()}/blobs/{digest.hash}/{digest.size_bytes}"
    services = {
        "bytestream": [
            {
                "instance_name": "a",
                "cas_store": "CAS",
                "persist_stream_on_disconnect_timeout_s": 3600,
            }
        ]
    }
    async with (
        opened(served([{"name": "CAS", "memory": {}}], services)) as at,
        grpc.aio.insecure_channel(at) as channel,
    ):
        write = channel.stream_unary(
            "/google.bytestream.ByteStream/Write",
            request_serializer=bytestream_pb2.WriteRequest.SerializeToString,
            response_deserializer=bytestream_pb2.WriteResponse.FromString,
        )
        query = channel.unary_unary(
            "/google.bytestream.ByteStream/QueryWriteStatus",
            request_serializer=bytestream_pb2.QueryWriteStatusRequest.SerializeToString,
            response_deserializer=bytestream_pb2.QueryWriteStatusResponse.FromString,
        )

        async def committed_now() -> int:
            status = await query(bytestream_pb2.QueryWriteStatusRequest(resource_name=name))
            return int(status.committed_size)

        call = write()
        await call.write(bytestream_pb2.WriteRequest(resource_name=name, data=b"0123456789"))

        # The server tells nobody: each question is a moment of its own.
        while await committed_now() != 10:
            pass
        call.cancel()
        time, passed_s = PassingTime(), 0
        while await committed_now() == 10:
            time.pass_by(100)
            passed_s += 100
        assert passed_s >= 3600


async def test_the_status_page_waits_for_a_store_as_long_as_health_says(
    monkeypatch: pytest.MonkeyPatch,
):
    async def never(*_arguments: object) -> int:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(MemoryStore, "put", never)
    config = served([{"name": "CAS", "memory": {}}], {"health": {"timeout_seconds": 3600}})
    loop = asyncio.get_running_loop()
    async with opened(config) as at, plain_http.async_client(timeout=None) as client:
        time, began = PassingTime(), loop.time()
        shown = await time.outlast(client.get(f"http://{at}/status"))
        assert loop.time() - began >= 3600
    assert shown.status_code == 503
    assert "Timeout" in shown.text


@pytest.mark.parametrize("size", [100, 5_000])
async def test_health_checks_write_blobs_of_the_size_that_global_says(size: int):
    config = served(
        [{"name": "CAS", "memory": {}}],
        {"health": {}},
        **{"global": {"default_digest_size_health_check": size}},
    )
    async with opened(config) as at, plain_http.async_client() as client:
        shown = await client.get(f"http://{at}/status")
    assert f"wrote and read {size} bytes" in shown.text.replace(",", "")


@pytest.mark.parametrize("function", list(DigestFunction))
async def test_the_default_digest_function_is_what_a_request_without_one_means(
    function: DigestFunction,
):
    store = {"verify": {"verify_hash": True, "backend": {"memory": {}}}}
    config = served(
        [{"name": "CAS", **store}],
        {"cas": [{"instance_name": "a", "cas_store": "CAS"}]},
        **{"global": {"default_digest_hash_function": function.name.lower()}},
    )
    # 32 bytes of hash do not say whose they are, and older clients do not either.
    outcomes = {}
    async with opened(config) as at, grpc.aio.insecure_channel(at) as channel:
        update = channel.unary_unary(
            "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
            request_serializer=re_pb2.BatchUpdateBlobsRequest.SerializeToString,
            response_deserializer=re_pb2.BatchUpdateBlobsResponse.FromString,
        )
        for used in DigestFunction:
            digest = used.digest_of(BLOB)
            request = re_pb2.BatchUpdateBlobsRequest(instance_name="a")
            one = request.requests.add(data=BLOB)
            one.digest.hash, one.digest.size_bytes = digest.hash, digest.size_bytes
            answer = await update(request)
            outcomes[used] = answer.responses[0].status.code
    assert {used for used, code in outcomes.items() if code == Code.OK} == {function}
