"""Files and directories from the disk of who asks into a CAS."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nativelink.client.remote import Remote
from nativelink.client.trees import Kind
from nativelink.core.digest import Digest, DigestFunction, is_empty
from nativelink.core.eager import run_all
from nativelink.core.errors import NativeLinkError, context, invalid_argument
from nativelink.core.streams import BytesSource
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.disk_calls import disk_error
from nativelink.stores.remote.messages import digest_message

__all__ = ["Uploaded", "upload"]

#: Sent at the same time: each has an open file.
_AT_ONCE: Final = 256
_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What became of a path.

    Attributes:
        path: as it was given.
        kind: a file or a directory.
        digest: of the file, or of the root Directory.
        blobs: how many different ones it consists of, the Directories too.
        size_bytes: of these together.
        sent_blobs: those that the CAS lacked.
        sent_bytes: of these together.
    """

    path: Path
    kind: Kind
    digest: Digest
    blobs: int
    size_bytes: int
    sent_blobs: int
    sent_bytes: int


@dataclass(slots=True)
class _Found:
    """Blobs by digest: a file, or the bytes of a message."""

    function: DigestFunction
    blobs: dict[Digest, Path | bytes] = field(default_factory=dict)

    def path(self, path: Path) -> tuple[Kind, Digest]:
        try:
            if path.is_dir():
                return Kind.DIRECTORY, self.directory(path)
            if path.exists() and not path.is_file():
                raise invalid_argument(f"{path} is no file, directory or symbolic link")
            return Kind.FILE, self.file(path)
        except OSError as error:
            raise disk_error(error, str(error.filename or path)) from error

    def file(self, path: Path) -> Digest:
        with path.open("rb") as file:
            # BLAKE3's hasher is one to hashlib, but not to its types.
            hasher = hashlib.file_digest(file, self.function.new)  # type: ignore[arg-type]
            digest = Digest(hasher.hexdigest(), file.tell())
        self.blobs[digest] = path
        return digest

    def directory(self, path: Path) -> Digest:
        message = pb.Directory()
        for child in sorted(path.iterdir(), key=os.fsencode):
            self._entry(child, child.name, message)
        data = message.SerializeToString(deterministic=True)
        digest = self.function.digest_of(data)
        self.blobs[digest] = data
        return digest

    def _entry(self, path: Path, name: str, message: pb.Directory) -> None:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise invalid_argument(
                f"{os.fsencode(path)!r}: names in a Directory are UTF-8, this one is not"
            ) from None
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            digest = digest_message(self.file(path))
            message.files.add(name=name, digest=digest, is_executable=bool(mode & 0o111))
        elif stat.S_ISDIR(mode):
            message.directories.add(name=name, digest=digest_message(self.directory(path)))
        elif stat.S_ISLNK(mode):
            message.symlinks.add(name=name, target=str(path.readlink()))
        else:
            raise invalid_argument(f"{path} is no file, directory or symbolic link")


class _FileSource:
    """Reads a file piece by piece."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size: int | None = size

    async def read(self) -> bytes:
        return os.read(self._fd, _PIECE_BYTES)


async def upload(remote: Remote, path: Path) -> Uploaded:
    """Store a file, or a directory with everything below it, where it is not there yet.

    Symbolic links in a directory stay links; `path` itself is followed.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for what a Directory cannot describe; what the disk or
            the server says.
    """
    found = _Found(remote.function)
    kind, digest = found.path(path)
    keys = list(found.blobs)
    sizes = await remote.cas.has(keys)
    absent = [
        key for key, size in zip(keys, sizes, strict=True) if size is None and not is_empty(key)
    ]
    room = asyncio.Semaphore(_AT_ONCE)

    async def send(key: Digest, blob: Path | bytes) -> None:
        async with room:
            await _send(remote, key, blob)

    # What names others comes last: a Directory that is there promises that its files are.
    files = [key for key in absent if isinstance(found.blobs[key], Path)]
    await run_all(send(key, found.blobs[key]) for key in files)
    messages = [key for key in absent if not isinstance(found.blobs[key], Path)]
    await run_all(send(key, found.blobs[key]) for key in messages)
    return Uploaded(
        path,
        kind,
        digest,
        blobs=len(keys),
        size_bytes=sum(key.size_bytes for key in keys),
        sent_blobs=len(absent),
        sent_bytes=sum(key.size_bytes for key in absent),
    )


async def _send(remote: Remote, key: Digest, blob: Path | bytes) -> None:
    if isinstance(blob, bytes):
        await remote.cas.put(key, BytesSource(blob))
        return
    with context(str(blob)):
        try:
            fd = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise disk_error(error, "open") from error
        try:
            await remote.cas.put(key, _FileSource(fd, key.size_bytes))
        except NativeLinkError as error:
            if os.fstat(fd).st_size != key.size_bytes:
                raise invalid_argument("the file changed while it was sent") from error
            raise
        finally:
            os.close(fd)
