"""What a store can do for programs on its own machine: its blobs are files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nativelink.core.digest import Digest

__all__ = ["LocalFiles"]


class LocalFiles(Protocol):
    """An optional power of a store, passed by itself to the worker (see `RemovalFeed`).

    All methods belong to the event loop's thread, except that the paths they give may be linked
    from any thread as long as the lease is held.
    """

    @property
    def device(self) -> int:
        """`st_dev` of the files: hard links work only within it."""
        ...

    def lease(self, keys: Sequence[Digest]) -> list[bool]:
        """Keep those of `keys` that are there from being evicted until `release`.

        Returns:
            For each key whether it is there, and so was leased. Leases count: a key leased twice
            must be released twice. The empty blob is always there, and needs no lease.
        """
        ...

    def release(self, keys: Sequence[Digest]) -> None:
        """End one lease of each of `keys`, all of which were leased."""
        ...

    def path(self, key: Digest) -> Path:
        """The file of a leased key, mode 0444. Link it, never change it."""
        ...

    async def executables(self, keys: Sequence[Digest]) -> list[Path]:
        """Files with the same bytes as leased keys and mode 0555, made where they are not yet.

        Raises:
            NativeLinkError: FAILED_PRECONDITION if they cannot be kept.
        """
        ...

    async def adopt(self, key: Digest, path: Path) -> bool:
        """Move a finished file of the same device into the store, durable when this returns.

        Nobody may have it open for writing. On success `path` is gone; the caller has checked
        that the bytes match `key`.

        Returns:
            False if it cannot be moved (another device, the file has other links); nothing was
            changed then, and the caller stores a copy.
        """
        ...
