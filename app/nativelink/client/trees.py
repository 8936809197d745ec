"""Trees of Directories, read to be looked at.

Unlike a worker, who looks wants to see what is wrong too: directories that the CAS lacks are told,
not raised, and names are taken as they are. A Directory that stands at many paths is fetched and
counted once, so that a few small messages which name a billion paths do no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from nativelink.core.digest import Digest, DigestFunction, digests_of, is_empty
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError, invalid_argument
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.store import Store, read_bytes

__all__ = [
    "Directories",
    "Entry",
    "Kind",
    "Totals",
    "Tree",
    "entries_of",
    "fetch_directories",
    "fetch_tree",
]

M = TypeVar("M", bound=Message)

#: A Directory of 100,000 files has 10 MB; a digest that names something larger names none.
_MAX_DIRECTORY_BYTES: Final = 64 << 20
#: Fetched at the same time; a store that batches makes few calls of them.
_AT_ONCE: Final = 1000
#: Paths end at 4,095 bytes anyway.
_MAX_DEPTH: Final = 2048

#: Directories by digest; None for one that the CAS lacks.
Directories: TypeAlias = Mapping[Digest, pb.Directory | None]


class Kind(StrEnum):
    """What stands in a directory."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


class Entry(NamedTuple):
    """One name in a directory.

    Attributes:
        path: from the root of the tree.
        name: the last part of it, as the Directory has it.
        kind: what it is.
        digest: of a file's content or of a Directory; None for a symbolic link.
        is_executable: of a file.
        target: of a symbolic link.
        mode: permission bits that it is to have; None if nobody says.
        mtime_ns: time of modification that it is to have, since the epoch; None if nobody says.
    """

    path: str
    name: str
    kind: Kind
    digest: Digest | None = None
    is_executable: bool = False
    target: str = ""
    mode: int | None = None
    mtime_ns: int | None = None


