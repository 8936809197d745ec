"""Input trees written as nested dictionaries, put into a CAS."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from nativelink.core.digest import Digest
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.store import Store, write_bytes

__all__ = ["File", "Link", "Tree", "blob", "put_tree"]


@dataclass(frozen=True)
class File:
    """A file with more than bytes; `stored` says whether its blob is put into the CAS."""

    data: bytes
    is_executable: bool = False
    mode: int | None = None
    mtime_s: int | None = None
    stored: bool = True


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


Tree: TypeAlias = "Mapping[str, Tree | File | Link | bytes]"


def blob(data: bytes) -> Digest:
    """The SHA-256 digest of a blob."""
    return Digest(hashlib.sha256(data).hexdigest(), len(data))


def _message(digest: Digest) -> pb.Digest:
    return pb.Digest(hash=digest.hash, size_bytes=digest.size_bytes)


async def put_tree(store: Store, tree: Tree) -> Digest:
    """Store the directories and files of a tree; returns its root."""
    directory = pb.Directory()
    for name, entry in sorted(tree.items()):
        if isinstance(entry, Link):
            directory.symlinks.add(name=name, target=entry.target)
        elif isinstance(entry, Mapping):
            digest = await put_tree(store, entry)
            directory.directories.add(name=name, digest=_message(digest))
        else:
            file = File(entry) if isinstance(entry, bytes) else entry
            if file.stored:
                await write_bytes(store, blob(file.data), file.data)
            node = directory.files.add(
                name=name, digest=_message(blob(file.data)), is_executable=file.is_executable
            )
            if file.mode is not None:
                node.node_properties.unix_mode.value = file.mode
            if file.mtime_s is not None:
                node.node_properties.mtime.seconds = file.mtime_s
    data = directory.SerializeToString(deterministic=True)
    await write_bytes(store, blob(data), data)
    return blob(data)
