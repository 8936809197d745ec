"""Service specs to gRPC methods: one short function per service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from nativelink.compose.chunking import chunking
from nativelink.compose.environment import Environment
from nativelink.compose.nodes import Node
from nativelink.compose.schedulers import SchedulerBuilder
from nativelink.compose.stores import StoreBuilder
from nativelink.config.specs_services import (
    AcServiceSpec,
    BepSpec,
    CapabilitiesServiceSpec,
    CasServiceSpec,
    ExecutionServiceSpec,
    InstanceSpec,
    ServicesSpec,
    WorkerApiSpec,
)
from nativelink.core.errors import context, invalid_argument
from nativelink.core.rpc import Method
from nativelink.scheduler.scheduler import WorkerGateway
from nativelink.services.action_cache import ActionCacheInstance, ActionCacheService
from nativelink.services.bytestream import ByteStreamInstance, ByteStreamService
from nativelink.services.capabilities import CapabilitiesInstance, CapabilitiesService
from nativelink.services.cas import CasInstance, CasService
from nativelink.services.chunking import Chunking
from nativelink.services.limits import MAX_BATCH_TOTAL_SIZE_BYTES
from nativelink.stores.store import Store

__all__ = ["cache_instances", "offered", "service_methods"]

#: What the names in a message of blobs need beside the blobs (services/limits.py).
_MESSAGE_OVERHEAD_BYTES: Final = 64 * 1024

Instance = TypeVar("Instance", bound=InstanceSpec)


async def service_methods(
    spec: ServicesSpec,
    max_message_bytes: int,
    stores: StoreBuilder,
    schedulers: SchedulerBuilder,
    env: Environment,
) -> list[Method]:
    """The methods of all services of one listener.

    Args:
        spec: what the listener offers.
        max_message_bytes: the longest message that it takes.
        stores: the stores that the specs name.
        schedulers: the schedulers that they name.
        env: collaborators.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for an unknown store or scheduler, or a name that stands
            twice.
    """
    # Never 0, which would say that there is no limit (REAPI v2, CacheCapabilities).
    max_batch_bytes = min(
        MAX_BATCH_TOTAL_SIZE_BYTES,
        max(max_message_bytes - _MESSAGE_OVERHEAD_BYTES, max_message_bytes // 2, 1),
    )
    found: list[Method] = []
    if spec.cas:
        found += await _cas(spec, max_batch_bytes, stores, env)
    if spec.bytestream:
        found += await _bytestream(spec, stores, env)
    if spec.ac:
        found += await _action_cache(spec.ac, spec.cas, max_batch_bytes, stores, env)
    if spec.capabilities:
        found += _capabilities(spec, max_batch_bytes, schedulers, env)
    if spec.execution:
        found += await _execution(spec.execution, max_batch_bytes, stores, schedulers, env)
    if spec.worker_api is not None:
        found += await _worker_api(spec.worker_api, stores, schedulers, env)
    if spec.fetch or spec.push:
        from nativelink.compose.assets import asset_methods

        found += await asset_methods(spec, stores, env)
    if spec.experimental_bep is not None:
        found += await _build_events(spec.experimental_bep, stores, env)
    return found


def offered(spec: ServicesSpec) -> tuple[str, ...]:
    """The gRPC services of a listener, as the configuration calls them."""
    return tuple(
        name
        for name in (
            "cas",
            "ac",
            "capabilities",
            "bytestream",
            "execution",
            "fetch",
            "push",
            "worker_api",
            "experimental_bep",
        )
        if getattr(spec, name)
    )


def cache_instances(spec: ServicesSpec) -> tuple[str, ...]:
    """The instance names under which a client finds a whole cache, in the order of the CAS."""
    others = [
        {each.instance_name for each in service}
        for service in (spec.bytestream, spec.capabilities, spec.ac)
    ]
    return tuple(
        each.instance_name
        for each in spec.cas
        if all(each.instance_name in names for names in others)
    )


async def _cas(
    spec: ServicesSpec, max_batch_bytes: int, stores: StoreBuilder, env: Environment
) -> Sequence[Method]:
    compressed = _compressed(spec)
    instances: dict[str, CasInstance] = {}
    for each in _distinct("cas", spec.cas):
        node = await _node("cas", each, each.cas_store, stores)
        chunks: Chunking | None = None
        if each.experimental_chunking is not None:
            with context(_path("cas", each)):
                chunks = await chunking(each.experimental_chunking, each.cas_store, stores, env)
        instances[each.instance_name] = CasInstance(
            node.store, each.instance_name in compressed, chunks, node.verified
        )
    return CasService(
        instances,
        default_function=env.digest_function,
        max_batch_total_size_bytes=max_batch_bytes,
    ).methods()


async def _bytestream(
    spec: ServicesSpec, stores: StoreBuilder, env: Environment
) -> Sequence[Method]:
    compressed = _compressed(spec)
    instances: dict[str, ByteStreamInstance] = {}
    for each in _distinct("bytestream", spec.bytestream):
        node = await _node("bytestream", each, each.cas_store, stores)
        instances[each.instance_name] = ByteStreamInstance(
            node.store,
            each.max_bytes_per_stream,
            each.persist_stream_on_disconnect_timeout_s,
            each.instance_name in compressed,
            node.verified,
        )
    service = ByteStreamService(instances, default_function=env.digest_function)
    return (await env.lifetimes.enter_async_context(service)).methods()


async def _action_cache(
    specs: Sequence[AcServiceSpec],
    cas: Sequence[CasServiceSpec],
    max_batch_bytes: int,
    stores: StoreBuilder,
    env: Environment,
) -> Sequence[Method]:
    outputs = {
        spec.instance_name: await _store("cas", spec, spec.cas_store, stores) for spec in cas
    }
    return ActionCacheService(
        {
            spec.instance_name: ActionCacheInstance(
                await _store("ac", spec, spec.ac_store, stores),
                spec.read_only,
                outputs.get(spec.instance_name),
            )
            for spec in _distinct("ac", specs)
        },
        default_function=env.digest_function,
        max_inlined_bytes=max_batch_bytes,
    ).methods()


async def _execution(
    specs: Sequence[ExecutionServiceSpec],
    max_batch_bytes: int,
    stores: StoreBuilder,
    schedulers: SchedulerBuilder,
    env: Environment,
) -> Sequence[Method]:
    from nativelink.services.execution import ExecutionInstance, ExecutionService
    from nativelink.services.operations import OperationsService

    instances: dict[str, ExecutionInstance] = {}
    for spec in _distinct("execution", specs):
        with context(_path("execution", spec)):
            scheduler = schedulers.named(spec.scheduler).scheduler
        instances[spec.instance_name] = ExecutionInstance(
            await _store("execution", spec, spec.cas_store, stores), scheduler
        )
    execution = ExecutionService(
        instances,
        clock=env.clock,
        default_function=env.digest_function,
        max_inlined_bytes=max_batch_bytes,
        recent=env.recent,
    )
    operations = OperationsService({name: each.scheduler for name, each in instances.items()})
    return [*execution.methods(), *operations.methods()]


async def _worker_api(
    spec: WorkerApiSpec, stores: StoreBuilder, schedulers: SchedulerBuilder, env: Environment
) -> Sequence[Method]:
    from nativelink.services.worker_api import WorkerApiService

    with context("services/worker_api"):
        gateway: WorkerGateway | None = schedulers.named(spec.scheduler).local
        if gateway is None:
            raise invalid_argument(
                f"workers cannot join {spec.scheduler!r}: it passes actions on to another server"
            )
        if spec.ac_store is not None:
            from nativelink.scheduler.wrap.cache_update import CacheUpdateGateway
            from nativelink.services.cached_results import CachedResults

            results = CachedResults((await stores.named(spec.ac_store)).store)
            gateway = await env.lifetimes.enter_async_context(
                CacheUpdateGateway(gateway, results.keep)
            )
    return WorkerApiService(gateway).methods()


async def _build_events(spec: BepSpec, stores: StoreBuilder, env: Environment) -> Sequence[Method]:
    from nativelink.services.builds.history import BuildHistory
    from nativelink.services.builds.publish import PublishBuildEventService
    from nativelink.services.builds.service import BuildsService

    with context("services/experimental_bep"):
        store = (await stores.named(spec.store)).store
    history = BuildHistory(store, clock=env.clock)
    publish = PublishBuildEventService(store, history, clock=env.clock)
    env.resumables.append(publish)
    return [*publish.methods(), *BuildsService(store, history).methods()]


def _capabilities(
    spec: ServicesSpec, max_batch_bytes: int, schedulers: SchedulerBuilder, env: Environment
) -> Sequence[Method]:
    writable = {each.instance_name for each in spec.ac if not each.read_only}
    chunk_sizes = {
        each.instance_name: each.experimental_chunking.avg_chunk_size_bytes
        for each in spec.cas
        if each.experimental_chunking is not None
    }
    return CapabilitiesService(
        {
            each.instance_name: CapabilitiesInstance(
                each.instance_name in writable,
                _platform_properties(each, schedulers),
                each.remote_cache_compression,
                chunk_sizes.get(each.instance_name),
            )
            for each in _distinct("capabilities", spec.capabilities)
        },
        default_function=env.digest_function,
        max_batch_total_size_bytes=max_batch_bytes,
    ).methods()


def _compressed(spec: ServicesSpec) -> frozenset[str]:
    """The instances of a listener whose blobs may travel compressed."""
    return frozenset(
        each.instance_name for each in spec.capabilities if each.remote_cache_compression
    )


def _platform_properties(
    spec: CapabilitiesServiceSpec, schedulers: SchedulerBuilder
) -> Callable[[], Sequence[str]] | None:
    if spec.remote_execution is None:
        return None
    with context(_path("capabilities", spec)):
        return schedulers.named(spec.remote_execution.scheduler).scheduler.known_properties


async def _store(service: str, spec: InstanceSpec, name: str, stores: StoreBuilder) -> Store:
    return (await _node(service, spec, name, stores)).store


async def _node(service: str, spec: InstanceSpec, name: str, stores: StoreBuilder) -> Node:
    with context(_path(service, spec)):
        return await stores.named(name)


def _distinct(service: str, specs: Sequence[Instance]) -> Sequence[Instance]:
    """The specs, each of another instance.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for an instance that stands twice.
    """
    names: set[str] = set()
    for spec in specs:
        if spec.instance_name in names:
            raise invalid_argument(f"{_path(service, spec)}: the instance stands there twice")
        names.add(spec.instance_name)
    return specs


def _path(service: str, spec: InstanceSpec) -> str:
    return f"services/{service}/{spec.instance_name or '(no name)'}"
