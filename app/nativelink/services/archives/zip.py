"""Reads zip (PKWARE's APPNOTE 6.3.10): stored and deflated entries, Zip64, Unix' modes.

The directory at the end of the file says what there is. Entries are read in the order in which
they lie in the file, once, and none may lie within another one: that is how small files were made
that unpack to petabytes. An entry's own header must say the same name as the directory, so that no
program sees another archive than this one.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final

from nativelink.services.archives.contents import Entries
from nativelink.services.archives.limits import (
    PIECE_BYTES,
    ArchiveLimits,
    exhausted,
    require_fair,
    unfit,
)
from nativelink.services.archives.packing import Deflated

__all__ = ["ZIP_HEAD_BYTES", "begins_as_zip", "read_zip"]

ZIP_HEAD_BYTES: Final = 4

_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_END_64: Final = struct.Struct("<4sQ2H2I4Q")
#: Of it, so many bytes are not in the size that it has of itself.
_END_64_SIZED_AT: Final = 12
_LOCATOR: Final = struct.Struct("<4sIQI")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END_64_MAGIC, _LOCATOR_MAGIC = b"PK\x06\x06", b"PK\x06\x07"
#: In these places a field says that Zip64's does.
_MANY, _LARGE = 0xFFFF, 0xFFFFFFFF
_ELSEWHERE: Final = (_MANY, _MANY, _MANY, _MANY, _LARGE, _LARGE)
_ZIP64: Final = 1
#: A comment behind the end is as long as its 16 bits say at most.
_MAX_COMMENT_BYTES: Final = 0xFFFF
#: Of the directory. An entry's takes 46 bytes and its name; so these are 200,000 of 270 bytes.
_MAX_DIRECTORY_BYTES: Final = 64 * 1024 * 1024
_ENCRYPTED: Final = 0x2041
_IN_UTF_8: Final = 0x0800
_STORED, _DEFLATED = 0, 8
_NO_HEADER: Final = -15
#: Systems whose entries have Unix' modes: Unix, macOS.
_WITH_MODES: Final = frozenset({3, 19})
_MAX_TARGET_BYTES: Final = 4096


@dataclass(slots=True)
class _Entry:
    """What the directory says of one.

    Attributes:
        raw_name: as it stands there.
        name: of it, as text.
        at: its header's place in the file.
        method: of compression.
        packed, size: in bytes.
        crc: of its contents.
        mode: Unix' type and permissions; 0 where nobody says.
    """

    raw_name: bytes
    name: str
    at: int
    method: int
    packed: int
    size: int
    crc: int
    mode: int


def begins_as_zip(head: bytes) -> bool:
    """Whether a file with these first `ZIP_HEAD_BYTES` is a zip that has entries, or none."""
    return head in (_LOCAL_MAGIC, _END_MAGIC)


def read_zip(file: IO[bytes], size: int, entries: Entries, limits: ArchiveLimits) -> Iterator[None]:
    """Give all entries of an archive, a little at a time.

    Args:
        file: the archive.
        size: of it.
        entries: takes them.
        limits: what there may be.

    Raises:
        NativeLinkError: ABORTED, RESOURCE_EXHAUSTED.
        OSError: of a file of this machine.
    """
    count, at, length = _directory(file, size)
    if count > limits.max_entries or length > _MAX_DIRECTORY_BYTES:
        raise exhausted(
            f"there are {count} entries in it, listed in {length} bytes; {limits.max_entries} in "
            f"{_MAX_DIRECTORY_BYTES} are allowed"
        )
    listed = []
    for entry in _listed(_read(file, at, length), count):
        listed.append(entry)
        yield
    unpacked = sum(entry.size for entry in listed)
    if unpacked > limits.max_bytes:
        raise exhausted(f"there are {unpacked} bytes in it; {limits.max_bytes} are allowed")
    require_fair(size, unpacked)
    listed.sort(key=lambda entry: entry.at)
    end = 0
    for entry in listed:
        if entry.at < end:
            raise unfit(f"entry {entry.name[:200]!r} lies within another one")
        start = _start(file, entry, limit=at)
        end = start + entry.packed
        if end > at:
            raise unfit(f"entry {entry.name[:200]!r} goes on behind the last one")
        yield from _entry(_Reader(file, start, entry), entry, entries)
        yield


def _directory(file: IO[bytes], size: int) -> tuple[int, int, int]:
    """How many entries there are, where the directory of them begins, and its bytes."""
    tail_at = max(0, size - _END.size - _MAX_COMMENT_BYTES)
    tail = _read(file, tail_at, size - tail_at)
    # Its comment reaches to the file's end, so that there is no other one to be found.
    found = tail.rfind(_END_MAGIC)
    while found >= 0 and not _is_end(tail, found):
        found = tail.rfind(_END_MAGIC, 0, found)
    if found < 0:
        raise unfit("it begins as a zip, and has no directory at its end")
    _, disk, first_disk, here, count, length, at, _ = _END.unpack_from(tail, found)
    end = tail_at + found
    if found_64 := _end_64(file, end - _LOCATOR.size):
        end, numbers = found_64
        said = (disk, first_disk, here, count, length, at)
        for plain, large, elsewhere in zip(said, numbers, _ELSEWHERE, strict=True):
            if plain not in (large, elsewhere):
                raise unfit(f"its directory's end says {plain}, and {large} in its form of Zip64")
        disk, first_disk, here, count, length, at = numbers
    if disk or first_disk or here != count:
        raise unfit("it is a part of an archive of several files")
    if at + length > end:
        raise unfit("its directory is cut off")
    if at + length < end:
        raise unfit("its directory does not end where the record of its end begins")
    return count, at, length


def _end_64(file: IO[bytes], locator_at: int) -> tuple[int, Sequence[int]] | None:
    """Where the end in Zip64's form begins, and its six numbers; None if there is none."""
    if locator_at < 0:
        return None
    magic, disk, at, disks = _LOCATOR.unpack(_read(file, locator_at, _LOCATOR.size))
    # Without one, the numbers of the other form count, as large as they may be.
    if magic != _LOCATOR_MAGIC:
        return None
    # Some programs look for it right before its locator, and others where that says.
    if not disk and disks <= 1 and at + _END_64.size <= locator_at:
        magic, size, _, _, *numbers = _END_64.unpack(_read(file, at, _END_64.size))
        if magic == _END_64_MAGIC and at + _END_64_SIZED_AT + size == locator_at:
            return at, numbers
    raise unfit("its directory's end is damaged")


