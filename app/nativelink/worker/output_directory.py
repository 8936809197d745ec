"""An output directory, from its descriptor to Directory messages."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import invalid_argument
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.remote.messages import digest_message

__all__ = ["DirectoryWalk", "link_target", "open_readable"]

#: Each level holds a descriptor and a few frames of the stack.
_MAX_DEPTH: Final = 400


class DirectoryWalk:
    """One output directory: every directory below it becomes a Directory message.

    Args:
        take: hashes an open file and closes it.
        relative: a link's target as it is to be recorded, from the target and the link's place.
        properties: node properties to record of a file's status.
        function: hashes the messages.
    """

    def __init__(
        self,
        take: Callable[[int], tuple[Digest, os.stat_result]],
        relative: Callable[[str, str], str],
        properties: Callable[[os.stat_result], pb.NodeProperties | None],
        function: DigestFunction,
    ) -> None:
        self._take = take
        self._relative = relative
        self._properties = properties
        self._function = function
        self._after: dict[Digest, bytes] = {}

    def run(self, fd: int, place: str) -> tuple[tuple[Digest, bytes], dict[Digest, bytes]]:
        """The directory's digest and message, and those of all below it, parents first."""
        root = self._describe(fd, place, 0)
        # The order in which directories were finished has children first, each where it was
        # first met; reversed, every parent stands before all of its children.
        return root, dict(reversed(self._after.items()))

    def _describe(self, fd: int, place: str, depth: int) -> tuple[Digest, bytes]:
        if depth > _MAX_DEPTH:
            raise invalid_argument(
                f"output directory {place[:200]!r}… is nested more than {_MAX_DEPTH} deep"
            )
        directory = pb.Directory()
        for name, status in _entries(fd, place):
            below = f"{place}/{name}"
            if stat.S_ISREG(status.st_mode):
                digest, status = self._take(open_readable(name, fd, os.O_RDONLY))
                directory.files.add(
                    name=name,
                    digest=digest_message(digest),
                    is_executable=bool(status.st_mode & 0o111),
                    node_properties=self._properties(status),
                )
            elif stat.S_ISDIR(status.st_mode):
                child_fd = open_readable(name, fd, os.O_DIRECTORY)
                try:
                    digest, data = self._describe(child_fd, below, depth + 1)
                finally:
                    os.close(child_fd)
                self._after.setdefault(digest, data)
                directory.directories.add(name=name, digest=digest_message(digest))
            elif stat.S_ISLNK(status.st_mode):
                directory.symlinks.add(
                    name=name,
                    target=self._relative(link_target(name, fd, below), below),
                    node_properties=self._properties(status),
                )
            # Sockets, pipes and devices are nothing that a Directory could describe.
        data = directory.SerializeToString(deterministic=True)
        return self._function.digest_of(data), data


def _entries(fd: int, place: str) -> Iterator[tuple[str, os.stat_result]]:
    """Names and statuses in a directory, sorted by the bytes of the names (REAPI v2, Directory)."""
    names = sorted(os.listdir(fd), key=os.fsencode)
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        wrong = next(name for name in names if any("\ud800" <= char <= "\udfff" for char in name))
        raise invalid_argument(
            f"output {place}/{os.fsencode(wrong)!r} has a name that is not UTF-8, which a "
            "Directory cannot hold"
        ) from None
    for name in names:
        yield name, os.lstat(name, dir_fd=fd)


def link_target(name: str, parent_fd: int, place: str) -> str:
    """What a symbolic link leads to."""
    target = os.readlink(name, dir_fd=parent_fd)
    try:
        target.encode()
    except UnicodeEncodeError:
        raise invalid_argument(
            f"output {place!r} is a symbolic link to {os.fsencode(target)!r}, which is not UTF-8, "
            "so no message can hold it"
        ) from None
    return target


def open_readable(name: str, parent_fd: int, flags: int) -> int:
    """Open a file or directory that is no link, also if the action took the right to read it."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent_fd)
    except PermissionError:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                raise  # Another name of a blob of the store: its mode is not ours to change.
            Path(f"/proc/self/fd/{fd}").chmod(status.st_mode | stat.S_IRUSR | stat.S_IXUSR)
            return os.open(name, flags, dir_fd=parent_fd)
        finally:
            os.close(fd)
