"""Input trees: their directories fetched level by level, and kept parsed.

A tree is a graph: the same Directory may stand at many paths, and is fetched and parsed once. What
it expands to is counted before anything is made of it, because a few small messages can name a
billion paths. Directories are immutable, so those of earlier actions are kept, parsed, within a
bound: most actions of a build share most of their directories.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from nativelink.core.digest import (
    EMPTY_DIGESTS,
    Digest,
    DigestFunction,
    digest_function,
)
from nativelink.core.eager import run_all
from nativelink.core.errors import (
    Code,
    MissingBlob,
    NativeLinkError,
    failed_precondition,
    invalid_argument,
)
from nativelink.stores.store import Store, TreeSource, read_bytes
from nativelink.worker.directory_message import (
    Directory,
    parse_directory,
)

__all__ = ["InputTree", "TreeFetcher", "TreeLimits", "inputs_missing"]

#: A Directory of 100,000 files has 10 MB; a digest that names something larger names none.
_MAX_DIRECTORY_BYTES: Final = 64 << 20
#: Directories fetched at the same time: what fits into one message of a remote store.
_FETCHED_AT_ONCE: Final = 256

_EMPTY: Final = Directory()


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """What a tree may be at most.

    Attributes:
        nodes: files, links and directories, counted at each path. The largest trees that people
            report have some 200,000.
        depth: directories above one another. Paths end at 4,095 bytes anyway.
    """

    nodes: int = 1_000_000
    depth: int = 256


@dataclass(frozen=True, slots=True)
class InputTree:
    """A whole tree.

    Attributes:
        root: its digest.
        directories: every directory that it has, by digest.
        nodes: how many files, links and directories it has, counted at each path.
        depth: how many directories are above one another.
    """

    root: Digest
    directories: dict[Digest, Directory]
    nodes: int
    depth: int

    def walk(self) -> Iterator[tuple[str, Directory]]:
        """Every directory at each of its paths, parents first; the root's path is empty."""
        waiting = [("", self.root)]
        while waiting:
            path, digest = waiting.pop()
            directory = self.directories[digest]
            yield path, directory
            prefix = f"{path}/" if path else ""
            waiting += [
                (prefix + child.name, child.digest) for child in reversed(directory.directories)
            ]

    @property
    def is_bare(self) -> bool:
        """Whether it is a directory with nothing in it, and nothing special about it."""
        root = self.directories[self.root]
        return self.nodes == 1 and root.mode is None and root.mtime_ns is None

    def file_digests(self) -> set[Digest]:
        """The content of all files, each once, without the empty one."""
        found = {file.digest for each in self.directories.values() for file in each.files}
        return found - EMPTY_DIGESTS