def _is_end(tail: bytes, at: int) -> bool:
    if at + _END.size > len(tail):
        return False
    comment_bytes: int = _END.unpack_from(tail, at)[-1]
    return at + _END.size + comment_bytes == len(tail)


def _listed(data: bytes, count: int) -> Iterator[_Entry]:
    at = 0
    for _ in range(count):
        if at + _CENTRAL.size > len(data):
            raise unfit("its directory is cut off")
        (
            magic, made_by, _, flags, method, _, _, crc, packed, size,
            name_bytes, extra_bytes, comment_bytes, _, _, attributes, place,
        ) = _CENTRAL.unpack_from(data, at)  # fmt: skip
        name_at = at + _CENTRAL.size
        extra_at = name_at + name_bytes
        at = extra_at + extra_bytes + comment_bytes
        if magic != _CENTRAL_MAGIC or at > len(data):
            raise unfit("its directory is damaged")
        raw_name = data[name_at:extra_at]
        name = _text(raw_name, flags)
        if _LARGE in (size, packed, place):
            extra = data[extra_at : extra_at + extra_bytes]
            size, packed, place = _large(extra, size, packed, place)
        shown = name[:200]
        if flags & _ENCRYPTED:
            raise unfit(f"entry {shown!r} is encrypted")
        if method not in (_STORED, _DEFLATED):
            raise unfit(f"entry {shown!r} is compressed by method {method}; 0 and 8 are known")
        mode = attributes >> 16 if made_by >> 8 in _WITH_MODES else 0
        yield _Entry(raw_name, name, place, method, packed, size, crc, mode)
    if at != len(data):
        raise unfit(f"its directory lists more than the {count} entries that its end counts")


