"""What an action left behind: its outputs found, hashed and described (REAPI v2, ActionResult).

This runs on a thread, after the last process of the action has ended, so that nothing moves
while it looks. It changes nothing but the permission to read what the action made unreadable.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import NativeLinkError, invalid_argument
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.remote.messages import digest_message
from nativelink.worker.confine import open_beneath, output_place
from nativelink.worker.output_directory import (
    DirectoryWalk,
    link_target,
    open_readable,
)

__all__ = ["FoundOutputs", "OutputFinder", "TooMuchError", "hash_file"]

_PIECE_BYTES: Final = 1 << 20
_MTIME: Final = "mtime"
_UNIX_MODE: Final = "unix_mode"
#: What a file costs besides its bytes, in bytes.
_FILE_BYTES: Final = 4096
_OPEN_STREAM: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_ROOT: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class TooMuchError(Exception):
    """There is more than was to be looked at."""


@dataclass(slots=True)
class FoundOutputs:
    """Outputs on the disk, and the messages about them.

    Attributes:
        result: the ActionResult as far as outputs go; every list is sorted by path.
        files: where each output file is, by its digest. Files with the same bytes count once.
        messages: encoded Trees and Directories, by their digests.
        size_bytes: of all files and messages, each counted once.
    """

    result: pb.ActionResult = field(default_factory=pb.ActionResult)
    files: dict[Digest, Path] = field(default_factory=dict)
    messages: dict[Digest, bytes] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(digest.size_bytes for digest in (*self.files, *self.messages))


def hash_file(fd: int, function: DigestFunction) -> Digest:
    """The digest of an open file, read from its beginning; memory is one piece of 1 MiB."""
    hasher = function.new()
    size = 0
    while piece := os.pread(fd, _PIECE_BYTES, size):
        hasher.update(piece)
        size += len(piece)
    return Digest(hasher.hexdigest(), size)


class OutputFinder:
    """Looks for the outputs of one action.

    Args:
        root: the action's input root; nothing outside of it is ever opened.
        command: what was executed; its paths are relative to its working directory.
        function: hashes the outputs.
        max_bytes: look at files of so many bytes in all, and at no directory; None is no limit.
    """

    def __init__(
        self,
        root: Path,
        command: pb.Command,
        function: DigestFunction,
        *,
        max_bytes: int | None = None,
    ) -> None:
        self._left_bytes = max_bytes
        self._root = root
        self._command = command
        self._function = function
        self._properties = frozenset(command.output_node_properties)
        self._found = FoundOutputs()

    def find(self) -> FoundOutputs:
        """Look for all outputs; those that the action did not make are left out.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for an output that is no file, directory or link, or
                a path that leads out of the input root.
            TooMuchError: there are more than `max_bytes`.
            OSError: the disk failed.
        """
        wanted: Sequence[str] = self._command.output_paths
        if not wanted:
            wanted = (*self._command.output_files, *self._command.output_directories)
        if not wanted:
            return self._found
        try:
            root_fd = os.open(self._root, _OPEN_ROOT)
        except (FileNotFoundError, NotADirectoryError):
            # The action removed it, or put a link to elsewhere in its place.
            return self._found
        try:
            for path in sorted(set(wanted)):
                self._look(root_fd, path)
        finally:
            os.close(root_fd)
        return self._found

    def stream(self, path: Path) -> Digest:
        """The digest of stdout or stderr, which becomes one of the files.

        Raises:
            TooMuchError: there are more than `max_bytes`.
            OSError: the disk failed.
        """
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            status = None
        if status is None or not (status.st_size and stat.S_ISREG(status.st_mode)):
            # The action said nothing, or put something else there: what it had written is gone.
            return self._function.digest_of(b"")
        self._spend(status.st_size)
        fd = os.open(path, _OPEN_STREAM)
        try:
            digest = hash_file(fd, self._function)
        finally:
            os.close(fd)
        self._found.files.setdefault(digest, path)
        return digest

    def _spend(self, size: int) -> None:
        """Look at a file of this size, or at none."""
        if self._left_bytes is not None:
            self._left_bytes -= size + _FILE_BYTES
            if self._left_bytes < 0:
                raise TooMuchError

    def _look(self, root_fd: int, path: str) -> None:
        place = output_place(self._command.working_directory, path)
        parent, _, name = place.rpartition("/")
        try:
            if not name:
                # The output is the working directory itself.
                self._directory(open_beneath(root_fd, place or ".", os.O_DIRECTORY), path, place)
                return
            parent_fd = open_beneath(root_fd, parent or ".", os.O_PATH | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            self._entry(root_fd, parent_fd, name, path, place)
        finally:
            os.close(parent_fd)

    def _entry(self, root_fd: int, parent_fd: int, name: str, path: str, place: str) -> None:
        try:
            status = os.lstat(name, dir_fd=parent_fd)
        except FileNotFoundError:
            return
        if stat.S_ISLNK(status.st_mode):
            self._symlink(root_fd, parent_fd, name, path, place)
        elif stat.S_ISREG(status.st_mode):
            fd = open_readable(name, parent_fd, os.O_RDONLY)
            self._file(fd, path)
        elif stat.S_ISDIR(status.st_mode):
            self._directory(open_readable(name, parent_fd, os.O_DIRECTORY), path, place)
        else:
            raise invalid_argument(
                f"output {path!r} is a {_kind(status.st_mode)}; outputs are files, directories and "
                "symbolic links"
            )

    def _symlink(self, root_fd: int, parent_fd: int, name: str, path: str, place: str) -> None:
        target = link_target(name, parent_fd, place)
        inside = self._inside(target)
        if inside is not None:
            # It names this machine's directories: others need what it stands for.
            try:
                fd = open_beneath(root_fd, inside or ".", os.O_RDONLY | os.O_NONBLOCK)
            except (FileNotFoundError, NotADirectoryError):
                return
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                self._directory(fd, path, place)
            elif stat.S_ISREG(mode):
                self._file(fd, path)
            else:
                os.close(fd)
                raise invalid_argument(
                    f"output {path!r} leads to a {_kind(mode)}; outputs are files, directories "
                    "and symbolic links"
                )
            return
        symlink = pb.OutputSymlink(path=path, target=target)
        if self._properties:
            self._set_properties(symlink.node_properties, os.lstat(name, dir_fd=parent_fd))
        result = self._found.result
        result.output_symlinks.append(symlink)
        leads_to_directory = self._leads_to_directory(root_fd, place, target)
        legacy = (
            result.output_directory_symlinks if leads_to_directory else result.output_file_symlinks
        )
        legacy.append(symlink)

    def _inside(self, target: str) -> str | None:
        """An absolute target relative to the input root; None if it is elsewhere or relative."""
        if not target.startswith("/"):
            return None
        inside = os.path.relpath(os.path.normpath(target), self._root)
        return None if inside == ".." or inside.startswith("../") else inside

    def _leads_to_directory(self, root_fd: int, place: str, target: str) -> bool:
        if target.startswith("/"):
            return (
                False  # Outside: whatever is there belongs to this machine, and is not looked at.
            )
        try:
            os.close(
                open_beneath(
                    root_fd,
                    f"{_parent(place)}/{target}",
                    os.O_PATH | os.O_DIRECTORY,
                )
            )
        except (OSError, NativeLinkError):
            return False
        return True

    def _file(self, fd: int, path: str) -> None:
        """Describe a regular file; closes `fd`."""
        digest, status = self._take(fd)
        output = self._found.result.output_files.add(
            path=path, digest=digest_message(digest), is_executable=bool(status.st_mode & 0o111)
        )
        if self._properties:
            self._set_properties(output.node_properties, status)

    def _take(self, fd: int) -> tuple[Digest, os.stat_result]:
        """Hash a regular file and remember where it is; closes `fd`."""
        try:
            status = os.fstat(fd)
            self._spend(status.st_size)
            digest = hash_file(fd, self._function)
            if digest not in self._found.files:
                self._found.files[digest] = Path(f"/proc/self/fd/{fd}").readlink()
        finally:
            os.close(fd)
        return digest, status

    def _directory(self, fd: int, path: str, place: str) -> None:
        """Describe a directory and all below it; closes `fd`."""
        try:
            if self._left_bytes is not None:
                raise TooMuchError
            walk = DirectoryWalk(
                self._take, self._relative_target, self._node_properties, self._function
            )
            root, children = walk.run(fd, place)
        finally:
            os.close(fd)
        output = self._found.result.output_directories.add(path=path)
        wanted = self._command.output_directory_format
        if wanted != pb.Command.DIRECTORY_ONLY:
            # Parents before children, each once: the same directory always gives the same bytes.
            tree = pb.Tree(root=pb.Directory.FromString(root[1]))
            tree.children.extend(pb.Directory.FromString(data) for data in children.values())
            data = tree.SerializeToString(deterministic=True)
            digest = self._function.digest_of(data)
            self._found.messages[digest] = data
            output.tree_digest.CopyFrom(digest_message(digest))
            output.is_topologically_sorted = True
        if wanted != pb.Command.TREE_ONLY:
            self._found.messages[root[0]] = root[1]
            self._found.messages.update(children)
            output.root_directory_digest.CopyFrom(digest_message(root[0]))

    def _relative_target(self, target: str, place: str) -> str:
        """The target of a link inside an output directory, so that it holds anywhere."""
        inside = self._inside(target)
        return target if inside is None else os.path.relpath(inside, _parent(place))

    def _node_properties(self, status: os.stat_result) -> pb.NodeProperties | None:
        if not self._properties:
            return None
        properties = pb.NodeProperties()
        self._set_properties(properties, status)
        return properties

    def _set_properties(self, properties: pb.NodeProperties, status: os.stat_result) -> None:
        if _MTIME in self._properties:
            properties.mtime.seconds = status.st_mtime_ns // 10**9
            properties.mtime.nanos = status.st_mtime_ns % 10**9
        if _UNIX_MODE in self._properties:
            properties.unix_mode.value = stat.S_IMODE(status.st_mode)


def _parent(place: str) -> str:
    return place.rpartition("/")[0] or "."


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISFIFO, "pipe"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
    ):
        if test(mode):
            return name
    return "special file"
