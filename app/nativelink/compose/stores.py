"""Store specs to stores: one `match`, one short function per kind.

Modules of store kinds are imported by the functions that make them, so a server loads only what
its configuration uses.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from nativelink.compose.completeness import checked_names, observe_verdicts, remembered_s
from nativelink.compose.environment import Environment
from nativelink.config.specs_cloud import (
    AwsSpec,
    AzureSpec,
    CloudObjectSpec,
    GcsSpec,
    OciSpec,
    OntapExistenceCacheSpec,
    OntapS3Spec,
    OntapSpec,
    R2Spec,
)
from nativelink.config.specs_common import EvictionSpec
from nativelink.config.specs_remote import (
    GrpcStoreSpec,
    MongoSpec,
    ReadBatchingSpec,
    RedisSpec,
    StoreType,
)
from nativelink.config.specs_stores import (
    CacheMetricsSpec,
    CompletenessCheckingSpec,
    CompressionSpec,
    DedupSpec,
    ExistenceCacheSpec,
    FastSlowSpec,
    FilesystemSpec,
    MemorySpec,
    NamedStore,
    NoopSpec,
    RefSpec,
    ShardSpec,
    SizePartitioningSpec,
    StoreSpec,
    VerifySpec,
)
from nativelink.config.specs_stores import StoreDirection as DirectionSpec
from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import (
    Code,
    NativeLinkError,
    already_exists,
    context,
    invalid_argument,
)
from nativelink.services.status import Health, remote_check, store_check
from nativelink.stores.eviction import EvictionPolicy, EvictionStatistics
from nativelink.stores.local_files import LocalFiles
from nativelink.stores.store import BlobFinder, RemovalFeed, Store, TreeSource
from nativelink.telemetry.meter import Observation
from nativelink.telemetry.metrics import (
    STORE_DISK_AVAILABLE,
    STORE_ENTRIES,
    STORE_EVICTED_BYTES,
    STORE_EVICTIONS,
    STORE_MAX_SIZE,
    STORE_REDUCTION_IO,
    STORE_SIZE,
    STORE_TIER_IO,
    STORE_TIER_OPERATIONS,
)

if TYPE_CHECKING:
    from nativelink.stores.cloud.object_store import CloudObjectStore
    from nativelink.stores.join.fast_slow import FastSlowStore, StoreDirection
    from nativelink.stores.remote.grpc_cas import Batching
    from nativelink.stores.wrap.absences import AbsencesStore

__all__ = ["Leaf", "LocalTiers", "Node", "StoreBuilder"]


@dataclass(frozen=True, slots=True)
class LocalTiers:
    """What a worker needs of a fast_slow store over a filesystem store.

    Attributes:
        files: the fast side's files.
        upstream: the slow side, if it takes uploads: where everybody finds what is stored.
        trees: gives whole trees, if the slow side can.
    """

    files: LocalFiles
    upstream: Store | None
    trees: TreeSource | None


@dataclass(frozen=True, slots=True)
class Node:
    """A store, and the powers that others may need from it.

    Attributes:
        store: the store.
        removals: says which keys left it, where that can be known.
        keeps: False if it keeps nothing (noop), so that nobody need bring it anything.
        files: its blobs as files of this machine, if they are.
        trees: gives whole trees in one call, if it can.
        tiers: its two sides, if it is a fast_slow store whose fast side's blobs are files.
        finder: finds all that is in it by the hash alone, if it can.
        verified: what is put is checked against its digest.
    """

    store: Store
    removals: RemovalFeed | None = None
    keeps: bool = True
    files: LocalFiles | None = None
    trees: TreeSource | None = None
    tiers: LocalTiers | None = None
    finder: BlobFinder | None = None
    verified: bool = False


@dataclass(frozen=True, slots=True)
class Leaf:
    """A store that keeps something itself, for health checks, metrics and the admin page.

    Attributes:
        path: its place in the configuration without `stores/`, such as `CAS/slow`.
        kind: the configuration's key, such as `filesystem`.
        place: where it keeps what it has, in words for people.
        policy: its limits.
        entries: what it holds, and what it let go so far.
        statistics: that and more, for people; a dataclass.
    """

    path: str
    kind: str
    place: str
    policy: EvictionPolicy
    entries: Callable[[], EvictionStatistics]
    statistics: Callable[[], Any]


class StoreBuilder:
    """Makes the named stores of a configuration, each once, in the order of their references.

    Args:
        specs: the configuration's stores.
        env: what they are made with.

    Raises:
        NativeLinkError: ALREADY_EXISTS for a name that stands twice.
    """

    def __init__(self, specs: Sequence[NamedStore], env: Environment) -> None:
        self._env = env
        self._specs: dict[str, StoreSpec] = {}
        for named in specs:
            if named.name in self._specs:
                raise already_exists(f"stores/{named.name}: there are two stores of this name")
            self._specs[named.name] = named.spec
        self._made: dict[str, Node] = {}
        #: Names being made, outermost first: how a reference leads back to itself.
        self._making: list[str] = []
        self._tiers: list[FastSlowStore] = []
        self.leaves: list[Leaf] = []
        #: CASes whose users tell of what they miss: somebody remembers what is in them.
        self._absences: dict[str, AbsencesStore] = {}
        self._checked = checked_names(self._specs)
        env.registry.observe(STORE_TIER_OPERATIONS, self._tier_operations)
        env.registry.observe(STORE_TIER_IO, self._tier_io)

    async def build_all(self) -> None:
        """Make every named store, also those that nothing refers to."""
        for name in self._specs:
            await self.named(name)

    async def named(self, name: str) -> Node:
        """The store of a name.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for an unknown name or a cycle of references; what
                a store says that cannot be opened. The message begins with the config path.
        """
        made = self._made.get(name)
        if made is not None:
            return made
        if name not in self._specs:
            known = ", ".join(sorted(self._specs)) or "none"
            raise invalid_argument(f"there is no store {name!r}; the stores are: {known}")
        if name in self._making:
            cycle = " -> ".join([*self._making[self._making.index(name) :], name])
            raise invalid_argument(f"stores refer to each other in a circle: {cycle}")
        self._making.append(name)
        try:
            made = await self._build(self._specs[name], name)
        finally:
            self._making.pop()
        if name in self._checked:
            made = self._told(name, made)
        self._made[name] = made
        return made

    def _told(self, name: str, node: Node) -> Node:
        """A store that a completeness_checking store looks into, as all its users see it."""
        from nativelink.stores.wrap.absences import AbsencesStore

        self._absences[name] = store = AbsencesStore(node.store)
        return replace(node, store=store)

    async def _build(self, spec: StoreSpec, path: str) -> Node:
        """One store with everything inside it; `path` is its place, such as `CAS/fast`."""
        match spec:
            case RefSpec():
                # No context of its own: the store referred to names itself.
                return await self._reference(spec, path)
            case FastSlowSpec():
                return await self._fast_slow(spec, path)
            case SizePartitioningSpec():
                return await self._size_partitioning(spec, path)
            case ShardSpec():
                return await self._shard(spec, path)
            case DedupSpec():
                return await self._dedup(spec, path)
            case CompressionSpec():
                return await self._compression(spec, path)
            case VerifySpec():
                return await self._verify(spec, path)
            case ExistenceCacheSpec():
                return await self._existence_cache(spec, path)
            case CompletenessCheckingSpec():
                return await self._completeness_checking(spec, path)
            case CacheMetricsSpec():
                return await self._cache_metrics(spec, path)
            case MemorySpec():
                return self._memory(spec, path)
            case FilesystemSpec():
                with context(f"stores/{path}"):
                    return await self._filesystem(spec, path)
            case NoopSpec():
                return self._noop()
            case GrpcStoreSpec():
                with context(f"stores/{path}"):
                    return await self._grpc(spec, path)
            case RedisSpec():
                with context(f"stores/{path}"):
                    return await self._redis(spec, path)
            case MongoSpec():
                with context(f"stores/{path}"):
                    return await self._mongo(spec, path)
            case AwsSpec() | GcsSpec() | AzureSpec() | OntapSpec() | R2Spec() | OciSpec():
                with context(f"stores/{path}"):
                    return await self._object_store(spec, path)
            case OntapExistenceCacheSpec():
                with context(f"stores/{path}"):
                    return await self._ontap_existence_cache(spec, path)
            case _:
                assert_never(spec)

    # -- leaves -----------------------------------------------------------------------------

    def _memory(self, spec: MemorySpec, path: str) -> Node:
        from nativelink.stores.memory import MemoryStore

        policy = _policy(spec.eviction_policy)
        store = MemoryStore(eviction=policy, clock=self._env.clock)
        figures = store.statistics
        self._leaf(Leaf(path, spec.KIND, "memory", policy, figures, figures), store)
        return Node(store, store, finder=store)

    async def _filesystem(self, spec: FilesystemSpec, path: str) -> Node:
        from nativelink.stores.filesystem import FilesystemStore

        policy = _policy(spec.eviction_policy)
        store = FilesystemStore(
            content_path=Path(spec.content_path),
            temp_path=Path(spec.temp_path),
            eviction=policy,
            clock=self._env.clock,
            read_buffer_size=spec.read_buffer_size,
            block_size=spec.block_size,
            max_concurrent_writes=spec.max_concurrent_writes,
            evict_page_cache=spec.evict_page_cache,
        )
        try:
            await self._env.lifetimes.enter_async_context(store)
        except OSError as error:
            raise NativeLinkError(
                Code.FAILED_PRECONDITION, f"{error.filename or ''}: {error.strerror or error}"
            ) from error
        leaf = Leaf(
            path,
            spec.KIND,
            spec.content_path,
            policy,
            lambda: store.statistics().entries,
            store.statistics,
        )
        self._leaf(leaf, store)

        def available() -> list[Observation]:
            disk = store.statistics().disk
            return [] if disk is None else [((path, spec.KIND), disk.available_bytes)]

        self._env.registry.observe(STORE_DISK_AVAILABLE, available)
        return Node(store, store, files=store.files, finder=store)

    def _noop(self) -> Node:
        from nativelink.stores.noop import NoopStore

        return Node(NoopStore(), keeps=False)

    async def _grpc(self, spec: GrpcStoreSpec, path: str) -> Node:
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

            store = trees = await env.lifetimes.enter_async_context(
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
        type_name = type(store).__name__
        env.health.add(
            f"/nativelink/stores/{path}/{type_name}",
            type_name,
            remote_check(store, function=env.digest_function),
        )
        return Node(store, trees=trees)

    async def _redis(self, spec: RedisSpec, path: str) -> Node:
        from nativelink.compose.redis import redis_store
        from nativelink.telemetry.pools import ConnectionRecorder

        env = self._env
        store = redis_store(spec, ConnectionRecorder(env.registry, "redis"))
        await env.lifetimes.enter_async_context(store)
        self._server(store, path, store.check)
        return Node(store, store.removals)

    async def _mongo(self, spec: MongoSpec, path: str) -> Node:
        from nativelink.compose.mongo import mongo_store

        store = await self._env.lifetimes.enter_async_context(mongo_store(spec))
        self._server(store, path, store.check)
        return Node(store)

    def _server(self, store: Store, path: str, check: Callable[[], Awaitable[None]]) -> None:
        """Let a database behind a store be seen."""
        type_name = type(store).__name__

        async def verdict() -> tuple[Health, str]:
            await check()
            return Health.OK, "the server answered"

        self._env.health.add(f"/nativelink/stores/{path}/{type_name}", type_name, verdict)

    async def _object_store(self, spec: CloudObjectSpec, path: str) -> Node:
        from nativelink.compose.object_stores import REMEMBERED_OBJECTS, remembered_s
        from nativelink.stores.wrap.existence_cache import ExistenceCacheStore

        store = await self._opened_bucket(spec, path)
        remembered = EvictionPolicy(max_seconds=remembered_s(spec), max_count=REMEMBERED_OBJECTS)
        return Node(
            ExistenceCacheStore(store, eviction=remembered, clock=self._env.clock, removals=None)
        )

    async def _ontap_existence_cache(self, spec: OntapExistenceCacheSpec, path: str) -> Node:
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

    def _leaf(self, leaf: Leaf, store: Store) -> None:
        """Let a leaf be seen: health, metrics, the admin page."""
        env = self._env
        self.leaves.append(leaf)
        type_name = type(store).__name__
        # The blob of the check must fit, and push out next to nothing that is of use.
        limit = leaf.policy.max_bytes // 16 or env.health_check_bytes
        env.health.add(
            f"/nativelink/stores/{leaf.path}/{type_name}",
            type_name,
            store_check(
                store,
                size_bytes=max(1, min(env.health_check_bytes, limit)),
                function=env.digest_function,
            ),
        )
        labels = (leaf.path, leaf.kind)
        figures = leaf.entries

        def observe(figure: Callable[[EvictionStatistics], float]) -> list[Observation]:
            return [(labels, figure(figures()))]

        registry = env.registry
        registry.observe(STORE_SIZE, lambda: observe(lambda now: now.total_bytes))
        registry.observe(STORE_ENTRIES, lambda: observe(lambda now: now.count))
        registry.observe(
            STORE_EVICTIONS, lambda: observe(lambda now: now.evicted_count + now.expired_count)
        )
        registry.observe(
            STORE_EVICTED_BYTES, lambda: observe(lambda now: now.evicted_bytes + now.expired_bytes)
        )
        if max_bytes := leaf.policy.max_bytes:
            registry.observe(STORE_MAX_SIZE, lambda: [(labels, max_bytes)])

    def _tier_operations(self) -> Iterable[Observation]:
        """How the two sides of all fast_slow stores answered reads."""
        figures = [store.statistics() for store in self._tiers]
        if not figures:
            return
        yield ("fast", "hit"), sum(now.fast_hits for now in figures)
        yield ("fast", "miss"), sum(now.fast_misses for now in figures)
        yield ("fast", "stale"), sum(now.fast_stale for now in figures)
        yield ("slow", "hit"), sum(now.slow_hits for now in figures)
        yield ("slow", "miss"), sum(now.slow_misses for now in figures)

    def _tier_io(self) -> Iterable[Observation]:
        """Bytes that went through the two sides of all fast_slow stores."""
        figures = [store.statistics() for store in self._tiers]
        if not figures:
            return
        yield ("fast", "read"), sum(now.fast_read_bytes for now in figures)
        yield ("fast", "write"), sum(now.fast_written_bytes for now in figures)
        yield ("slow", "read"), sum(now.slow_read_bytes for now in figures)
        yield ("slow", "write"), sum(now.slow_written_bytes for now in figures)

    # -- joins and wrappers -----------------------------------------------------------------

    async def _reference(self, spec: RefSpec, path: str) -> Node:
        if spec.name not in self._specs:
            known = ", ".join(sorted(self._specs))
            raise invalid_argument(
                f"stores/{path}: ref_store names {spec.name!r}; the stores are: {known}"
            )
        return await self.named(spec.name)

    async def _fast_slow(self, spec: FastSlowSpec, path: str) -> Node:
        from nativelink.stores.join.fast_slow import FastSlowStore

        fast = await self._build(spec.fast, f"{path}/fast")
        slow = await self._build(spec.slow, f"{path}/slow")
        slow_direction = _direction(slow, spec.slow_direction)
        store = FastSlowStore(
            fast.store,
            slow.store,
            fast_direction=_direction(fast, spec.fast_direction),
            slow_direction=slow_direction,
            bypass_dedup_threshold_bytes=spec.bypass_dedup_threshold_bytes,
            clock=self._env.clock,
        )
        self._tiers.append(store)
        upstream = slow.store if slow_direction.keeps_puts else None
        tiers = None if fast.files is None else LocalTiers(fast.files, upstream, slow.trees)
        # What a slow side that takes uploads lost is lost, whatever the fast side still has.
        removals = _feeds(fast, slow) if upstream is None else slow.removals
        finder = _finder(fast, slow) if upstream is None else _finder(slow)
        return Node(store, removals, tiers=tiers, finder=finder)

    async def _size_partitioning(self, spec: SizePartitioningSpec, path: str) -> Node:
        from nativelink.stores.join.size_partition import SizePartitioningStore

        lower = await self._build(spec.lower_store, f"{path}/lower_store")
        upper = await self._build(spec.upper_store, f"{path}/upper_store")
        store = SizePartitioningStore(lower.store, upper.store, size=spec.size)
        return Node(store, _feeds(lower, upper), finder=_finder(lower, upper))

    async def _shard(self, spec: ShardSpec, path: str) -> Node:
        from nativelink.stores.join.shard import ShardStore
        from nativelink.stores.join.shard_choice import Bounds, Rendezvous

        shards = [
            await self._build(item.store, f"{path}/stores/{index}/store")
            for index, item in enumerate(spec.stores)
        ]
        weights = [item.weight for item in spec.stores]
        with context(f"stores/{path}"):
            choice = Rendezvous(weights) if spec.rendezvous else Bounds(weights)
        store = ShardStore([shard.store for shard in shards], choice)
        return Node(store, _feeds(*shards), finder=_finder(*shards))

    async def _dedup(self, spec: DedupSpec, path: str) -> Node:
        from nativelink.stores.join.chunker import Chunker
        from nativelink.stores.join.dedup import DedupStore

        index = await self._build(spec.index_store, f"{path}/index_store")
        content = await self._build(spec.content_store, f"{path}/content_store")
        with context(f"stores/{path}"):
            chunker = Chunker(
                min_size=spec.min_size, normal_size=spec.normal_size, max_size=spec.max_size
            )
        store = DedupStore(
            index.store,
            content.store,
            chunker=chunker,
            max_concurrent=spec.max_concurrent_fetch_per_get,
            report=self._reductions(path, spec.KIND),
        )
        # Which blobs a chunk belongs to is not known, so only lost lists are told of.
        return Node(store, index.removals, finder=index.finder)

    async def _compression(self, spec: CompressionSpec, path: str) -> Node:
        from nativelink.stores.wrap.compression import CompressionStore
        from nativelink.stores.wrap.compression_codecs import Codec, Lz4Codec, ZstdCodec

        backend = await self._build(spec.backend, f"{path}/backend")
        lz4, zstd = spec.compression_algorithm.lz4, spec.compression_algorithm.zstd
        codec: Codec
        if zstd is not None:
            codec, block_size = ZstdCodec(zstd.level), zstd.block_size
            max_block_size = block_size
        else:
            assert lz4 is not None
            codec, block_size = Lz4Codec(), lz4.block_size
            max_block_size = lz4.max_decode_block_size
        store = CompressionStore(
            backend.store,
            codec,
            block_size=block_size,
            max_block_size=max_block_size,
            report=self._reductions(path, spec.KIND),
        )
        return Node(store, backend.removals, finder=backend.finder)

    def _reductions(self, path: str, kind: str) -> Callable[[int, int], None]:
        """Takes the bytes of each blob that is put, and what was stored for it."""
        given = stored = 0

        def report(blob_bytes: int, stored_bytes: int) -> None:
            nonlocal given, stored
            given += blob_bytes
            stored += stored_bytes

        def observe() -> list[Observation]:
            return [((path, kind, "given"), given), ((path, kind, "stored"), stored)]

        self._env.registry.observe(STORE_REDUCTION_IO, observe)
        return report

    async def _verify(self, spec: VerifySpec, path: str) -> Node:
        from nativelink.stores.wrap.verify import VerifyStore

        backend = await self._build(spec.backend, f"{path}/backend")
        store = VerifyStore(
            backend.store,
            verify_size=spec.verify_size,
            verify_hash=spec.verify_hash,
            default_function=self._env.digest_function,
        )
        verified = spec.verify_size and spec.verify_hash
        return Node(store, backend.removals, finder=backend.finder, verified=verified)

    async def _existence_cache(self, spec: ExistenceCacheSpec, path: str) -> Node:
        from nativelink.stores.wrap.existence_cache import ExistenceCacheStore

        backend = await self._build(spec.backend, f"{path}/backend")
        store = ExistenceCacheStore(
            backend.store,
            eviction=_policy(spec.eviction_policy),
            clock=self._env.clock,
            removals=backend.removals,
        )
        return Node(store, backend.removals, finder=backend.finder)

    async def _completeness_checking(self, spec: CompletenessCheckingSpec, path: str) -> Node:
        from nativelink.stores.wrap.completeness import CompletenessCheckingStore
        from nativelink.stores.wrap.verdicts import Verdicts

        backend = await self._build(spec.backend, f"{path}/backend")
        cas = await self._build(spec.cas_store, f"{path}/cas_store")
        env = self._env
        verdicts = Verdicts(
            max_seconds=remembered_s(spec.cas_store, self._specs), now=env.clock.monotonic
        )
        if cas.removals is not None:
            cas.removals.on_removed(lambda part: verdicts.lose((part,)))
        if isinstance(spec.cas_store, RefSpec):
            self._absences[spec.cas_store.name].on_absent(verdicts.lose)
        observe_verdicts(env.registry, path, verdicts)
        store = CompletenessCheckingStore(backend.store, cas.store, verdicts=verdicts)
        return Node(store, backend.removals, finder=backend.finder)

    async def _cache_metrics(self, spec: CacheMetricsSpec, path: str) -> Node:
        from nativelink.stores.wrap.cache_metrics import CacheMetricsStore
        from nativelink.telemetry.cache import CacheRecorder

        backend = await self._build(spec.backend, f"{path}/backend")
        store = CacheMetricsStore(
            backend.store,
            cache_type=spec.cache_type,
            recorder=CacheRecorder(self._env.registry),
        )
        return Node(store, backend.removals, finder=backend.finder)


class _AllFeeds:
    """What left any of several stores."""

    def __init__(self, feeds: Sequence[RemovalFeed]) -> None:
        self._feeds = feeds

    def on_removed(self, callback: Callable[[StoreKey], None], /) -> None:
        for feed in self._feeds:
            feed.on_removed(callback)


def _feeds(*nodes: Node) -> RemovalFeed | None:
    """What is known of what leaves several stores: one that does not say hides no other."""
    feeds = [node.removals for node in nodes if node.removals is not None]
    return _AllFeeds(feeds) if feeds else None


class _AnyFinder:
    """Finds what is in one of several stores, or in the other."""

    def __init__(self, finders: Sequence[BlobFinder]) -> None:
        self._finders = finders

    async def find(self, hash_: str) -> Digest | None:
        for finder in self._finders:
            found = await finder.find(hash_)
            if found is not None:
                return found
        return None


def _finder(*nodes: Node) -> BlobFinder | None:
    """Finds what is in several stores; None if one of them cannot say what it has."""
    finders = [node.finder for node in nodes if node.keeps]
    known = [finder for finder in finders if finder is not None]
    if len(known) < len(finders):
        return None
    return known[0] if len(known) == 1 else _AnyFinder(known)


def _direction(node: Node, spec: DirectionSpec) -> StoreDirection:
    """What a side of fast_slow keeps."""
    from nativelink.stores.join.fast_slow import StoreDirection

    return StoreDirection(spec.value) if node.keeps else StoreDirection.READ_ONLY


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


def _policy(spec: EvictionSpec | None) -> EvictionPolicy:
    if spec is None:
        return EvictionPolicy()
    return EvictionPolicy(
        max_bytes=spec.max_bytes,
        evict_bytes=spec.evict_bytes,
        max_seconds=spec.max_seconds,
        max_count=spec.max_count,
    )