def _text(name: bytes, flags: int) -> str:
    """A name: in UTF-8 if its entry says so, and where it is; else in the code page of DOS."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        if flags & _IN_UTF_8:
            raise unfit(f"the name {name[:200]!r} is not in UTF-8") from None
        return name.decode("cp437")


def _large(extra: bytes, *fields: int) -> list[int]:
    """Those fields that did not fit, out of the extra field of Zip64, in their order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == _ZIP64:
            values = iter(struct.unpack_from(f"<{min(length, len(extra) - at) // 8}Q", extra, at))
            return [next(values, field) if field == _LARGE else field for field in fields]
        at += length
    return list(fields)


def _start(file: IO[bytes], entry: _Entry, *, limit: int) -> int:
    """Where an entry's contents begin; its header ends before `limit`."""
    if entry.at + _LOCAL.size > limit:
        raise unfit(f"entry {entry.name[:200]!r} goes on behind the last one")
    fields = _LOCAL.unpack(_read(file, entry.at, _LOCAL.size))
    magic, name_bytes, extra_bytes = fields[0], fields[-2], fields[-1]
    name_at = entry.at + _LOCAL.size
    if magic != _LOCAL_MAGIC or _read(file, name_at, name_bytes) != entry.raw_name:
        raise unfit(f"entry {entry.name[:200]!r} has another header than its directory says")
    return name_at + int(name_bytes) + int(extra_bytes)


def _entry(reader: _Reader, entry: _Entry, entries: Entries) -> Iterator[None]:
    kind = stat.S_IFMT(entry.mode)
    if entry.name.endswith("/") or kind == stat.S_IFDIR:
        entries.directory(entry.name)
    elif kind == stat.S_IFLNK:
        if entry.size > _MAX_TARGET_BYTES:
            raise unfit(f"symlink {entry.name[:200]!r} leads to {entry.size} bytes")
        target = b"".join(reader.pieces())
        entries.symlink(entry.name, _text(target, _IN_UTF_8))
    elif kind in (0, stat.S_IFREG):
        entries.begin(entry.name, is_executable=bool(entry.mode & stat.S_IXUSR))
        for piece in reader.pieces():
            entries.data(piece)
            yield
        entries.end()
    else:
        raise unfit(
            f"entry {entry.name[:200]!r} has the mode {entry.mode:o}; no directory here can hold it"
        )


class _Reader:
    """Reads the contents of one entry, which are what the directory says of them."""

    def __init__(self, file: IO[bytes], start: int, entry: _Entry) -> None:
        self._file = file
        self._at = start
        self._left = entry.packed
        self._entry = entry

    def pieces(self) -> Iterator[bytes]:
        """All of it.

        Raises:
            NativeLinkError: ABORTED if it is damaged.
        """
        entry = self._entry
        size = crc = 0
        for piece in self._stored() if entry.method == _STORED else self._inflated():
            size += len(piece)
            crc = zlib.crc32(piece, crc)
            if size > entry.size:
                break
            yield piece
        if (size, crc) != (entry.size, entry.crc):
            raise unfit(f"entry {entry.name[:200]!r} is damaged: its size or CRC is another one")

    def _stored(self) -> Iterator[bytes]:
        while data := self._input():
            yield data

    def _inflated(self) -> Iterator[bytes]:
        inflater = Deflated(_NO_HEADER)
        while not inflater.eof:
            data = self._input() if inflater.needs_input else b""
            if inflater.needs_input and not data:
                return
            try:
                piece = inflater.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise unfit(f"entry {self._entry.name[:200]!r} is damaged: {error}") from error
            if piece:
                yield piece

    def _input(self) -> bytes:
        data = _read(self._file, self._at, min(self._left, PIECE_BYTES))
        self._at += len(data)
        self._left -= len(data)
        return data


def _read(file: IO[bytes], at: int, size: int) -> bytes:
    """Exactly so many bytes."""
    if at < 0:
        raise unfit("it is cut off")
    file.seek(at)
    parts = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    if size:
        raise unfit("it is cut off")
    return b"".join(parts)
