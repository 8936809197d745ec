"""A Directory message of an input tree, checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from nativelink.core.digest import Digest, digests_of
from nativelink.core.errors import NativeLinkError, invalid_argument
from nativelink.core.names import check_name
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

__all__ = ["Directory", "DirectoryNode", "FileNode", "LinkNode", "parse_directory"]

_PERMISSIONS: Final = 0o777


class FileNode(NamedTuple):
    """A file of a directory.

    Attributes:
        name: checked.
        digest: of its content.
        is_executable: whether it is to be executable.
        mode: permission bits it is to have; None leaves them to us.
        mtime_ns: time of modification that it is to have, since the epoch; None for any.
    """

    name: str
    digest: Digest
    is_executable: bool
    mode: int | None
    mtime_ns: int | None


class DirectoryNode(NamedTuple):
    """A directory in a directory."""

    name: str
    digest: Digest


class LinkNode(NamedTuple):
    """A symbolic link, whose target is the client's business until the link is followed."""

    name: str
    target: str
    mtime_ns: int | None


@dataclass(frozen=True, slots=True)
class Directory:
    """A Directory message, checked.

    Attributes:
        files: in the message's order.
        directories: likewise.
        links: likewise.
        mode: permission bits that the directory is to have; None leaves them to us.
        mtime_ns: time of modification that it is to have; None for any.
    """

    files: tuple[FileNode, ...] = ()
    directories: tuple[DirectoryNode, ...] = ()
    links: tuple[LinkNode, ...] = ()
    mode: int | None = None
    mtime_ns: int | None = None

    @property
    def weight(self) -> int:
        """How many entries it has, and one for itself."""
        return 1 + len(self.files) + len(self.directories) + len(self.links)


def parse_directory(digest: Digest, data: bytes) -> Directory:
    """A Directory message, checked.

    The order of entries is taken as it comes: REAPI wants them sorted, but nothing is at stake.
    A name that stands twice is refused, whatever the two are.

    Raises:
        NativeLinkError: INVALID_ARGUMENT naming the directory, the name and what is wrong.
    """
    try:
        message = pb.Directory.FromString(data)
    except DecodeError as error:
        raise invalid_argument(f"blob {digest} of the input tree is no Directory") from error
    files = message.files
    names = [node.name for node in files]
    names += [node.name for node in message.directories]
    names += [node.name for node in message.symlinks]
    _check_names(digest, names)
    try:
        contents = digests_of([node.digest for node in files])
        children = digests_of([node.digest for node in message.directories])
    except NativeLinkError as error:
        raise invalid_argument(f"directory {digest}: {error.message}") from error
    return Directory(
        files=tuple(
            FileNode(
                name,
                content,
                node.is_executable,
                *(_properties(node.node_properties) if node.HasField("node_properties") else _NONE),
            )
            for name, content, node in zip(names, contents, files, strict=False)
        ),
        directories=tuple(
            DirectoryNode(node.name, child)
            for node, child in zip(message.directories, children, strict=True)
        ),
        links=tuple(_links(digest, message.symlinks)),
        mode=_properties(message.node_properties)[0],
        mtime_ns=_properties(message.node_properties)[1],
    )


_NONE: Final[tuple[None, None]] = (None, None)


def _check_names(digest: Digest, names: list[str]) -> None:
    for name in names:
        # Most names are short and plain; the rest is looked at in detail.
        if problem := check_name(name):
            raise invalid_argument(f"directory {digest}: the name {name[:100]!r} {problem}")
    if len(set(names)) != len(names):
        names.sort()
        twice = next(name for name, other in pairwise(names) if name == other)
        raise invalid_argument(f"directory {digest}: the name {twice[:100]!r} stands twice")


def _links(digest: Digest, nodes: Iterable[pb.SymlinkNode]) -> Iterator[LinkNode]:
    for node in nodes:
        target = node.target
        if not target or "\0" in target or len(target.encode()) > 4095:
            raise invalid_argument(
                f"directory {digest}: the symbolic link {node.name!r} has the target "
                f"{target[:100]!r}; 1 to 4095 bytes without a NUL are allowed"
            )
        yield LinkNode(node.name, target, _properties(node.node_properties)[1])


def _properties(properties: pb.NodeProperties) -> tuple[int | None, int | None]:
    """Mode and time of modification (REAPI v2, NodeProperties).

    Only permissions are taken of a mode: a file that runs as somebody else is nothing that a
    client may ask for.
    """
    mode = properties.unix_mode.value & _PERMISSIONS if properties.HasField("unix_mode") else None
    mtime = properties.mtime
    return mode, (mtime.seconds * 10**9 + mtime.nanos if properties.HasField("mtime") else None)
