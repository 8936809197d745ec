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
    spec: ChunkingSpec, cas_store: str, stores: StoreBuilder, env: Environment
) -> Chunking:
    """Chunks of the blobs of one instance.

    Args:
        spec: what the service says.
        cas_store: the name of its CAS.
        stores: has the CAS, and the index if one is named.
        env: collaborators.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a store that is not there, or a CAS that takes one
            request at a time.
    """
    from nativelink.services.fast_cdc import FastCdc2020
    from nativelink.stores.eviction import EvictionPolicy
    from nativelink.stores.memory import MemoryStore

    cas = await stores.named(cas_store)
    index: Store
    with context("experimental_chunking"):
        rooms = stores.rooms(cas_store)
        if spec.index_store is None:
            index = MemoryStore(eviction=EvictionPolicy(max_bytes=_INDEX_BYTES), clock=env.clock)
        else:
            index = (await stores.named(spec.index_store)).store
    return Chunking(
        cas.store,
        index,
        chunker=FastCdc2020(spec.avg_chunk_size_bytes),
        max_chunk_count=spec.max_chunk_count,
        default_function=env.digest_function,
        splitter=cas.splitter,
        rooms=rooms,
    )
