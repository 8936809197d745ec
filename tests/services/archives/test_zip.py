"""Zip as odd and hostile programs write it."""

from __future__ import annotations

import io
import stat
import struct
import zipfile

import pytest

from nativelink.core.errors import Code
from nativelink.services.archives.limits import ArchiveLimits
from tests.services.archives.making import Entry, link, unpack, zipped

CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
TWO = zipped(Entry("a", b"contents " * 100), Entry("b", b"y"))


def patched(data: bytes, magic: bytes, at: int, value: bytes, *, last: bool = False) -> bytes:
    """`data` with other bytes at a place of the first, or last, record of a kind."""
    start = (data.rindex(magic) if last else data.index(magic)) + at
    return data[:start] + value + data[start + len(value) :]


async def test_what_another_system_made_has_no_modes() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("f")
        info.create_system = 0
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "x")

    assert (await unpack(out.getvalue())).tree == {"f": b"x"}


async def test_names_without_a_flag_are_of_dos_unless_they_are_utf_8() -> None:
    data = zipped(Entry("n@me"))
    dos = data.replace(b"n@me", b"n\x84me")
    utf_8 = zipped(Entry("n@@e")).replace(b"n@@e", "näe".encode())

    assert (await unpack(dos)).tree == {"näme": b""}
    assert (await unpack(utf_8)).tree == {"näe": b""}


async def test_sizes_that_follow_the_contents_are_fine() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_args: int) -> int:
            raise io.UnsupportedOperation

    out = Pipe()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"x" * 1000)
        archive.writestr("b", b"y")

    assert (await unpack(out.getvalue())).tree == {"a": b"x" * 1000, "b": b"y"}


async def test_zip64_is_read() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("a", "w", force_zip64=True) as entry:
        entry.write(b"x" * 10)
    data = out.getvalue()
    # The directory of a small one says nothing in 64 bits by itself.
    at = data.rindex(END)
    *_, count, length, start, _ = struct.unpack("<4s4H2IH", data[at:])
    end = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    tail = struct.pack("<4s4H2IH", END, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)

    assert (await unpack(data)).tree == {"a": b"x" * 10}
    assert (await unpack(data[:at] + end + locator + tail)).tree == {"a": b"x" * 10}
    alone = struct.pack("<4s4H2IH", END, 0, 0, count, count, length, start, 0)
    assert (await unpack(data[:at] + end + locator + alone)).tree == {"a": b"x" * 10}
    lost = locator[:8] + struct.pack("<Q", at + 1) + locator[16:]
    assert (await unpack(data[:at] + end + lost + tail)).error.code is Code.ABORTED


async def test_a_zip64_end_that_says_something_else_is_refused() -> None:
    at = TWO.rindex(END)
    _, _, _, _, count, length, start, _ = struct.unpack("<4s4H2IH", TWO[at:])
    one = TWO.rindex(CENTRAL) - start
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)

    def end(*numbers: int, size: int = 44) -> bytes:
        return struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", size, 45, 45, 0, 0, *numbers)

    same = end(count, count, length, start)
    assert (await unpack(TWO[:at] + same + locator + TWO[at:])).tree == (await unpack(TWO)).tree
    for tail in (
        end(1, 1, one, start) + locator,
        same + b"between" + locator,
        end(count, count, length, start, size=45) + locator,
        same + locator[:16] + b"\x02\0\0\0",
    ):
        error = (await unpack(TWO[:at] + tail + TWO[at:])).error
        assert error.code is Code.ABORTED
        assert "directory's end" in error.message


async def test_entries_that_its_end_does_not_count_are_refused() -> None:
    error = (await unpack(patched(TWO, END, 8, b"\x01\0\x01\0"))).error

    assert error.code is Code.ABORTED
    assert "more than the 1 entries" in error.message


async def test_nothing_lies_between_the_directory_and_its_end() -> None:
    at = TWO.rindex(END)

    error = (await unpack(TWO[:at] + b"between" + TWO[at:])).error

    assert error.code is Code.ABORTED
    assert "does not end where" in error.message


