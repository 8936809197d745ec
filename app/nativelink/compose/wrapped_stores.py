"""Specs of stores that add something to another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from nativelink.compose.completeness import checked_names, observe_verdicts, remembered_s
from nativelink.compose.environment import Environment
from nativelink.compose.nodes import Build, Node, policy_of
from nativelink.compose.reductions import reductions
from nativelink.config.specs_stores import (
    CacheMetricsSpec,
    CompletenessCheckingSpec,
    CompressionSpec,
    ExistenceCacheSpec,
    RefSpec,
    StoreSpec,
    VerifySpec,
)

if TYPE_CHECKING:
    from nativelink.stores.wrap.absences import AbsencesStore

__all__ = ["WrappedStores"]


class WrappedStores:
    """Makes wrappers.

    Args:
        specs: the named stores, which references mean.
        build: makes what is in them.
        env: collaborators.
    """

    def __init__(self, specs: Mapping[str, StoreSpec], build: Build, env: Environment) -> None:
        self._specs = specs
        self._build = build
        self._env = env
        #: CASes whose users tell of what they miss: somebody remembers what is in them.
        self._absences: dict[str, AbsencesStore] = {}
        self._checked = checked_names(specs)

    def told(self, name: str, node: Node) -> Node:
        """A named store as all its users see it.

        If a completeness_checking store looks into it, whoever misses something there is heard.
        """
        if name not in self._checked:
            return node
        from nativelink.stores.wrap.absences import AbsencesStore

        self._absences[name] = store = AbsencesStore(node.store)
        return replace(node, store=store)

    async def compression(self, spec: CompressionSpec, path: str) -> Node:
        """Blobs that are compressed on their way in."""
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
            report=reductions(self._env.registry, path, spec.KIND),
        )
        return Node(store, backend.removals, finder=backend.finder)

    async def verify(self, spec: VerifySpec, path: str) -> Node:
        """A store that takes what has its digest."""
        from nativelink.stores.wrap.verify import VerifyStore

        backend = await self._build(spec.backend, f"{path}/backend")
        store = VerifyStore(
            backend.store,
            verify_size=spec.verify_size,
            verify_hash=spec.verify_hash,
            default_function=self._env.digest_function,
        )
        verified = spec.verify_size and spec.verify_hash
        # What a server makes of chunks it checks itself (REAPI v2, SpliceBlob).
        return replace(backend.around(store), verified=verified)

    async def existence_cache(self, spec: ExistenceCacheSpec, path: str) -> Node:
        """A store of which is remembered what is in it."""
        from nativelink.stores.wrap.existence_cache import ExistenceCacheStore

        backend = await self._build(spec.backend, f"{path}/backend")
        store = ExistenceCacheStore(
            backend.store,
            eviction=policy_of(spec.eviction_policy),
            clock=self._env.clock,
            removals=backend.removals,
        )
        return backend.around(store)

    async def completeness_checking(self, spec: CompletenessCheckingSpec, path: str) -> Node:
        """An action cache that has a result if all its blobs are there."""
        from nativelink.stores.wrap.completeness import CompletenessCheckingStore
        from nativelink.stores.wrap.verdicts import Verdicts

        backend = await self._build(spec.backend, f"{path}/backend")
        cas = await self._build(spec.cas_store, f"{path}/cas_store")
        env = self._env
        verdicts = Verdicts(
            max_seconds=remembered_s(spec.cas_store, self._specs), now=env.clock.monotonic
        )
        if cas.removals is not None:
            cas.removals.on_removed(verdicts.removed)
        if isinstance(spec.cas_store, RefSpec):
            self._absences[spec.cas_store.name].on_absent(verdicts.lose)
        observe_verdicts(env.registry, path, verdicts)
        store = CompletenessCheckingStore(backend.store, cas.store, verdicts=verdicts)
        return Node(store, backend.removals, finder=backend.finder)

    async def cache_metrics(self, spec: CacheMetricsSpec, path: str) -> Node:
        """A store whose use is counted."""
        from nativelink.stores.wrap.cache_metrics import CacheMetricsStore
        from nativelink.telemetry.cache import CacheRecorder

        backend = await self._build(spec.backend, f"{path}/backend")
        store = CacheMetricsStore(
            backend.store,
            cache_type=spec.cache_type,
            recorder=CacheRecorder(self._env.registry),
        )
        return backend.around(store)
