"""What suites put stores around."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.memory import MemoryStore
from nativelink.stores.store import Store
from nativelink.stores.wrap.compression import CompressionStore
from nativelink.stores.wrap.compression_codecs import Codec, Lz4Codec
from nativelink.testing.fakes import FakeClock

__all__ = ["compression", "memory", "on_disk"]


def memory() -> MemoryStore:
    return MemoryStore(eviction=EvictionPolicy(), clock=FakeClock())


@asynccontextmanager
async def on_disk() -> AsyncIterator[FilesystemStore]:
    """A filesystem store in a directory of its own."""
    with TemporaryDirectory() as root:
        async with FilesystemStore(
            content_path=Path(root) / "content",
            temp_path=Path(root) / "temp",
            eviction=EvictionPolicy(),
            clock=FakeClock(),
        ) as store:
            yield store


def compression(backend: Store, codec: Codec | None = None, block_size: int = 65_536) -> Store:
    return CompressionStore(
        backend, codec or Lz4Codec(), block_size=block_size, max_block_size=block_size
    )
