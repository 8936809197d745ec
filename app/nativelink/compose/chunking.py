"""`experimental_chunking` of a CAS service."""

from __future__ import annotations

from typing import Final

from nativelink.compose.environment import Environment
from nativelink.compose.stores import StoreBuilder
from nativelink.config.specs_services import ChunkingSpec
from nativelink.core.errors import context
from nativelink.services.chunking import Chunking
from nativelink.stores.store import Store

__all__ = ["chunking"]

#: What a process remembers by itself: the chunks of some 400,000 MiB of blobs at 512 KiB each.
_INDEX_BYTES: Final = 64 * 1024 * 1024


async def chunking(
    spec: ChunkingSpec, store: Store, stores: StoreBuilder, env: Environment
) -> Chunking:
    """Chunks of the blobs of one instance.

    Args:
        spec: what the service says.
        store: its CAS.
        stores: has the index, if one is named.
        env: collaborators.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a store that is not there.
    """
    from nativelink.services.fast_cdc import FastCdc2020
    from nativelink.stores.eviction import EvictionPolicy
    from nativelink.stores.memory import MemoryStore

    index: Store
    if spec.index_store is None:
        index = MemoryStore(eviction=EvictionPolicy(max_bytes=_INDEX_BYTES), clock=env.clock)
    else:
        with context("experimental_chunking"):
            index = (await stores.named(spec.index_store)).store
    return Chunking(
        store,
        index,
        chunker=FastCdc2020(spec.avg_chunk_size_bytes),
        max_chunk_count=spec.max_chunk_count,
        default_function=env.digest_function,
    )
