"""The services behind the real transport, called by grpcio, which knows nothing of ours."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, TypeVar

import grpc
import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.eager import run_all
from nativelink.core.errors import NativeLinkError, missing_blob
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.bytestream import bytestream_pb2 as bs
from nativelink.services.action_cache import ActionCacheInstance, ActionCacheService
from nativelink.services.bytestream import ByteStreamInstance, ByteStreamService
from nativelink.services.capabilities import CapabilitiesInstance, CapabilitiesService
from nativelink.services.cas import CasInstance, CasService
from nativelink.stores.store import write_bytes
from nativelink.testing.fakes import DictStore
from nativelink.testing.reapi import ReapiClient, digest_of
from nativelink.transport.server import Server

T = TypeVar("T")
INSTANCE = "a/b"
LARGE = bytes(range(256)) * 8192
PIECE = 64 * 1024


class Service:
    """A server on a free port, and a client that blocks a thread of its own."""

    def __init__(self, address: str, cas: DictStore) -> None:
        self.address = address
        self.cas = cas

    async def call(
        self, work: Callable[[ReapiClient], T], options: Mapping[str, Any] | None = None
    ) -> T:
        def run() -> T:
            with ReapiClient(
                self.address, instance=INSTANCE, timeout_s=60, options=options
            ) as client:
                return work(client)

        return await asyncio.to_thread(run)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    cas = DictStore()
    async with ByteStreamService({INSTANCE: ByteStreamInstance(cas)}) as bytestream:
        methods = [
            *CasService({INSTANCE: CasInstance(cas)}).methods(),
            *bytestream.methods(),
            *ActionCacheService({INSTANCE: ActionCacheInstance(DictStore(), cas=cas)}).methods(),
            *CapabilitiesService({INSTANCE: CapabilitiesInstance(True)}).methods(),
        ]
        server = Server(methods)
        await server.start()
        host, port = server.address
        try:
            yield Service(f"{host}:{port}", cas)
        finally:
            await server.close()


async def test_a_cache_is_filled_and_read(service: Service) -> None:
    small = [b"one", b"two", b""]
    digests = [digest_of(data) for data in small]

    def work(client: ReapiClient) -> None:
        assert client.capabilities().cache_capabilities.max_batch_total_size_bytes > 4_000_000
        assert client.find_missing(digests) == digests[:2]
        assert [r.status.code for r in client.batch_update(small).responses] == [0, 0, 0]
        assert client.find_missing([*digests, digest_of(b"three")]) == [digest_of(b"three")]
        assert [r.data for r in client.batch_read(digests).responses] == small
        assert client.write(LARGE) == len(LARGE)
        assert client.read(digest_of(LARGE)) == LARGE
        assert client.read(digest_of(LARGE), offset=7, limit=99) == LARGE[7:106]
        result = pb.ActionResult(stdout_digest=digests[0], exit_code=1)
        with pytest.raises(grpc.RpcError) as raised:
            client.get_action_result(digest_of(b"action"))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        assert client.update_action_result(digest_of(b"action"), result) == result
        assert client.get_action_result(digest_of(b"action")) == result

    await service.call(work)


async def test_a_miss_leaves_nothing_to_the_garbage_collector(service: Service) -> None:
    raised: list[weakref.ref[NativeLinkError]] = []

    def miss(client: ReapiClient) -> None:
        with pytest.raises(grpc.RpcError, match="no result is cached"):
            client.get_action_result(digest_of(b"action"))

    def remember(digest: Digest) -> NativeLinkError:
        error = missing_blob(digest)
        raised.append(weakref.ref(error))
        return error

    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nativelink.stores.store.missing_blob", remember)
            await service.call(miss)
        assert [error() for error in raised] == [None]
    finally:
        gc.enable()


async def test_an_upload_of_a_blob_that_is_there_ends_early(service: Service) -> None:
    digest = digest_of(LARGE)
    await write_bytes(service.cas, DigestFunction.SHA256.digest_of(LARGE), LARGE)
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 10_000:
            sent += 1
            yield LARGE[:PIECE]

    def work(client: ReapiClient) -> int:
        return client.write_chunks(digest, endless())

    assert await service.call(work) == len(LARGE)
    assert sent < 10_000


async def test_an_upload_goes_on_over_another_connection(service: Service) -> None:
    digest = digest_of(LARGE)

    def status(client: ReapiClient, name: str) -> bs.QueryWriteStatusResponse:
        call: Any = client._channel.unary_unary(
            "/google.bytestream.ByteStream/QueryWriteStatus",
            request_serializer=bs.QueryWriteStatusRequest.SerializeToString,
            response_deserializer=bs.QueryWriteStatusResponse.FromString,
        )
        reply: bs.QueryWriteStatusResponse = call(bs.QueryWriteStatusRequest(resource_name=name))
        return reply

    def write(client: ReapiClient, requests: Iterator[bs.WriteRequest]) -> Any:
        call: Any = client._channel.stream_unary(
            "/google.bytestream.ByteStream/Write",
            request_serializer=bs.WriteRequest.SerializeToString,
            response_deserializer=bs.WriteResponse.FromString,
        )
        return call.future(requests, timeout=60)

    def requests(name: str, start: int) -> Iterator[bs.WriteRequest]:
        for offset in range(start, len(LARGE), PIECE):
            yield bs.WriteRequest(
                resource_name=name,
                write_offset=offset,
                data=LARGE[offset : offset + PIECE],
                finish_write=offset + PIECE >= len(LARGE),
            )

    def lost(client: ReapiClient) -> str:
        name = client.write_name(digest)
        wanted = 10 * PIECE
        gone = False

        def some() -> Iterator[bs.WriteRequest]:
            for request in requests(name, 0):
                if request.write_offset == wanted:
                    # Everything before it must have arrived before the connection goes.
                    while status(client, name).committed_size < wanted:
                        assert not gone
                    call.cancel()
                    return
                yield request

        call = write(client, some())
        with pytest.raises(grpc.FutureCancelledError):
            call.result()
        gone = True
        return name

    name = await service.call(lost)
    assert not service.cas.blobs

    def resumed(client: ReapiClient) -> int:
        found = status(client, name)
        assert (found.committed_size, found.complete) == (10 * PIECE, False)
        size: int = write(client, requests(name, found.committed_size)).result().committed_size
        assert status(client, name).complete
        return size

    assert await service.call(resumed) == len(LARGE)
    assert list(service.cas.blobs.values()) == [LARGE]


@pytest.mark.slow
async def test_batches_of_many_small_blobs_pass_with_the_limits_of_every_client(
    service: Service,
) -> None:
    blobs = [b"%0*d" % (1000, number) for number in range(4000)]
    digests = [digest_of(data) for data in blobs]

    def work(client: ReapiClient) -> None:
        advertised = client.capabilities().cache_capabilities.max_batch_total_size_bytes
        assert sum(map(len, blobs)) <= advertised
        assert {r.status.code for r in client.batch_update(blobs).responses} == {0}
        read: dict[str, bytes] = {}
        while missing := [digest for digest in digests if digest.hash not in read]:
            answer = client.batch_read(missing)
            assert answer.responses[0].status.code == 0
            read.update((r.digest.hash, r.data) for r in answer.responses if not r.status.code)
        assert list(read.values()) == blobs

    await service.call(work, options={"grpc.max_receive_message_length": 4 * 1024 * 1024})


async def test_clients_that_chose_one_name_at_once_all_succeed(service: Service) -> None:
    def work(client: ReapiClient) -> int:
        name = f"{INSTANCE}/uploads/one/blobs/{digest_of(LARGE).hash}/{len(LARGE)}"
        client.write_name = lambda digest, zstd: name
        return client.write(LARGE)

    assert await run_all([service.call(work) for _ in range(4)]) == [len(LARGE)] * 4
    assert list(service.cas.blobs.values()) == [LARGE]
