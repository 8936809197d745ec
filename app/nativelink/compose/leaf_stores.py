"""Specs of stores that keep blobs on this machine, and how such stores are seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nativelink.compose.environment import Environment
from nativelink.compose.nodes import Leaf, Node, policy_of
from nativelink.config.specs_stores import FilesystemSpec, MemorySpec
from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.status import store_check
from nativelink.stores.eviction import EvictionStatistics
from nativelink.stores.store import Store
from nativelink.telemetry.meter import Observation
from nativelink.telemetry.metrics import (
    STORE_DISK_AVAILABLE,
    STORE_ENTRIES,
    STORE_EVICTED_BYTES,
    STORE_EVICTIONS,
    STORE_MAX_SIZE,
    STORE_SIZE,
)

__all__ = ["LeafStores"]


class LeafStores:
    """Makes stores that keep something themselves.

    Args:
        env: collaborators.

    Attributes:
        leaves: all that were made.
    """

    def __init__(self, env: Environment) -> None:
        self._env = env
        self.leaves: list[Leaf] = []

    def memory(self, spec: MemorySpec, path: str) -> Node:
        """A store in memory."""
        from nativelink.stores.memory import MemoryStore

        policy = policy_of(spec.eviction_policy)
        store = MemoryStore(eviction=policy, clock=self._env.clock)
        figures = store.statistics
        self._leaf(Leaf(path, spec.KIND, "memory", policy, figures, figures), store)
        return Node(store, store, finder=store)

    async def filesystem(self, spec: FilesystemSpec, path: str) -> Node:
        """A store of files."""
        from nativelink.stores.filesystem import FilesystemStore

        policy = policy_of(spec.eviction_policy)
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

    def noop(self) -> Node:
        """A store that forgets."""
        from nativelink.stores.noop import NoopStore

        return Node(NoopStore(), keeps=False)

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
