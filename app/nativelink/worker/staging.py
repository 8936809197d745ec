"""Input trees on the disk, as a pure plan.

`plan_tree` decides everything and touches nothing: which directories, links, copies and symbolic
links there are to be, with which modes. `hands.place` carries it out.

Files are hard links to the store's files, 0444, or to their executable twins, 0555: the inode is
shared, so its mode and times are never touched. A file that is to have a mode or a time of its own
is a copy. Directories are 0755.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Sequence
from typing import Final

from nativelink.core.digest import EMPTY_DIGESTS, Digest
from nativelink.core.errors import invalid_argument
from nativelink.worker.directory_message import Directory, FileNode
from nativelink.worker.hands.place import Place, Plan
from nativelink.worker.tree import InputTree

__all__ = ["executables_of", "mode_of", "plan_directories", "plan_tree"]

_FILE_MODE: Final = 0o444
_EXECUTABLE_MODE: Final = 0o555
_EXECUTABLE_BITS: Final = 0o111
#: What a directory needs at least for its owner to get in.
_ENTER: Final = 0o500
#: PATH_MAX of Linux less the longest name and what stands before an input root.
_MAX_PATH_BYTES: Final = 3500


def plan_tree(
    tree: InputTree,
    *,
    directories: Iterable[str] = (),
    elsewhere: Collection[Digest] = (),
    copied: Container[Digest] = (),
) -> Plan:
    """Decide how a tree comes onto the disk.

    Args:
        tree: checked.
        directories: paths of directories that are to be there as well, checked as text.
        elsewhere: files that somebody else puts in place, because the store cannot keep them.
        copied: files that are to be copied even where they could be links.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a path that is too long, or one of `directories`
            that is a file in the tree.
    """
    places: list[Place] = []
    steps = 0
    for path, directory in tree.walk():
        if len(path) * 4 > _MAX_PATH_BYTES and len(path.encode()) > _MAX_PATH_BYTES:
            raise invalid_argument(
                f"the directory {path[:100]!r}… of the input tree has a path of "
                f"{len(path.encode())} bytes; {_MAX_PATH_BYTES} are allowed"
            )
        place = _place(path, directory, elsewhere, copied)
        places.append(place)
        steps += 3 + directory.weight + 5 * len(place.copies)
    additions, behind_links = plan_directories(tree, directories)
    steps += 2 * len(additions) + 8 * len(behind_links)
    return Plan(places, additions, behind_links, steps)


def plan_directories(tree: InputTree, directories: Iterable[str]) -> tuple[list[str], list[str]]:
    """Decide which directories are made besides a tree's.

    Returns:
        `additions` and `behind_links` of `Plan`.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for one that is a file in the tree.
    """
    additions = _Additions(tree)
    behind_links = [path for path in sorted(set(directories)) if not additions.add(path)]
    return list(additions.added), behind_links


def executables_of(tree: InputTree) -> set[Digest]:
    """Files of which links with the mode 0555 are to be made."""
    return {
        file.digest
        for directory in tree.directories.values()
        for file in directory.files
        if file.is_executable and file.mode is None and file.mtime_ns is None
    } - EMPTY_DIGESTS


def _place(
    path: str, directory: Directory, elsewhere: Collection[Digest], copied: Container[Digest]
) -> Place:
    links: list[tuple[str, str]] = []
    executables: list[tuple[str, str]] = []
    copies: list[tuple[str, str, int, int | None]] = []
    for file in directory.files:
        name, digest, is_executable, mode, mtime_ns = file
        blob = f"{digest.hash}-{digest.size_bytes}"
        if mode is not None or mtime_ns is not None or digest in EMPTY_DIGESTS or digest in copied:
            if digest not in elsewhere:
                blob = "" if digest in EMPTY_DIGESTS else blob
                copies.append((name, blob, mode_of(file), mtime_ns))
        elif digest in elsewhere:
            continue
        elif is_executable:
            executables.append((name, blob))
        else:
            links.append((name, blob))
    return Place(
        path,
        links,
        executables,
        copies,
        [(link.name, link.target, link.mtime_ns) for link in directory.links],
        None if directory.mode is None else directory.mode | _ENTER,
        directory.mtime_ns,
    )


def mode_of(file: FileNode) -> int:
    """The mode of a file that is a copy (NativeLink v1.6.6)."""
    if file.mode is None:
        return _EXECUTABLE_MODE if file.is_executable else _FILE_MODE
    return file.mode | (_EXECUTABLE_BITS if file.is_executable else 0)


class _Additions:
    """Directories besides those of a tree.

    Attributes:
        added: their paths, parents first.
    """

    def __init__(self, tree: InputTree) -> None:
        self._tree = tree
        self.added: dict[str, None] = {}

    def add(self, path: str) -> bool:
        """Add a directory and its parents.

        Returns:
            False if a symbolic link of the tree is on the way; nothing was added behind it.

        Raises:
            NativeLinkError: INVALID_ARGUMENT if a file is on the way.
        """
        inside: Directory | None = self._tree.directories[self._tree.root]
        names = [name for name in path.split("/") if name not in {"", "."}]
        for count, name in enumerate(names, 1):
            if inside is not None:
                if any(link.name == name for link in inside.links):
                    return False
                if any(file.name == name for file in inside.files):
                    raise invalid_argument(
                        f"the directory {path[:200]!r} is needed for the working directory or an "
                        f"output, but {'/'.join(names[:count])!r} is a file of the input tree"
                    )
                inside = self._child(inside.directories, name)
            if inside is None:
                self.added["/".join(names[:count])] = None
        return True

    def _child(self, nodes: Sequence[tuple[str, Digest]], name: str) -> Directory | None:
        for child, digest in nodes:
            if child == name:
                return self._tree.directories[digest]
        return None
