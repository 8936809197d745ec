"""Whole input trees, built once and shown to every action that has the same one.

A kept tree is a directory of hard links, `{cache_root}/{digest}`. It is never handed out as it is:
each action sees it through a mount of its own (`hands.overlay`), which costs the same for ten files
and for fifty thousand, and lets nobody write to it. Where mounting is not allowed there is nothing
to gain, because linking a tree from a kept one costs what linking it from the store does; `open`
says so once, and inputs are linked as without a cache.

A tree is built under `.tmp-*` and renamed, and removed as `.del-*`, so that whatever has a digest's
name is whole. The directory is emptied at the start: nothing in it is believed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Final

from nativelink.core.digest import Digest
from nativelink.core.errors import NativeLinkError
from nativelink.stores.disk_calls import disk_error
from nativelink.worker.hands.pool import Hands
from nativelink.worker.tree import InputTree

__all__ = ["DirectoryCache", "DirectoryCacheStatistics", "KeptTree", "is_shared"]

log: Final = logging.getLogger(__name__)

#: They would end or split a path in the mount's options.
_UNMOUNTABLE: Final = frozenset(",:\\")


class KeptTree:
    """A tree that is not evicted until it is released.

    Attributes:
        path: of its root.
        digest: of its root.
        size_bytes: of its files, each once.
    """

    __slots__ = ("digest", "leases", "path", "size_bytes")

    def __init__(self, digest: Digest, path: Path, size_bytes: int) -> None:
        self.digest = digest
        self.path = path
        self.size_bytes = size_bytes
        self.leases = 0


class DirectoryCacheStatistics:
    """What a directory cache holds and did.

    Attributes:
        entries: trees kept.
        size_bytes: of their files.
        hits: actions that found their tree.
        misses: trees that had to be built.
        evicted: trees removed for want of room.
    """

    def __init__(self) -> None:
        self.entries = 0
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evicted = 0


class DirectoryCache:
    """Keeps trees.

    Args:
        root: where; on the device of the store's files. Belongs to the cache.
        hands: do the work.
        max_entries: trees kept; 0 is no limit.
        max_size_bytes: of their files; 0 is no limit. Trees in use count, and are not evicted.
    """

    def __init__(
        self, root: Path, hands: Hands, *, max_entries: int = 1000, max_size_bytes: int = 0
    ) -> None:
        self._root = root
        self._hands = hands
        self._max_entries = max_entries
        self._max_size_bytes = max_size_bytes
        #: Least recently used first.
        self._kept: dict[Digest, KeptTree] = {}
        self._building: dict[Digest, asyncio.Event] = {}
        self._numbers = count(1)
        self.statistics = DirectoryCacheStatistics()

    async def open(self, *, to_namespaces_from: Path | None = None) -> bool:
        """Empty the directory, and find out whether trees can be shown.

        Args:
            to_namespaces_from: the work directory, if actions run in mount namespaces of their
                own: what is mounted below it later is seen in them only if its file system is
                mounted shared (mount_namespaces(7)).

        Returns:
            False if they cannot; the cache is of no use then.

        Raises:
            NativeLinkError: the directory cannot be made or emptied.
        """
        try:
            self._root.mkdir(0o755, parents=True, exist_ok=True)
            for left in sorted(self._root.iterdir()):
                await self._hands.run("remove", str(left))
        except OSError as error:
            raise disk_error(error, f"cannot use cache_root {self._root}") from error
        reason = ""
        if _UNMOUNTABLE & set(str(self._root)):
            reason = "the path has a comma, a colon or a backslash"
        elif to_namespaces_from is not None and not is_shared(to_namespaces_from):
            reason = (
                f"actions run in namespaces, and the file system of {to_namespaces_from} is not "
                "mounted shared"
            )
        else:
            try:
                await self._probe()
            except OSError as error:
                reason = error.strerror or str(error)
            else:
                return True
        log.warning(
            "directory_cache at %s keeps nothing: this machine does not let us mount (%s), and "
            "without that a kept directory saves nothing; inputs are linked for every action",
            self._root,
            reason,
        )
        return False

    async def lease(self, tree: InputTree, build: Callable[[Path], Awaitable[None]]) -> KeptTree:
        """The kept tree, built first if it is not there.

        Whoever wants a tree that is being built waits for it; if that fails, the next one tries.

        Args:
            tree: which one.
            build: makes it in a directory that does not exist yet.

        Raises:
            NativeLinkError: what `build` raised.
            OSError: likewise.
        """
        digest = tree.root
        while True:
            kept = self._kept.pop(digest, None)
            if kept is not None:
                self._kept[digest] = kept
                kept.leases += 1
                self.statistics.hits += 1
                return kept
            building = self._building.get(digest)
            if building is None:
                break
            await building.wait()
        self.statistics.misses += 1
        building = self._building[digest] = asyncio.Event()
        temp = self._root / f".tmp-{next(self._numbers)}"
        try:
            await build(temp)
            path = self._root / str(digest)
            temp.rename(path)
            kept = self._kept[digest] = KeptTree(
                digest, path, sum(each.size_bytes for each in tree.file_digests())
            )
            kept.leases += 1
        except BaseException:
            await self._remove(temp)
            raise
        finally:
            del self._building[digest]
            building.set()
        self.statistics.entries += 1
        self.statistics.size_bytes += kept.size_bytes
        await self._evict()
        return kept

    async def release(self, kept: KeptTree) -> None:
        """End one lease."""
        kept.leases -= 1
        await self._evict()

    async def _evict(self) -> None:
        """Remove the least recently used trees that nobody uses, as many as are too many."""
        statistics = self.statistics
        leaving: list[Path] = []
        for kept in list(self._kept.values()):
            if not (
                (self._max_entries and statistics.entries > self._max_entries)
                or (self._max_size_bytes and statistics.size_bytes > self._max_size_bytes)
            ):
                break
            if kept.leases:
                continue
            del self._kept[kept.digest]
            statistics.entries -= 1
            statistics.size_bytes -= kept.size_bytes
            statistics.evicted += 1
            tombstone = self._root / f".del-{next(self._numbers)}"
            kept.path.rename(tombstone)
            leaving.append(tombstone)
        for path in leaving:
            await self._remove(path)

    async def _remove(self, path: Path) -> None:
        try:
            await self._hands.run("remove", str(path))
        except (OSError, NativeLinkError) as error:
            log.warning("cannot remove %s: %s", path, error)

    async def _probe(self) -> None:
        place = self._root / f".tmp-{next(self._numbers)}"
        place.mkdir()
        kept = place / "kept"
        kept.mkdir()
        (kept / "file").touch(0o444)
        try:
            await self._hands.run("show", str(kept), str(place / "shown"), ["directory"], [])
            if not (place / "shown" / "file").exists():
                raise OSError(0, "what was mounted cannot be seen")
        finally:
            await self._hands.run("remove", str(place))


def is_shared(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether mounts below `path` are seen in the mount namespaces that this one has made."""
    real = os.fsencode(path.resolve()) + b"/"
    nearest, is_shared = b"", False
    # Fields of a line: proc_pid_mountinfo(5). A later mount of a place covers an earlier one.
    for line in mountinfo.read_bytes().splitlines():
        fields = line.split(b" ")
        point = fields[4].decode("unicode_escape").encode("latin-1").rstrip(b"/") + b"/"
        if real.startswith(point) and len(point) >= len(nearest):
            options = fields[6 : fields.index(b"-")]
            nearest, is_shared = point, any(each.startswith(b"shared:") for each in options)
    return is_shared
