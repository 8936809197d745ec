"""Blobs and trees from a CAS onto the disk of who asks; what comes is checked against its name."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nativelink.client.remote import Remote
from nativelink.client.trees import Entry, Kind, Totals, Tree, fetch_tree
from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError, context, invalid_argument
from nativelink.core.names import check_name
from nativelink.core.streams import Chunk, Sink
from nativelink.stores.disk_calls import disk_error, write_all

__all__ = ["DescriptorSink", "download_blob", "download_file", "download_tree"]

#: Fetched at the same time: each has an open file.
_AT_ONCE: Final = 256
#: More than the largest trees that people report by a factor of five.
_MAX_ENTRIES: Final = 1_000_000
_FILE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class DescriptorSink:
    """Writes into an open file, which may be a pipe."""

    def __init__(self, fd: int, what: str) -> None:
        self._fd = fd
        self._what = what

    async def write(self, chunk: Chunk, /) -> None:
        try:
            write_all(self._fd, (chunk,))
        except BrokenPipeError:
            # Who reads has enough: no failure of ours.
            raise
        except OSError as error:
            raise disk_error(error, self._what) from error


class _CheckedSink:
    """Passes a blob on and hashes it."""

    def __init__(self, sink: Sink, function: DigestFunction) -> None:
        self._sink = sink
        self._hasher = function.new()
        self._size = 0
        self._function = function

    async def write(self, chunk: Chunk, /) -> None:
        self._hasher.update(chunk)
        self._size += len(chunk)
        await self._sink.write(chunk)

    def check(self, digest: Digest) -> None:
        """Whether that was the blob.

        Raises:
            NativeLinkError: DATA_LOSS.
        """
        found = Digest(self._hasher.hexdigest(), self._size)
        if found != digest:
            raise NativeLinkError(
                Code.DATA_LOSS,
                f"what the server sent for {digest} is {found}, by {self._function.name}",
            )


async def download_blob(remote: Remote, digest: Digest, sink: Sink) -> None:
    """Stream a blob.

    Raises:
        NativeLinkError: NOT_FOUND; DATA_LOSS, when all was written, if it is another blob.
    """
    checked = _CheckedSink(sink, remote.function)
    await remote.cas.get(digest, checked)
    checked.check(digest)


async def download_file(
    remote: Remote, digest: Digest, path: Path, *, is_executable: bool = False
) -> None:
    """Make a file of a blob, in place of the one that is there. A failure leaves that as it was.

    Raises:
        NativeLinkError: as of `download_blob`; what the disk says.
    """
    with _replacement(path, is_executable=is_executable) as fd:
        await download_blob(remote, digest, DescriptorSink(fd, str(path)))


async def download_tree(remote: Remote, digest: Digest, into: Path) -> Totals:
    """Make a directory of a Directory or a Tree; a failure leaves nothing behind.

    Nothing is written outside of it, whatever its names and links are: names that no entry can
    have are refused, and links are made when everything else is there.

    Args:
        remote: where it is.
        digest: the root.
        into: a directory that is empty or not there.

    Raises:
        NativeLinkError: NOT_FOUND naming what is missing; INVALID_ARGUMENT for names that cannot
            be, or if `into` is not empty.
    """
    tree = await fetch_tree(remote.cas, digest, remote.function)
    entries = list(_checked_entries(tree))
    with _fresh_directory(into):
        await _make(remote, entries, into)
    return tree.totals


def _checked_entries(tree: Tree) -> Iterator[Entry]:
    totals = tree.totals
    count = totals.files + totals.directories + totals.symlinks
    if count > _MAX_ENTRIES:
        raise invalid_argument(f"tree {tree.root} has {count} entries; {_MAX_ENTRIES} are allowed")
    seen: set[str] = set()
    for entry in tree.walk():
        where = entry.path[:200]
        if problem := check_name(entry.name):
            raise invalid_argument(f"tree {tree.root}: a name in {where!r} {problem}")
        if entry.path in seen:
            raise invalid_argument(f"tree {tree.root}: {where!r} stands there twice")
        if tree.is_missing(entry.digest) and entry.kind is Kind.DIRECTORY:
            raise NativeLinkError(
                Code.NOT_FOUND, f"directory {entry.digest} ({where!r}) is not in the CAS"
            )
        seen.add(entry.path)
        yield entry


async def _make(remote: Remote, entries: list[Entry], into: Path) -> None:
    for entry in entries:
        if entry.kind is Kind.DIRECTORY:
            (into / entry.path).mkdir()
    room = asyncio.Semaphore(_AT_ONCE)

    async def fetch(entry: Entry, digest: Digest) -> None:
        async with room:
            with context(entry.path):
                await _make_file(remote, entry, digest, into / entry.path)

    await run_all(
        fetch(entry, entry.digest)
        for entry in entries
        if entry.kind is Kind.FILE and entry.digest is not None
    )
    # Last, so that no file is ever written through one.
    for entry in entries:
        if entry.kind is Kind.SYMLINK:
            (into / entry.path).symlink_to(entry.target)


async def _make_file(remote: Remote, entry: Entry, digest: Digest, path: Path) -> None:
    fd = os.open(path, _FILE_FLAGS, 0o777 if entry.is_executable else 0o666)
    try:
        await download_blob(remote, digest, DescriptorSink(fd, entry.path))
        if entry.mode is not None:
            # Nobody becomes somebody else by a file from a cache.
            os.fchmod(fd, entry.mode & 0o777)
        if entry.mtime_ns is not None:
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
    finally:
        os.close(fd)


@contextmanager
def _replacement(path: Path, *, is_executable: bool) -> Iterator[int]:
    """A file to write, which takes the place of `path` if nothing fails."""
    if path.is_dir():
        raise invalid_argument(f"{path} is a directory; name the file to make")
    with _disk_errors(path):
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        temporary = Path(name)
        try:
            try:
                os.fchmod(fd, (0o777 if is_executable else 0o666) & ~_umask())
                yield fd
            finally:
                os.close(fd)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def _fresh_directory(path: Path) -> Iterator[None]:
    """A directory to fill, which is empty again, or gone, if something fails."""
    with _disk_errors(path):
        made = not path.exists()
        if made:
            path.mkdir(parents=True)
        elif not path.is_dir() or any(path.iterdir()):
            raise invalid_argument(f"{path} is there already and no empty directory")
        try:
            yield
        except BaseException:
            for child in path.iterdir():
                if child.is_dir() and not child.is_symlink():
                    shutil.rmtree(child)
                else:
                    child.unlink()
            if made:
                path.rmdir()
            raise


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, str(error.filename or path)) from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
