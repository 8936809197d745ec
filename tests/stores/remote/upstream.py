"""A server of ours on loopback, as the upstream of a grpc store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from nativelink.core.digest import DigestFunction
from nativelink.core.retry import Retry
from nativelink.core.rpc import CallContext, Method
from nativelink.services.action_cache import ActionCacheInstance, ActionCacheService
from nativelink.services.bytestream import ByteStreamInstance, ByteStreamService
from nativelink.services.capabilities import CapabilitiesInstance, CapabilitiesService
from nativelink.services.cas import CasInstance, CasService
from nativelink.services.chunking import Chunking
from nativelink.services.fast_cdc import FastCdc2020
from nativelink.stores.remote.call_metadata import CallMetadata
from nativelink.stores.remote.grpc_ac import GrpcAcStore
from nativelink.stores.remote.grpc_cas import Batching, GrpcCasStore
from nativelink.stores.store import Store
from nativelink.testing.fakes import DictStore
from nativelink.transport.channel import GrpcChannel
from nativelink.transport.endpoints import Endpoint
from nativelink.transport.server import Server, ServerSettings
from nativelink.transport.settings import TlsSettings

__all__ = ["INSTANCE", "NO_BATCHES", "Upstream", "ac_of", "cas_of", "serving"]

INSTANCE = "up/stream"
NO_BATCHES = Batching(max_blob_bytes=0)


class Upstream:
    """The running server, and the calls that reached it."""

    def __init__(self) -> None:
        self.server: Server
        self.calls: list[str] = []
        self.contexts: list[CallContext] = []

    @property
    def address(self) -> str:
        host, port = self.server.address
        return f"{host}:{port}"

    def counted(self, method: Method) -> Method:
        name = method.path.rpartition("/")[2]
        handler = method.handler

        async def with_count(request: object, context: CallContext, *sink: object) -> object:
            self.calls.append(name)
            self.contexts.append(context)
            return await handler(request, context, *sink)

        return Method(
            method.path,
            with_count,
            parse=method.parse,
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
            min_message_bytes=method.min_message_bytes,
        )


@asynccontextmanager
async def serving(
    cas: Store,
    ac: Store | None = None,
    *,
    instead: Sequence[Method] = (),
    address: str = "127.0.0.1:0",
    tls: TlsSettings | None = None,
    chunk_size: int | None = None,
    max_chunk_count: int = 1000,
) -> AsyncIterator[Upstream]:
    """Serve stores; methods of `instead` take the place of ours of the same path.

    With a `chunk_size`, blobs are split and spliced there.
    """
    upstream = Upstream()
    chunking: Chunking | None = None
    if chunk_size is not None:
        chunking = Chunking(
            cas,
            DictStore(),
            chunker=FastCdc2020(chunk_size),
            max_chunk_count=max_chunk_count,
            default_function=DigestFunction.SHA256,
        )
    capabilities = CapabilitiesInstance(True, average_chunk_size=chunk_size)
    async with ByteStreamService({INSTANCE: ByteStreamInstance(cas)}) as bytestream:
        methods = {
            method.path: upstream.counted(method)
            for method in (
                *CasService({INSTANCE: CasInstance(cas, chunking=chunking)}).methods(),
                *bytestream.methods(),
                *ActionCacheService({INSTANCE: ActionCacheInstance(ac or cas)}).methods(),
                *CapabilitiesService({INSTANCE: capabilities}).methods(),
                *instead,
            )
        }
        settings = ServerSettings(address=address)
        upstream.server = Server(list(methods.values()), settings=settings, tls=tls)
        await upstream.server.start()
        try:
            yield upstream
        finally:
            await upstream.server.close()


@asynccontextmanager
async def cas_of(
    address: str,
    *,
    retry: Retry | None = None,
    batching: Batching | None = None,
    compression: bool = False,
    timeout_s: float | None = None,
    legacy_names: bool = False,
    metadata: CallMetadata | None = None,
) -> AsyncIterator[GrpcCasStore]:
    """A grpc store whose upstream is at `address`."""
    async with (
        GrpcChannel([Endpoint(address)]) as channel,
        GrpcCasStore(
            channel,
            instance_name=INSTANCE,
            retry=retry,
            batching=batching,
            compression=compression,
            timeout_s=timeout_s,
            use_legacy_resource_names=legacy_names,
            metadata=metadata,
        ) as store,
    ):
        yield store


@asynccontextmanager
async def ac_of(address: str, *, retry: Retry | None = None) -> AsyncIterator[GrpcAcStore]:
    """The same for action results."""
    async with GrpcChannel([Endpoint(address)]) as channel:
        yield GrpcAcStore(channel, instance_name=INSTANCE, retry=retry)
