"""Specs of stores that keep blobs with a server: a database, a bucket, another cache."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nativelink.compose.environment import Environment
from nativelink.compose.nodes import Node
from nativelink.config.specs_cloud import CloudObjectSpec, OntapExistenceCacheSpec, OntapS3Spec
from nativelink.config.specs_remote import (
    GrpcStoreSpec,
    MongoSpec,
    ReadBatchingSpec,
    RedisSpec,
    StoreType,
)
from nativelink.services.status import Health, remote_check
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.store import BlobSplitter, Store, TreeSource

if TYPE_CHECKING:
    from nativelink.stores.cloud.object_store import CloudObjectStore
    from nativelink.stores.remote.grpc_cas import Batching

__all__ = ["RemoteStores"]


class RemoteStores:
    """Makes stores that a server has.

    Args:
        env: collaborators.
    """

    def __init__(self, env: Environment) -> None:
        self._env = env

    async def grpc(self, spec: GrpcStoreSpec, path: str) -> Node:
        """The CAS or the action cache of another server."""
        from nativelink.compose.channels import grpc_channel, retry_of
        from nativelink.stores.remote.call_metadata import CallMetadata
        from nativelink.telemetry.pools import ConnectionRecorder

        env = self._env
        trace = None
        if env.tracer is not None:
            from nativelink.telemetry.tracing import trace_headers

            trace = trace_headers
        channel = await env.lifetimes.enter_async_context(
            grpc_channel(
                spec.endpoints,
                connections_per_endpoint=spec.connections_per_endpoint,
                max_concurrent_requests=spec.max_concurrent_requests,
                recorder=ConnectionRecorder(env.registry, "grpc"),
            )
        )
        retry = retry_of(spec.retry)
        metadata = CallMetadata(spec.headers, forward_headers=spec.forward_headers, trace=trace)
        timeout_s = spec.rpc_timeout_s or None
        store: Store
        trees: TreeSource | None = None
        splitter: BlobSplitter | None = None
        if spec.store_type is StoreType.AC:
            from nativelink.stores.remote.grpc_ac import GrpcAcStore

            store = GrpcAcStore(
                channel,
                instance_name=spec.instance_name,
                retry=retry,
                metadata=metadata,
                default_function=env.digest_function,
                timeout_s=timeout_s,
            )
        else:
            from nativelink.stores.remote.grpc_cas import GrpcCasStore

            store = trees = cas = await env.lifetimes.enter_async_context(
                GrpcCasStore(
                    channel,
                    instance_name=spec.instance_name,
                    retry=retry,
                    metadata=metadata,
                    default_function=env.digest_function,
                    timeout_s=timeout_s,
                    use_legacy_resource_names=spec.use_legacy_resource_names,
                    compression=bool(spec.experimental_remote_cache_compression),
                    batching=_batching(spec.experimental_read_batching),
                )
            )
            splitter = cas.chunks
        type_name = type(store).__name__
        env.health.add(
            f"/nativelink/stores/{path}/{type_name}",
            type_name,
            remote_check(store, function=env.digest_function),
        )
        return Node(store, trees=trees, splitter=splitter)

    async def redis(self, spec: RedisSpec, path: str) -> Node:
        """Redis."""
        from nativelink.compose.redis import redis_store
        from nativelink.telemetry.pools import ConnectionRecorder

        env = self._env
        store = redis_store(spec, ConnectionRecorder(env.registry, "redis"))
        await env.lifetimes.enter_async_context(store)
        self._server(store, path, store.check)
        return Node(store, store.removals)

    async def mongo(self, spec: MongoSpec, path: str) -> Node:
        """MongoDB."""
        from nativelink.compose.mongo import mongo_store

        store = await self._env.lifetimes.enter_async_context(mongo_store(spec))
        self._server(store, path, store.check)
        return Node(store)

    async def object_store(self, spec: CloudObjectSpec, path: str) -> Node:
        """A bucket, and what is remembered of what is in it."""
        from nativelink.compose.object_stores import REMEMBERED_OBJECTS, remembered_s
        from nativelink.stores.wrap.existence_cache import ExistenceCacheStore

        store = await self._opened_bucket(spec, path)
        remembered = EvictionPolicy(max_seconds=remembered_s(spec), max_count=REMEMBERED_OBJECTS)
        return Node(
            ExistenceCacheStore(store, eviction=remembered, clock=self._env.clock, removals=None)
        )

    async def ontap_existence_cache(self, spec: OntapExistenceCacheSpec, path: str) -> Node:
        """A bucket, and an index of it on disk."""
        from nativelink.stores.cloud.ontap_existence_cache import OntapS3ExistenceCacheStore

        env = self._env
        backend = await self._opened_bucket(spec.backend, f"{path}/backend")
        store = OntapS3ExistenceCacheStore(
            backend,
            names=backend.names,
            index_path=Path(spec.index_path),
            sync_interval_s=spec.sync_interval_seconds,
            clock=env.clock,
        )
        return Node(await env.lifetimes.enter_async_context(store))

    def _server(self, store: Store, path: str, check: Callable[[], Awaitable[None]]) -> None:
        """Let a database behind a store be seen."""
        type_name = type(store).__name__

        async def verdict() -> tuple[Health, str]:
            await check()
            return Health.OK, "the server answered"

        self._env.health.add(f"/nativelink/stores/{path}/{type_name}", type_name, verdict)

    async def _opened_bucket(
        self, spec: CloudObjectSpec | OntapS3Spec, path: str
    ) -> CloudObjectStore:
        """A store over a bucket, with its health and figures."""
        from nativelink.compose.object_stores import object_store, observe_requests

        env = self._env
        store = await env.lifetimes.enter_async_context(await object_store(spec, env.clock))
        type_name = type(store).__name__

        async def check() -> tuple[Health, str]:
            await store.check()
            return Health.OK, f"{store.name} answered"

        env.health.add(f"/nativelink/stores/{path}/{type_name}", type_name, check)
        observe_requests(env.registry, path, store.statistics)
        return store


def _batching(spec: ReadBatchingSpec | None) -> Batching | None:
    from nativelink.stores.remote.grpc_cas import Batching

    if spec is None:
        return None
    return Batching(
        max_blob_bytes=spec.max_blob_size_bytes,
        max_batch_bytes=spec.max_batch_bytes,
        slots=spec.dispatch_slots,
        max_queued_bytes=spec.max_queued_bytes,
    )