async def test_large_fields_of_an_entry_are_looked_up_in_their_order() -> None:
    data = zipped(Entry("a", b"x" * 10), method=zipfile.ZIP_STORED)
    extra = struct.pack("<2H3Q", 1, 24, 10, 10, 0)
    at = data.index(CENTRAL)
    entry = bytearray(data[at : data.index(END)])
    entry[20:28] = b"\xff" * 8
    entry[30:32] = struct.pack("<H", len(extra))
    entry[42:46] = b"\xff" * 4
    end = bytearray(data[data.index(END) :])
    end[12:16] = struct.pack("<I", len(entry) + len(extra))

    assert (await unpack(data[:at] + bytes(entry) + extra + bytes(end))).tree == {"a": b"x" * 10}


async def test_a_comment_may_look_like_an_end() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", b"x")
        archive.comment = END + b"\x01" * 20

    assert (await unpack(out.getvalue())).tree == {"a": b"x"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (TWO[:-1], "no directory at its end"),
        (TWO[:100], "no directory at its end"),
        (TWO + b"x", "no directory at its end"),
        (patched(TWO, END, 4, b"\x01"), "several files"),
        (patched(TWO, END, 8, b"\x01\0"), "several files"),
        (patched(TWO, END, 8, b"\x03\0\x03\0"), "cut off"),
        (patched(TWO, END, 12, b"\xff\xff"), "cut off"),
        (patched(TWO, END, 16, b"\x01"), "does not end where"),
        (patched(TWO, CENTRAL, 0, b"PKxx"), "damaged"),
        (patched(TWO, CENTRAL, 28, b"\xff\xff"), "damaged"),
        (patched(TWO, CENTRAL, 8, b"\x01"), "encrypted"),
        (patched(TWO, CENTRAL, 10, b"\x63"), "method 99"),
        (patched(TWO, CENTRAL, 16, b"\0\0\0\0"), "damaged"),
        (patched(TWO, CENTRAL, 24, b"\x01\0"), "damaged"),
        (patched(TWO, CENTRAL, 24, b"\xff\xff"), "damaged"),
        (patched(TWO, CENTRAL, 20, b"\x03"), "damaged"),
        (patched(TWO, CENTRAL, 46, b"c"), "another header"),
        (patched(TWO, LOCAL, 30, b"c"), "another header"),
        (patched(TWO, CENTRAL, 42, b"\x01"), "another header"),
        (patched(TWO, CENTRAL, 42, b"\xff\xff\0\0"), "behind the last one"),
        (patched(TWO, CENTRAL, 20, b"\xff\xff", last=True), "behind the last one"),
        (patched(TWO, CENTRAL, 38, b"\0\0\xff\x11"), "has the mode"),
        (zipped(link("l", "x" * 5000)), "leads to 5000 bytes"),
    ],
)
async def test_what_is_damaged_or_cannot_be_read_is_refused(data: bytes, said: str) -> None:
    error = (await unpack(data)).error

    assert error.code is Code.ABORTED
    assert said in error.message


@pytest.mark.filterwarnings("ignore:Duplicate name")
async def test_entries_that_share_their_contents_are_refused() -> None:
    # Both begin at the same place: with thousands, a small file unpacks to petabytes.
    data = patched(zipped(Entry("a", b"x"), Entry("a", b"x")), CENTRAL, 42, b"\0\0\0\0", last=True)

    error = (await unpack(data)).error

    assert error.code is Code.ABORTED
    assert "lies within another" in error.message


async def test_a_bomb_is_refused_before_anything_is_unpacked() -> None:
    bomb = patched(zipped(Entry("zeros", b"0")), CENTRAL, 24, (70_000_000).to_bytes(4, "little"))

    unpacked = await unpack(bomb, ArchiveLimits(10**12, 10))

    assert unpacked.error.code is Code.RESOURCE_EXHAUSTED
    assert "250 times as much" in unpacked.error.message
    assert len(unpacked.cas.blobs) == 1


async def test_more_entries_than_allowed_are_not_even_looked_at() -> None:
    error = (await unpack(patched(TWO, END, 8, b"\xfe\xff\xfe\xff"))).error

    assert error.code is Code.RESOURCE_EXHAUSTED
    assert "65534 entries" in error.message