class Totals(NamedTuple):
    """What a tree has, each path counted.

    Attributes:
        files: regular files.
        directories: directories, without the root.
        symlinks: symbolic links.
        size_bytes: of the files' contents.
        missing: directories that the CAS lacks.
    """

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    size_bytes: int = 0
    missing: int = 0

    def plus(self, other: Totals) -> Totals:
        """The sum."""
        return Totals(*map(sum, zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole tree.

    Attributes:
        root: the digest of its root Directory.
        directories: every Directory that it has.
        totals: what is in it.
    """

    root: Digest
    directories: Directories
    totals: Totals

    def walk(self) -> Iterator[Entry]:
        """Every entry, those of a directory sorted by name and right behind it."""
        waiting = list(reversed(self.children("", self.root)))
        while waiting:
            entry = waiting.pop()
            yield entry
            if entry.kind is Kind.DIRECTORY and entry.digest is not None:
                waiting += reversed(self.children(entry.path, entry.digest))

    def children(self, path: str, digest: Digest) -> list[Entry]:
        """The entries of a directory that stands at `path`; none if the CAS lacks it."""
        directory = self.directories[digest]
        return [] if directory is None else entries_of(directory, path)

    def is_missing(self, digest: Digest | None) -> bool:
        """Whether this is a directory that the CAS lacks."""
        return digest is not None and self.directories.get(digest, _PRESENT) is None


_PRESENT: Final = pb.Directory()


def entries_of(directory: pb.Directory, path: str = "") -> list[Entry]:
    """The entries of a Directory that stands at `path`, sorted by name.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a malformed digest.
    """
    prefix = f"{path}/" if path else ""
    files = digests_of([node.digest for node in directory.files])
    below = digests_of([node.digest for node in directory.directories])
    entries = [
        Entry(
            prefix + node.name,
            node.name,
            Kind.FILE,
            digest,
            is_executable=node.is_executable,
            mode=_mode(node),
            mtime_ns=_mtime_ns(node),
        )
        for node, digest in zip(directory.files, files, strict=True)
    ]
    entries += [
        Entry(prefix + node.name, node.name, Kind.DIRECTORY, digest)
        for node, digest in zip(directory.directories, below, strict=True)
    ]
    entries += [
        Entry(
            prefix + node.name,
            node.name,
            Kind.SYMLINK,
            target=node.target,
            mtime_ns=_mtime_ns(node),
        )
        for node in directory.symlinks
    ]
    entries.sort()
    return entries


async def fetch_tree(cas: Store, digest: Digest, function: DigestFunction) -> Tree:
    """The tree of a Directory, or of a Tree message (an output directory's).

    Raises:
        NativeLinkError: NOT_FOUND if the CAS lacks the root; INVALID_ARGUMENT if it is neither.
    """
    known: dict[Digest, pb.Directory | None] = {}
    root = digest
    if not is_empty(digest):
        data = await read_bytes(cas, digest, max_size=_max_size(digest))
        directory = _parse(pb.Directory, data)
        if directory is None or not _is_plausible(directory):
            tree = _parse(pb.Tree, data)
            if tree is None or not all(map(_is_plausible, (tree.root, *tree.children))):
                raise invalid_argument(f"blob {digest} is neither a Directory nor a Tree")
            members = (tree.root, *tree.children)
            named = {function.digest_of(each.SerializeToString()): each for each in members}
            root = next(iter(named))
            known.update(named)
        else:
            known[digest] = directory
    await _complete(cas, known, root)
    return Tree(root, known, _totals(root, known))


async def fetch_directories(cas: Store, digests: Iterable[Digest]) -> Directories:
    """Single Directories, without those below them.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a blob that is none.
    """
    wanted = list(dict.fromkeys(digests))
    found: dict[Digest, pb.Directory | None] = {}
    for begin in range(0, len(wanted), _AT_ONCE):
        part = wanted[begin : begin + _AT_ONCE]
        found.update(zip(part, await run_all(_fetch(cas, digest) for digest in part), strict=True))
    return found


async def _complete(cas: Store, known: dict[Digest, pb.Directory | None], root: Digest) -> None:
    """Fetch what is not known yet of everything below `root`, level by level."""
    seen = {root}
    level = [root]
    while level:
        known.update(await fetch_directories(cas, (each for each in level if each not in known)))
        following = [
            digest
            for directory in map(known.__getitem__, level)
            if directory is not None
            for digest in digests_of([node.digest for node in directory.directories])
        ]
        level = [digest for digest in dict.fromkeys(following) if digest not in seen]
        seen.update(level)


async def _fetch(cas: Store, digest: Digest) -> pb.Directory | None:
    if is_empty(digest):
        return pb.Directory()
    try:
        data = await read_bytes(cas, digest, max_size=_max_size(digest))
    except NativeLinkError as error:
        if error.code is Code.NOT_FOUND:
            return None
        raise
    directory = _parse(pb.Directory, data)
    if directory is None:
        raise invalid_argument(f"blob {digest} is no Directory")
    return directory


def _max_size(digest: Digest) -> int:
    if digest.size_bytes > _MAX_DIRECTORY_BYTES:
        raise invalid_argument(
            f"blob {digest} is no Directory: none has more than {_MAX_DIRECTORY_BYTES} bytes"
        )
    return _MAX_DIRECTORY_BYTES


def _parse(kind: type[M], data: bytes) -> M | None:
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


def _totals(root: Digest, directories: Directories) -> Totals:
    """The totals of a tree, those of each Directory computed once."""
    totals: dict[Digest, Totals] = {}
    above: set[Digest] = set()
    waiting = [root]
    while waiting:
        digest = waiting[-1]
        directory = directories[digest]
        if digest in totals:
            waiting.pop()
        elif directory is None:
            totals[waiting.pop()] = Totals(missing=1)
        elif digest not in above:
            above.add(digest)
            if len(above) > _MAX_DEPTH:
                raise invalid_argument(f"tree {root} is nested more than {_MAX_DEPTH} deep")
            for child in _below(directory):
                if child in above:
                    raise invalid_argument(f"directory {child} contains itself")
                waiting.append(child)
        else:
            above.discard(waiting.pop())
            total = Totals(
                len(directory.files),
                len(directory.directories),
                len(directory.symlinks),
                sum(node.digest.size_bytes for node in directory.files),
            )
            for child in _below(directory):
                total = total.plus(totals[child])
            totals[digest] = total
    return totals[root]


def _below(directory: pb.Directory) -> list[Digest]:
    return digests_of([node.digest for node in directory.directories])


def _is_plausible(directory: pb.Directory) -> bool:
    """Whether it looks like a Directory, and not like another message read as one."""
    nodes: list[pb.FileNode | pb.DirectoryNode] = [*directory.files, *directory.directories]
    try:
        digests_of([node.digest for node in nodes])
    except NativeLinkError:
        return False
    return all(node.name for node in nodes) and all(link.name for link in directory.symlinks)


def _mode(node: pb.FileNode) -> int | None:
    properties = node.node_properties
    return properties.unix_mode.value if properties.HasField("unix_mode") else None


def _mtime_ns(node: pb.FileNode | pb.SymlinkNode) -> int | None:
    properties = node.node_properties
    if not properties.HasField("mtime"):
        return None
    return properties.mtime.seconds * 10**9 + properties.mtime.nanos
