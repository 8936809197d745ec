"""Reads tar: POSIX' ustar and pax, GNU's long names, and what was there before either.

(POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".) Nothing of an
entry counts but its name, its contents, and whether its owner may execute it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nativelink.core.errors import NativeLinkError
from nativelink.services.archives.contents import Entries
from nativelink.services.archives.limits import PIECE_BYTES, unfit
from nativelink.services.archives.packing import Packed

__all__ = ["read_tar"]

_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)
#: A header that goes on in further blocks: names of 4 KiB, and extended attributes.
_MAX_EXTENSION_BYTES: Final = 1024 * 1024
_OWNER_EXECUTES: Final = 0o100
_OCTAL: Final = re.compile(rb" *([0-7]*) *")
_LENGTH: Final = re.compile(rb"([0-9]{1,7}) ")
_CHECKSUM: Final = slice(148, 156)

_MAX_RECORDS: Final = 1000

_FILES: Final = (b"0", b"\0", b"7")
_HARD_LINK, _SYMLINK, _DIRECTORY = b"1", b"2", b"5"
_REFUSED: Final = {
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"M": "the rest of a file of another volume",
    b"D": "of an incremental backup",
}
#: pax has sparse files as ordinary ones whose contents begin with a map.
_SPARSE: Final = b"GNU.sparse."
#: What of pax' records says anything here.
_PATH, _LINK_PATH, _SIZE = b"path", b"linkpath", b"size"


@dataclass(slots=True)
class _Header:
    """What one block says.

    Attributes:
        kind: its type flag.
        name: with the prefix before it.
        link: where a link leads.
        size: of what follows, in bytes.
        mode: permissions.
    """

    kind: bytes
    name: bytes
    link: bytes
    size: int
    mode: int


def read_tar(packed: Packed, entries: Entries) -> Iterator[None]:
    """Give all entries of an archive, a little at a time.

    Raises:
        NativeLinkError: ABORTED, RESOURCE_EXHAUSTED.
        OSError: of a file of this machine.
    """
    is_first = True
    for_all: dict[bytes, bytes] = {}
    for_next: dict[bytes, bytes] = {}
    while True:
        block = packed.take(_BLOCK)
        if block == _ZEROS:
            what = _no_tar(packed.packing) if is_first else "there is more behind its end mark"
            yield from _only_zeros(packed, what)
            return
        if not block and not is_first:
            # Some programs leave the end mark out.
            return
        header = _header(block, packed.packing, is_first=is_first)
        is_first = False
        match header.kind:
            case b"x" | b"X":  # pax, Solaris
                for_next |= _records(_extension(packed, header))
            case b"g":
                for_all |= _records(_extension(packed, header))
            case b"L":  # GNU
                for_next[_PATH] = _extension(packed, header).rstrip(b"\0")
            case b"K":
                for_next[_LINK_PATH] = _extension(packed, header).rstrip(b"\0")
            case b"V":  # a label
                yield from _contents(packed, header, None)
            case _:
                yield from _entry(packed, _extended(header, for_all | for_next), entries)
                for_next = {}
        yield


def _only_zeros(packed: Packed, what: str) -> Iterator[None]:
    """Pass over the rest of the end mark and what fills up the last record.

    GNU tar ends at two blocks of zeros whatever follows, and warns at one; others go on. So what
    follows would be lost to some.

    Raises:
        NativeLinkError: ABORTED, for `what`, if there is anything else; and as `Packed.take`.
    """
    while piece := packed.some(PIECE_BYTES):
        if piece.tobytes().strip(b"\0"):
            raise unfit(what)
        yield


def _entry(packed: Packed, header: _Header, entries: Entries) -> Iterator[None]:
    path = _text(header.name)
    is_file = header.kind in _FILES
    if header.kind == _DIRECTORY:
        entries.directory(path)
    elif is_file and path.endswith("/"):
        # As there was no other type for it once.
        entries.directory(path)
        yield from _contents(packed, header, None)
    elif header.kind == _SYMLINK:
        entries.symlink(path, _text(header.link))
    elif header.kind == _HARD_LINK:
        entries.link(path, _text(header.link))
    elif is_file:
        entries.begin(path, is_executable=bool(header.mode & _OWNER_EXECUTES))
        yield from _contents(packed, header, entries)
        entries.end()
    else:
        what = _REFUSED.get(header.kind, f"of type {header.kind!r}")
        raise unfit(f"entry {path[:200]!r} is {what}; no directory here can hold it")


def _contents(packed: Packed, header: _Header, entries: Entries | None) -> Iterator[None]:
    """Pass on what follows a header; None: to nobody."""
    left = header.size
    while left:
        piece = packed.some(min(left, PIECE_BYTES))
        if not piece:
            raise _cut_off()
        left -= len(piece)
        if entries is not None:
            entries.data(piece)
        yield
    _skip_padding(packed, header.size)


def _extension(packed: Packed, header: _Header) -> bytes:
    """What follows a header that belongs to the next one."""
    if header.size > _MAX_EXTENSION_BYTES:
        raise unfit(
            f"it has an extended header of {header.size} bytes; {_MAX_EXTENSION_BYTES} are allowed"
        )
    data = packed.take(header.size)
    if len(data) < header.size:
        raise _cut_off()
    _skip_padding(packed, header.size)
    return data


def _skip_padding(packed: Packed, size: int) -> None:
    padding = -size % _BLOCK
    if len(packed.take(padding)) < padding:
        raise _cut_off()


def _header(block: bytes, packing: str, *, is_first: bool) -> _Header:
    """The fields of a block.

    Raises:
        NativeLinkError: ABORTED, of the whole archive if it is its first block.
    """
    what = _no_tar(packing) if is_first else "an entry's header is damaged"
    if len(block) < _BLOCK:
        raise unfit(what) if is_first else _cut_off()
    said = _octal(block[_CHECKSUM])
    total = sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")
    if said is None or (said != total and said != total - _signs(block)):
        raise unfit(what)
    size, mode = _number(block[124:136]), _number(block[100:108])
    if size is None or mode is None:
        raise unfit(f"{what}: its size or mode is no number")
    name = _field(block[:100])
    # GNU's has other fields in the place of the prefix.
    if block[257:263] == b"ustar\0" and (prefix := _field(block[345:500])):
        name = prefix + b"/" + name
    return _Header(block[156:157], name, _field(block[157:257]), size, mode)


def _signs(block: bytes) -> int:
    """What a block's sum is less if its bytes are signed, as some programs once added them up."""
    return 256 * sum(byte > 127 for byte in block[: _CHECKSUM.start] + block[_CHECKSUM.stop :])


