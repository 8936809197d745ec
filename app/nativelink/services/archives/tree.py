"""The directory that an archive makes, and what may be in it.

An archive comes from somebody else, so nothing in it may lead out of the directory that is made
of it: names are plain and relative, and symlinks, followed as a kernel follows them, stay inside
(PEP 706 has the same rules). What two programs would unpack differently is refused: two different
entries of one name, or an entry below something that is no directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from nativelink.core.digest import Digest, DigestFunction
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.services.archives.limits import exhausted, unfit
from nativelink.stores.remote.messages import digest_message

__all__ = ["File", "Symlink", "Tree", "names_of", "symlink"]

#: Linux' limits of a path, of a name, and of symlinks that lead to each other.
_MAX_PATH_BYTES: Final = 4096
_MAX_NAME_BYTES: Final = 255
_MAX_SYMLINKS: Final = 40
#: Of all names and targets, in UTF-8. 200,000 names of 255 bytes fit, as do 16,384 of the
#: longest targets.
_MAX_TEXT_BYTES: Final = 64 * 1024 * 1024
#: Of one message Directory: what its parts and GetTree read of one.
_MAX_DIRECTORY_BYTES: Final = 16 * 1024 * 1024
#: Directories within each other. Java's packages and node_modules reach 30.
_MAX_DEPTH: Final = 128
#: Names that are looked up to follow all symlinks, for each entry on average. Most take five.
_STEPS_PER_ENTRY: Final = 64
_FREE_STEPS: Final = 100_000


@dataclass(frozen=True, slots=True)
class File:
    """A file, whose contents go to the CAS."""

    digest: Digest
    is_executable: bool


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symlink; its target is relative, and of the form that the API calls canonical."""

    target: str


_Leaf: TypeAlias = File | Symlink
_Folder: TypeAlias = "dict[str, _Leaf | _Folder]"


def names_of(path: str) -> Sequence[str]:
    """The names of a path within the archive; none for the archive's own directory.

    Raises:
        NativeLinkError: ABORTED if it leads out, or no directory could have such names.
    """
    shown = repr(path[:200])
    if path.startswith("/"):
        raise unfit(f"entry {shown} has an absolute path")
    names = [name for name in path.split("/") if name not in {"", "."}]
    if ".." in names:
        raise unfit(f"entry {shown} leads out of the archive")
    if "\0" in path:
        raise unfit(f"entry {shown} has a NUL in its path")
    if len(names) > _MAX_DEPTH:
        raise unfit(f"entry {shown} lies {len(names)} directories deep; {_MAX_DEPTH} are allowed")
    if _length(path) > _MAX_PATH_BYTES or any(_length(name) > _MAX_NAME_BYTES for name in names):
        raise unfit(
            f"entry {shown} has a path of more than {_MAX_PATH_BYTES} bytes, or a name of more "
            f"than {_MAX_NAME_BYTES} in it"
        )
    return names