class TreeFetcher:
    """Fetches trees.

    Args:
        cas: where the directories are.
        limits: of a tree.
        kept_entries: so many entries of directories are kept parsed, 300 bytes each.
        source: gives whole trees, if the CAS can; asked for trees of which nothing is kept.
    """

    def __init__(
        self,
        cas: Store,
        *,
        limits: TreeLimits | None = None,
        kept_entries: int = 200_000,
        source: TreeSource | None = None,
    ) -> None:
        self._cas = cas
        self._limits = limits or TreeLimits()
        self._source = source
        self._kept_entries = kept_entries
        #: Least recently used first.
        self._kept: dict[Digest, Directory] = {}
        self._weight = 0
        self._room = asyncio.Semaphore(_FETCHED_AT_ONCE)

    async def fetch(self, root: Digest) -> InputTree:
        """The tree below `root`.

        Raises:
            NativeLinkError: FAILED_PRECONDITION with a `MissingBlob` for every directory that is
                absent, if any, and for the absent files of those that are there, so that a client
                hears of all at once; INVALID_ARGUMENT for a blob that is no Directory, a name
                that no file can have, or a tree beyond the limits.
        """
        if root in EMPTY_DIGESTS:
            return InputTree(root, {root: _EMPTY}, 1, 1)
        found: dict[Digest, Directory] = {}
        missing: list[Digest] = []
        level = [root]
        if self._source is not None and root not in self._kept:
            await self._prefetch(self._source, root)
        depth = 0
        weight = 0
        while level:
            depth += 1
            if depth > self._limits.depth:
                raise self._too_deep(root)
            directories = await self._fetch_level(level)
            following: dict[Digest, None] = {}
            for digest, directory in zip(level, directories, strict=True):
                if directory is None:
                    missing.append(digest)
                    continue
                found[digest] = directory
                weight += directory.weight
                for child in directory.directories:
                    if child.digest not in found:
                        following[child.digest] = None
            if weight > 2 * self._limits.nodes:
                raise self._too_large(root, weight)
            # A directory may have been found on this very level, behind the one that names it.
            level = [digest for digest in following if digest not in found]
        if missing:
            raise inputs_missing([*missing, *await self._missing_files(found)])
        nodes, depth = self._measure(root, found)
        return InputTree(root, found, nodes, depth)

    async def _missing_files(self, found: Mapping[Digest, Directory]) -> list[Digest]:
        """Files of these directories that are absent."""
        files = {file.digest: None for each in found.values() for file in each.files}
        digests = [digest for digest in files if digest not in EMPTY_DIGESTS]
        sizes = await self._cas.has(digests)
        return [digest for digest, size in zip(digests, sizes, strict=True) if size is None]

    async def _fetch_level(self, digests: list[Digest]) -> list[Directory | None]:
        """The directories, None for those that are absent; their order is kept."""
        absent = [digest for digest in digests if digest not in self._kept]
        fetched: dict[Digest, Directory | None] = {}
        if absent:
            # Started together, so that a remote store can answer them with one message.
            directories = await run_all(map(self._fetch, absent))
            fetched = dict(zip(absent, directories, strict=True))
        level: list[Directory | None] = []
        for digest in digests:
            directory = fetched[digest] if digest in fetched else self._kept.get(digest)
            if directory is None and digest not in fetched:
                # Let go while others were fetched.
                directory = await self._fetch(digest)
            if directory is not None:
                self._keep(digest, directory)
            level.append(directory)
        return level

    async def _fetch(self, digest: Digest) -> Directory | None:
        if digest in EMPTY_DIGESTS:
            return _EMPTY
        if digest.size_bytes > _MAX_DIRECTORY_BYTES:
            raise invalid_argument(
                f"blob {digest} is no Directory: none has more than {_MAX_DIRECTORY_BYTES} bytes"
            )
        async with self._room:
            try:
                data = await read_bytes(self._cas, digest, max_size=_MAX_DIRECTORY_BYTES)
            except NativeLinkError as error:
                if error.code is Code.NOT_FOUND:
                    return None
                raise
            return parse_directory(digest, data)

    async def _prefetch(self, source: TreeSource, root: Digest) -> None:
        """Keep what one call gives; whatever it does not is fetched as usual."""
        try:
            messages = await source.get_tree(root)
        except NativeLinkError:
            return
        function = digest_function.get() or DigestFunction.SHA256
        for data in messages:
            # What comes is believed only as far as it is what it says.
            digest = function.digest_of(data)
            self._keep(digest, parse_directory(digest, data))

    def _keep(self, digest: Digest, directory: Directory) -> None:
        older = self._kept.pop(digest, None)
        self._kept[digest] = directory
        if older is None:
            self._weight += directory.weight
            while self._weight > self._kept_entries and len(self._kept) > 1:
                self._weight -= self._kept.pop(next(iter(self._kept))).weight

    def _measure(self, root: Digest, directories: dict[Digest, Directory]) -> tuple[int, int]:
        """How many nodes a tree has, each path counted, and its depth."""
        measured: dict[Digest, tuple[int, int]] = {}
        above: set[Digest] = set()
        waiting = [root]
        while waiting:
            digest = waiting[-1]
            directory = directories[digest]
            if digest not in above and digest not in measured:
                above.add(digest)
                for child in directory.directories:
                    if child.digest in above:
                        raise invalid_argument(
                            f"directory {child.digest} contains itself, at {child.name!r}"
                        )
                    if child.digest not in measured:
                        waiting.append(child.digest)
                continue
            waiting.pop()
            if digest in measured:
                continue
            above.discard(digest)
            below = [measured[child.digest] for child in directory.directories]
            nodes = directory.weight + sum(count - 1 for count, _ in below)
            depth = 1 + max((deep for _, deep in below), default=0)
            if nodes > self._limits.nodes:
                raise self._too_large(root, nodes)
            if depth > self._limits.depth:
                raise self._too_deep(root)
            measured[digest] = (nodes, depth)
        return measured[root]

    def _too_large(self, root: Digest, nodes: int) -> NativeLinkError:
        return invalid_argument(
            f"input tree {root} has {nodes} files, directories and links or more; "
            f"{self._limits.nodes} are allowed"
        )

    def _too_deep(self, root: Digest) -> NativeLinkError:
        return invalid_argument(
            f"input tree {root} is nested more than {self._limits.depth} directories deep"
        )


def inputs_missing(digests: Iterable[Digest]) -> NativeLinkError:
    """The error that makes a client upload its inputs again (REAPI v2, Execution.Execute)."""
    missing = list(dict.fromkeys(digests))
    some = ", ".join(str(digest) for digest in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return failed_precondition(
        f"{len(missing)} inputs are not in the content-addressable storage: {some}{more}",
        details=[MissingBlob(digest) for digest in missing],
    )
