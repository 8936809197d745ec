"""Store specs to stores: one `match`, and who makes each kind.

Modules of store kinds are imported by the functions that make them, so a server loads only what
its configuration uses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

from nativelink.compose.completeness import remembered_s
from nativelink.compose.environment import Environment
from nativelink.compose.joined_stores import JoinedStores
from nativelink.compose.leaf_stores import LeafStores
from nativelink.compose.nodes import Leaf, Node
from nativelink.compose.remote_stores import RemoteStores
from nativelink.compose.wrapped_stores import WrappedStores
from nativelink.config.in_flight import LEAST_REQUESTS, limited_stores
from nativelink.config.problems import Path
from nativelink.config.specs_cloud import (
    AwsSpec,
    AzureSpec,
    GcsSpec,
    OciSpec,
    OntapExistenceCacheSpec,
    OntapSpec,
    R2Spec,
)
from nativelink.config.specs_remote import GrpcStoreSpec, MongoSpec, RedisSpec
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
from nativelink.core.errors import already_exists, context, invalid_argument

if TYPE_CHECKING:
    from nativelink.stores.wrap.verdicts import Verdicts

__all__ = ["StoreBuilder"]


class StoreBuilder:
    """Makes the named stores of a configuration, each once, in the order of their references.

    Args:
        specs: the configuration's stores.
        env: what they are made with.

    Raises:
        NativeLinkError: ALREADY_EXISTS for a name that stands twice.
    """

    def __init__(self, specs: Sequence[NamedStore], env: Environment) -> None:
        self._specs: dict[str, StoreSpec] = {}
        for named in specs:
            if named.name in self._specs:
                raise already_exists(f"stores/{named.name}: there are two stores of this name")
            self._specs[named.name] = named.spec
        self._made: dict[str, Node] = {}
        #: Names being made, outermost first: how a reference leads back to itself.
        self._making: list[str] = []
        self._rooms: dict[Path, asyncio.Semaphore] = {}
        self._trees: dict[str, Verdicts] = {}
        self._now = env.clock.monotonic
        self._leaves = LeafStores(env)
        self._remote = RemoteStores(env)
        self._joined = JoinedStores(self._build, env)
        self._wrapped = WrappedStores(self._specs, self._build, env)

    @property
    def leaves(self) -> Sequence[Leaf]:
        """The stores made so far that keep something themselves."""
        return self._leaves.leaves

    def rooms(self, name: str) -> Sequence[asyncio.Semaphore]:
        """Room for transfers of blobs that need further transfers to come to their end.

        For each store below `name` that takes so many requests at a time, room for one fewer. All
        who ask for a store get the same room.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for a store that takes one request at a time.
        """
        bounds = dict(limited_stores(self._specs[name], (name,), self._specs))
        for path, bound in bounds.items():
            if bound < LEAST_REQUESTS:
                raise invalid_argument(
                    f"stores/{'/'.join(map(str, path))} takes {bound} request at a time, and "
                    f"{LEAST_REQUESTS} are needed: one transfers a blob, others its chunks"
                )
            self._rooms.setdefault(path, asyncio.Semaphore(bound - 1))
        return [self._rooms[path] for path in sorted(bounds, key=str)]

    async def trees(self, name: str) -> Verdicts:
        """Which trees were found whole in a store a short while ago; one for all who ask.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for an unknown name.
        """
        from nativelink.stores.wrap.verdicts import Verdicts

        verdicts = self._trees.get(name)
        if verdicts is None:
            node = await self.named(name)
            verdicts = self._trees[name] = Verdicts(
                max_seconds=remembered_s(self._specs[name], self._specs), now=self._now
            )
            if node.removals is not None:
                node.removals.on_removed(verdicts.removed)
        return verdicts

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
        made = self._wrapped.told(name, made)
        self._made[name] = made
        return made

    async def _build(self, spec: StoreSpec, path: str) -> Node:
        """One store with everything inside it; `path` is its place, such as `CAS/fast`."""
        match spec:
            case RefSpec():
                # No context of its own: the store referred to names itself.
                return await self._reference(spec, path)
            case FastSlowSpec():
                return await self._joined.fast_slow(spec, path)
            case SizePartitioningSpec():
                return await self._joined.size_partitioning(spec, path)
            case ShardSpec():
                return await self._joined.shard(spec, path)
            case DedupSpec():
                return await self._joined.dedup(spec, path)
            case CompressionSpec():
                return await self._wrapped.compression(spec, path)
            case VerifySpec():
                return await self._wrapped.verify(spec, path)
            case ExistenceCacheSpec():
                return await self._wrapped.existence_cache(spec, path)
            case CompletenessCheckingSpec():
                return await self._wrapped.completeness_checking(spec, path)
            case CacheMetricsSpec():
                return await self._wrapped.cache_metrics(spec, path)
            case MemorySpec():
                return self._leaves.memory(spec, path)
            case FilesystemSpec():
                with context(f"stores/{path}"):
                    return await self._leaves.filesystem(spec, path)
            case NoopSpec():
                return self._leaves.noop()
            case GrpcStoreSpec():
                with context(f"stores/{path}"):
                    return await self._remote.grpc(spec, path)
            case RedisSpec():
                with context(f"stores/{path}"):
                    return await self._remote.redis(spec, path)
            case MongoSpec():
                with context(f"stores/{path}"):
                    return await self._remote.mongo(spec, path)
            case AwsSpec() | GcsSpec() | AzureSpec() | OntapSpec() | R2Spec() | OciSpec():
                with context(f"stores/{path}"):
                    return await self._remote.object_store(spec, path)
            case OntapExistenceCacheSpec():
                with context(f"stores/{path}"):
                    return await self._remote.ontap_existence_cache(spec, path)
            case _:
                assert_never(spec)

    async def _reference(self, spec: RefSpec, path: str) -> Node:
        if spec.name not in self._specs:
            known = ", ".join(sorted(self._specs))
            raise invalid_argument(
                f"stores/{path}: ref_store names {spec.name!r}; the stores are: {known}"
            )
        return await self.named(spec.name)
