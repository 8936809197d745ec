"""Archives for tests, and what the program makes of them."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from dataclasses import dataclass
from typing import Any

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.services.archives.limits import ArchiveLimits
from nativelink.services.archives.unpacker import Unpacker
from nativelink.testing.fakes import DictStore

SHA256 = DigestFunction.SHA256
LIMITS = ArchiveLimits(10_000_000, 1_000)


@dataclass(frozen=True)
class Entry:
    """What is put into an archive; `data` None: a directory."""

    path: str
    data: bytes | None = b""
    mode: int = 0o644
    target: str = ""
    is_hard: bool = False


def folder(path: str) -> Entry:
    return Entry(path, None, 0o755)


def link(path: str, target: str) -> Entry:
    return Entry(path, target=target)


def hard_link(path: str, target: str) -> Entry:
    return Entry(path, target=target, is_hard=True)


def tar(*entries: Entry, format_: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive as Python's own module writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.mode = entry.mode
            if entry.data is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            elif entry.target:
                info.type = tarfile.LNKTYPE if entry.is_hard else tarfile.SYMTYPE
                info.linkname = entry.target
                archive.addfile(info)
            else:
                info.size = len(entry.data)
                archive.addfile(info, io.BytesIO(entry.data))
    return out.getvalue()


def zipped(*entries: Entry, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The same as a zip, of Unix."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for entry in entries:
            is_folder = entry.data is None
            info = zipfile.ZipInfo(entry.path + ("/" if is_folder else ""))
            info.create_system = 3
            info.compress_type = method
            kind = stat.S_IFDIR if is_folder else stat.S_IFLNK if entry.target else stat.S_IFREG
            info.external_attr = (kind | entry.mode) << 16
            archive.writestr(info, entry.target or entry.data or b"")
    return out.getvalue()


def header(name: bytes, *, kind: bytes = b"0", size: bytes = b"0", **fields: Any) -> bytes:
    """One block of a tar, for what no good program writes.

    Args:
        name: of the entry.
        kind: its type flag.
        size: the field, in octal digits or whatever it is to hold.
        fields: `prefix`, `link`, `mode` and `magic`, as they stand there.
    """
    block = bytearray(512)
    block[0 : len(name)] = name
    for at, value in (
        (100, fields.get("mode", b"0000644")),
        (124, size),
        (156, kind),
        (157, fields.get("link", b"")),
        (257, fields.get("magic", b"ustar\x0000")),
        (345, fields.get("prefix", b"")),
    ):
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    """Contents as they follow a header."""
    return data + bytes(-len(data) % 512)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """An extended header with these records, `name=value` each."""
    data = b""
    for record in records:
        length = len(record) + 3
        while len(b"%d" % length) + len(record) + 2 != length:
            length += 1
        data += b"%d %s\n" % (length, record)
    return header(b"pax", kind=kind, size=b"%o" % len(data)) + padded(data)


class Unpacked:
    """What an archive became.

    Attributes:
        cas: has it.
        outcome: the root, or why there is none.
    """

    def __init__(self, cas: DictStore, outcome: Digest | NativeLinkError) -> None:
        self.cas = cas
        self.outcome = outcome

    @property
    def error(self) -> NativeLinkError:
        assert isinstance(self.outcome, NativeLinkError), self.outcome
        return self.outcome

    @property
    def root(self) -> Digest:
        assert isinstance(self.outcome, Digest), self.outcome
        return self.outcome

    @property
    def tree(self) -> dict[str, Any]:
        """By name: contents (in a tuple where they are executable), a target, or a dict."""
        return self._tree(self.root)

    def _tree(self, digest: Digest) -> dict[str, Any]:
        directory = reapi.Directory.FromString(self._blob(digest))
        found: dict[str, Any] = {}
        for file in directory.files:
            data = self._blob(Digest(file.digest.hash, file.digest.size_bytes))
            found[file.name] = (data,) if file.is_executable else data
        for symlink in directory.symlinks:
            found[symlink.name] = symlink.target
        for child in directory.directories:
            found[child.name] = self._tree(Digest(child.digest.hash, child.digest.size_bytes))
        for nodes in (directory.files, directory.symlinks, directory.directories):
            names = [node.name for node in nodes]
            assert names == sorted(names)
        return found

    def _blob(self, digest: Digest) -> bytes:
        return self.cas.blobs[digest] if digest.size_bytes else b""


async def unpack(
    archive: bytes, limits: ArchiveLimits = LIMITS, function: DigestFunction = SHA256
) -> Unpacked:
    """Put an archive into a CAS and make a directory of it."""
    cas = DictStore()
    digest = function.digest_of(archive)
    cas.blobs[digest] = archive
    return Unpacked(cas, await Unpacker(cas, limits=limits).unpack(digest, function))