def _length(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise unfit(f"{text[:200]!r} is no text: {error}") from error


class Tree:
    """Takes the entries of an archive.

    Args:
        max_entries: files, symlinks and directories.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries = 0
        self._text_bytes = 0
        self._root: _Folder = {}

    def add_directory(self, names: Sequence[str]) -> None:
        """Have a directory and all that it lies in.

        Raises:
            NativeLinkError: ABORTED, RESOURCE_EXHAUSTED.
        """
        self._folder(names)

    def add(self, names: Sequence[str], leaf: _Leaf) -> None:
        """Have a file or symlink. The same one may be there already.

        Raises:
            NativeLinkError: ABORTED, RESOURCE_EXHAUSTED.
        """
        if not names:
            raise unfit("an entry that is no directory has no name")
        folder = self._folder(names[:-1])
        there = folder.get(names[-1])
        if there is None:
            self._count(names[-1], leaf.target if isinstance(leaf, Symlink) else "")
            folder[names[-1]] = leaf
        elif there != leaf:
            raise unfit(f"entry {_shown(names)} is there twice, and different")

    def add_link(self, names: Sequence[str], earlier: Sequence[str]) -> None:
        """Have another name of a file or symlink that is there already (a hard link).

        Raises:
            NativeLinkError: ABORTED, RESOURCE_EXHAUSTED.
        """
        node: _Leaf | _Folder | None = self._root
        for name in earlier:
            node = node.get(name) if isinstance(node, dict) else None
        if node is None or isinstance(node, dict):
            raise unfit(
                f"entry {_shown(names)} is a hard link to {_shown(earlier)}, which is no earlier "
                "file of the archive"
            )
        self.add(names, node)

    def require_confined(self) -> Iterator[None]:
        """Follow every symlink, one in each step.

        Raises:
            NativeLinkError: ABORTED if one leads out of the archive; RESOURCE_EXHAUSTED if they
                lead through too many others.
        """
        steps = _FREE_STEPS + _STEPS_PER_ENTRY * self._entries
        pending: list[tuple[_Folder, ...]] = [(self._root,)]
        while pending:
            path = pending.pop()
            for name, node in path[-1].items():
                if isinstance(node, dict):
                    pending.append((*path, node))
                elif isinstance(node, Symlink):
                    steps -= _follow(path, name, node, steps)
                    yield
            yield

    def directories(self, function: DigestFunction) -> Iterator[tuple[Digest, bytes]]:
        """The messages Directory of the tree, the root's last.

        They are canonical, so that equal trees have equal digests (REAPI v2, message Directory).

        Raises:
            NativeLinkError: RESOURCE_EXHAUSTED if there is too much in one for a message.
        """
        yield from _encoded(self._root, function)

    def _folder(self, names: Sequence[str]) -> _Folder:
        folder = self._root
        for depth, name in enumerate(names, 1):
            inner = folder.get(name)
            if inner is None:
                self._count(name)
                inner = folder[name] = {}
            if not isinstance(inner, dict):
                raise unfit(f"entry {_shown(names[:depth])} is a directory, and something else")
            folder = inner
        return folder

    def _count(self, name: str, target: str = "") -> None:
        self._entries += 1
        self._text_bytes += _length(name) + _length(target)
        if self._entries > self._max_entries:
            raise exhausted(f"there are more than {self._max_entries} files and directories in it")
        if self._text_bytes > _MAX_TEXT_BYTES:
            raise exhausted(
                f"its names and the targets of its symlinks take more than {_MAX_TEXT_BYTES} bytes"
            )


def symlink(target: str, shown: str) -> Symlink:
    """A symlink with the canonical form of its target (REAPI v2, message SymlinkNode).

    Raises:
        NativeLinkError: ABORTED for one that leads to a place of the machine, or nowhere.
    """
    if target.startswith("/"):
        raise unfit(f"symlink {shown} leads to {target[:200]!r}, an absolute path")
    names = [name for name in target.split("/") if name not in {"", "."}]
    if (
        not target
        or "\0" in target
        or _length(target) > _MAX_PATH_BYTES
        or any(_length(name) > _MAX_NAME_BYTES for name in names)
    ):
        raise unfit(f"symlink {shown} leads to {target[:200]!r}, which is no path")
    return Symlink("/".join(names) or ".")


def _follow(path: Sequence[_Folder], name: str, link: Symlink, most: int) -> int:
    """How many names were looked up until a symlink of the folder `path[-1]` was followed."""
    #: The directories that it leads through; None for one that is not there.
    at: list[_Folder | None] = list(path)
    pending = link.target.split("/")[::-1]
    steps = links = 0
    while pending:
        steps += 1
        if steps > most:
            raise exhausted("its symlinks lead through too many others")
        step = pending.pop()
        if step == ".":
            continue
        if step == "..":
            at.pop()
            if not at:
                raise unfit(
                    f"symlink {name[:200]!r} to {link.target[:200]!r} leads out of the archive"
                )
            continue
        folder = at[-1]
        node = None if folder is None else folder.get(step)
        if isinstance(node, Symlink):
            links += 1
            if links > _MAX_SYMLINKS:
                # So it does nowhere for a kernel.
                break
            pending += node.target.split("/")[::-1]
        else:
            at.append(node if isinstance(node, dict) else None)
    return steps


def _encoded(folder: _Folder, function: DigestFunction) -> Iterator[tuple[Digest, bytes]]:
    message = reapi.Directory()
    for name in sorted(folder):
        node = folder[name]
        if isinstance(node, File):
            message.files.add(
                name=name, digest=digest_message(node.digest), is_executable=node.is_executable
            )
        elif isinstance(node, Symlink):
            message.symlinks.add(name=name, target=node.target)
        else:
            digest = Digest("", 0)
            for digest, data in _encoded(node, function):
                yield digest, data
            # What comes last is the directory itself.
            message.directories.add(name=name, digest=digest_message(digest))
    size = message.ByteSize()
    if size > _MAX_DIRECTORY_BYTES:
        raise exhausted(
            f"one of its directories, of {len(folder)} entries, is a message of {size} bytes; "
            f"{_MAX_DIRECTORY_BYTES} are allowed"
        )
    data = message.SerializeToString()
    yield function.digest_of(data), data


def _shown(names: Sequence[str]) -> str:
    return repr("/".join(names)[:200])