def _extended(header: _Header, records: dict[bytes, bytes]) -> _Header:
    """The header with what the ones before it say."""
    if _SPARSE in records:
        raise unfit(f"entry {_text(header.name)[:200]!r} is {_REFUSED[b'S']}")
    # An empty value takes back what was said for all.
    header.name = records.get(_PATH) or header.name
    header.link = records.get(_LINK_PATH) or header.link
    if size := records.get(_SIZE):
        if not size.isdigit() or len(size) > 19:
            raise unfit(f"an extended header has the size {size[:40]!r}")
        header.size = int(size)
    return header


def _records(data: bytes) -> dict[bytes, bytes]:
    """Records of pax, each `<its length> <name>=<value>` and the end of a line."""
    found: dict[bytes, bytes] = {}
    at = count = 0
    while at < len(data):
        count += 1
        length = _LENGTH.match(data, at)
        end = at + int(length[1]) if length is not None else at
        if length is None or end <= length.end() or end > len(data) or data[end - 1] != 0x0A:
            raise unfit("an extended header is damaged")
        if count > _MAX_RECORDS:
            raise unfit(f"an extended header has more than {_MAX_RECORDS} records")
        name, equals, value = data[length.end() : end - 1].partition(b"=")
        if not equals:
            raise unfit("an extended header is damaged")
        if name.startswith(_SPARSE):
            # That it is there says it all. Names of somebody's choice would have to be kept.
            found[_SPARSE] = b""
        elif name in (_PATH, _LINK_PATH, _SIZE):
            found[name] = value
        at = end
    return found


def _field(data: bytes) -> bytes:
    """A text that ends with its field, or with a NUL."""
    return data.partition(b"\0")[0]


def _octal(data: bytes) -> int | None:
    digits = _OCTAL.fullmatch(_field(data))
    return None if digits is None else int(digits[1] or b"0", 8)


def _number(data: bytes) -> int | None:
    """A number in octal digits, or (GNU's) in binary behind a bit; None for a negative one."""
    if not data[0] & 0x80:
        return _octal(data)
    if data[0] & 0x40:
        return None
    return int.from_bytes(bytes([data[0] & 0x3F]) + data[1:], "big")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise unfit(f"the name {data[:200]!r} is not in UTF-8") from None


def _no_tar(packing: str) -> str:
    return f"what its {packing} holds is no tar" if packing else "it is neither a tar nor a zip"


def _cut_off() -> NativeLinkError:
    return unfit("it ends in the middle of an entry")
