"""Specs of stores that are made of several others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nativelink.compose.environment import Environment
from nativelink.compose.nodes import Build, LocalTiers, Node, feeds, finder_of
from nativelink.compose.reductions import reductions
from nativelink.config.specs_stores import DedupSpec, FastSlowSpec, ShardSpec, SizePartitioningSpec
from nativelink.config.specs_stores import StoreDirection as DirectionSpec
from nativelink.core.errors import context
from nativelink.telemetry.meter import Observation
from nativelink.telemetry.metrics import STORE_TIER_IO, STORE_TIER_OPERATIONS

if TYPE_CHECKING:
    from nativelink.stores.join.fast_slow import FastSlowStore, StoreDirection

__all__ = ["JoinedStores"]


class JoinedStores:
    """Makes joins.

    Args:
        build: makes what is in them.
        env: collaborators.
    """

    def __init__(self, build: Build, env: Environment) -> None:
        self._build = build
        self._env = env
        self._tiers: list[FastSlowStore] = []
        env.registry.observe(STORE_TIER_OPERATIONS, self._tier_operations)
        env.registry.observe(STORE_TIER_IO, self._tier_io)

    async def fast_slow(self, spec: FastSlowSpec, path: str) -> Node:
        """A fast store in front of a slow one."""
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
        removals = feeds(fast, slow) if upstream is None else slow.removals
        finder = finder_of(fast, slow) if upstream is None else finder_of(slow)
        # What is made there, the fast side gets when it is read.
        splitter = None if upstream is None else slow.splitter
        return Node(store, removals, tiers=tiers, finder=finder, splitter=splitter)

    async def size_partitioning(self, spec: SizePartitioningSpec, path: str) -> Node:
        """Small blobs here, large ones there."""
        from nativelink.stores.join.size_partition import SizePartitioningStore

        lower = await self._build(spec.lower_store, f"{path}/lower_store")
        upper = await self._build(spec.upper_store, f"{path}/upper_store")
        store = SizePartitioningStore(lower.store, upper.store, size=spec.size)
        return Node(store, feeds(lower, upper), finder=finder_of(lower, upper))

    async def shard(self, spec: ShardSpec, path: str) -> Node:
        """One of several, by the hash."""
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
        return Node(store, feeds(*shards), finder=finder_of(*shards))

    async def dedup(self, spec: DedupSpec, path: str) -> Node:
        """Chunks, and lists of them."""
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
            report=reductions(self._env.registry, path, spec.KIND),
        )
        # Which blobs a chunk belongs to is not known, so only lost lists are told of.
        return Node(store, index.removals, finder=index.finder)

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


def _direction(node: Node, spec: DirectionSpec) -> StoreDirection:
    """What a side of fast_slow keeps."""
    from nativelink.stores.join.fast_slow import StoreDirection

    return StoreDirection(spec.value) if node.keeps else StoreDirection.READ_ONLY
