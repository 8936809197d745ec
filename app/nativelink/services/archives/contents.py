"""The files of an archive on their way into the CAS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.streams import BytesSource, Chunk, Source
from nativelink.services.archives.tree import File, Tree, names_of, symlink
from nativelink.services.spool import BUFFER_BYTES, FileSource, temporary_file

__all__ = ["Contents", "Entries"]

#: Of files that wait to be stored. More are stored at once than one by one: 4 MiB, or as many as
#: a backend is asked for at once.
_MAX_READY_BYTES: Final = 4 * 1024 * 1024
_MAX_READY: Final = 256


class Contents:
    """What is in a file, whose digest is known behind its end: in memory while it is small.

    Args:
        function: makes the digest.
        folder: for what is not small; None for the machine's own.
    """

    def __init__(self, function: DigestFunction, folder: Path | None) -> None:
        self._hasher = function.new()
        self._folder = folder
        self._data = bytearray()
        self._file: IO[bytes] | None = None
        self._size = 0

    def write(self, chunk: Chunk) -> None:
        """Take a piece.

        Raises:
            OSError: the disk is full.
        """
        self._hasher.update(chunk)
        self._size += len(chunk)
        # A copy: a short piece would keep a long one in memory.
        self._data += chunk
        if len(self._data) > BUFFER_BYTES:
            if self._file is None:
                self._file = temporary_file(self._folder)
            self._spill(self._file)

    def finish(self) -> Digest:
        """The digest of all that was written, which is the end of it."""
        if self._file is not None:
            self._spill(self._file)
        return Digest(self._hasher.hexdigest(), self._size)

    @property
    def held_bytes(self) -> int:
        """How much of it is in memory."""
        return len(self._data)

    def source(self) -> Source:
        """Reads it, once it is finished."""
        if self._file is None:
            return BytesSource(bytes(self._data))
        return FileSource(self._file.fileno(), self._size)

    def close(self) -> None:
        """Forget it."""
        self._data = bytearray()
        if self._file is not None:
            self._file.close()

    def _spill(self, file: IO[bytes]) -> None:
        with memoryview(self._data) as data:
            at = 0
            while at < len(data):
                at += file.write(data[at:])
        self._data = bytearray()


class Entries:
    """Takes an archive entry by entry: its names make a tree, its files wait to be stored.

    Args:
        tree: has the names.
        function: makes the digests.
        folder: for large files; None for the machine's own.

    Attributes:
        ready: files, and whatever else is to be stored, that wait.
    """

    def __init__(self, tree: Tree, function: DigestFunction, folder: Path | None) -> None:
        self._tree = tree
        self._function = function
        self._folder = folder
        self._names: Sequence[str] = ()
        self._is_executable = False
        self._open: Contents | None = None
        self._ready_bytes = 0
        self.ready: dict[Digest, Contents] = {}

    @property
    def are_many(self) -> bool:
        """Whether what is ready should be stored now."""
        return self._ready_bytes >= _MAX_READY_BYTES or len(self.ready) >= _MAX_READY

    def directory(self, path: str) -> None:
        """A directory."""
        self._tree.add_directory(names_of(path))

    def symlink(self, path: str, target: str) -> None:
        """A symlink."""
        self._tree.add(names_of(path), symlink(target, repr(path[:200])))

    def link(self, path: str, earlier: str) -> None:
        """Another name of an earlier file."""
        self._tree.add_link(names_of(path), names_of(earlier))

    def begin(self, path: str, *, is_executable: bool) -> None:
        """A file, whose contents follow until `end`."""
        self._names = names_of(path)
        self._is_executable = is_executable
        self._open = Contents(self._function, self._folder)

    def data(self, chunk: Chunk) -> None:
        """A piece of the file.

        Raises:
            OSError: the disk is full.
        """
        assert self._open is not None
        self._open.write(chunk)

    def end(self) -> None:
        """All of the file was there."""
        contents = self._open
        assert contents is not None
        digest = contents.finish()
        self._tree.add(self._names, File(digest, self._is_executable))
        self._open = None
        self._keep(digest, contents)

    def blob(self, data: bytes) -> None:
        """Something to be stored that is no file of the archive."""
        contents = Contents(self._function, self._folder)
        contents.write(data)
        self._keep(contents.finish(), contents)

    def taken(self) -> dict[Digest, Contents]:
        """What is ready; it is the caller's to close then."""
        ready, self.ready, self._ready_bytes = self.ready, {}, 0
        return ready

    def close(self) -> None:
        """Forget everything that was not taken."""
        for contents in self.ready.values():
            contents.close()
        if self._open is not None:
            self._open.close()

    def _keep(self, digest: Digest, contents: Contents) -> None:
        # The empty blob is in every store.
        if not digest.size_bytes or digest in self.ready:
            contents.close()
            return
        self.ready[digest] = contents
        # What lies in a file holds a descriptor and room on the disk instead.
        self._ready_bytes += contents.held_bytes or _MAX_READY_BYTES
