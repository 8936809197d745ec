"""What a store can do for programs on its own machine: its blobs are files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from nativelink.core.digest import Digest

__all__ = ["LeasedFile", "LocalFiles"]


class LeasedFile(Protocol):
    """A blob's file that stays where it is until it is released; shared by all who leased it."""

    @property
    def key(self) -> Digest:
        """Whose bytes it has."""
        ...

    @property
    def name(self) -> str:
        """Its name in `LocalFiles.directory`, and in `LocalFiles.executable_directory`."""
        ...


class LocalFiles(Protocol):
    """An optional power of a store, passed by itself to the worker (see `RemovalFeed`).

    All methods belong to the event loop's thread. Leased files may be linked from any thread or
    process; nobody may ever write to one, or change its mode or its times: they are shared.
    """

    @property
    def device(self) -> int:
        """`st_dev` of the files: hard links work only within it."""
        ...

    @property
    def directory(self) -> Path:
        """Where the files are, with mode 0444."""
        ...

    @property
    def executable_directory(self) -> Path:
        """Where the files are, with mode 0555, for which `executables` was awaited."""
        ...

    async def lease(self, keys: Sequence[Digest]) -> list[LeasedFile | None]:
        """Keep those of `keys` that are there from leaving the store until `release`.

        The empty blob has no file: it gives None.

        Returns:
            For each key its file, None where it is absent. Leases count: a file that was leased
            twice must be released twice.
        """
        ...

    def release(self, files: Sequence[LeasedFile]) -> None:
        """End one lease of each of `files`."""
        ...

    async def executables(self, files: Sequence[LeasedFile]) -> None:
        """Make files with the same bytes and mode 0555 where there are none yet.

        Raises:
            NativeLinkError: FAILED_PRECONDITION if they cannot be kept; RESOURCE_EXHAUSTED if the
                disk is full; UNAVAILABLE if a file was taken away by someone else.
        """
        ...

    async def changed(self, files: Sequence[LeasedFile]) -> list[LeasedFile]:
        """Those leased files that somebody wrote to since they came into the store.

        They leave the store, so that nobody reads them again, and everybody who has leased one
        gets it in this list, whenever he asks. Bytes are not compared, but what a write changes:
        inode, size, time of modification, mode and owner.
        """
        ...

    async def recheck(self, inodes: Collection[int]) -> list[Digest]:
        """Read files, by inode number, and give up those that are not what their digest says.

        For files that actions of an earlier process had, which nobody looked at when it died.

        Returns:
            The blobs that were given up.

        Raises:
            NativeLinkError: the disk failed.
        """
        ...

    async def adopt(self, key: Digest, path: Path) -> bool:
        """Move a finished file of the same device into the store, durable when this returns.

        Nobody may have it open for writing, and the caller has checked that the bytes match
        `key`. On success `path` is gone. Its mode becomes 0444.

        Returns:
            False if it cannot be moved (another device, other links, not the caller's, no regular
            file, not of the size that `key` says, larger than the store): it is as it was, and
            the caller stores a copy.

        Raises:
            NativeLinkError: it could not be made durable; it may be gone.
        """
        ...
