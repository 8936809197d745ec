"""Tar as odd and hostile programs write it."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable

import pytest

from nativelink.core.errors import Code
from tests.services.archives.making import Entry, header, padded, pax, tar, unpack

END = bytes(1024)


def gnu_name(name: bytes, kind: bytes = b"L") -> bytes:
    return header(b"././@LongLink", kind=kind, size=b"%o" % (len(name) + 1)) + padded(name + b"\0")


async def test_names_have_a_prefix_in_ustar_alone() -> None:
    ustar = header(b"x", prefix=b"a/b")
    gnu = header(b"y", prefix=b"1234", magic=b"ustar  \0")

    assert (await unpack(ustar + gnu + END)).tree == {"a": {"b": {"x": b""}}, "y": b""}


async def test_what_has_no_magic_is_read_as_before_there_was_one() -> None:
    folder = header(b"d/", kind=b"\0", magic=b"", size=b"2") + padded(b"??")
    file = header(b"f", kind=b"\0", magic=b"", size=b"1") + padded(b"x")

    assert (await unpack(folder + file + END)).tree == {"d": {}, "f": b"x"}


async def test_extended_headers_count_for_the_next_entry_alone() -> None:
    data = (
        pax(b"path=a/b", b"size=2", b"mtime=1.5", "comment=ü".encode())
        + header(b"short")
        + padded(b"xy")
        + header(b"c")
        + END
    )

    assert (await unpack(data)).tree == {"a": {"b": b"xy"}, "c": b""}


async def test_global_headers_count_for_all_until_they_are_taken_back() -> None:
    data = (
        pax(b"comment=0123456789", b"linkpath=to", kind=b"g")
        + header(b"a", kind=b"2", link=b"x")
        + pax(b"linkpath=")
        + header(b"b", kind=b"2", link=b"x")
        + END
    )

    assert (await unpack(data)).tree == {"a": "to", "b": "x"}


async def test_gnu_long_names_and_targets() -> None:
    data = (
        gnu_name(b"n" * 200)
        + gnu_name(b"t/" * 100 + b"t", b"K")
        + header(b"short", kind=b"2", magic=b"ustar  \0")
        + END
    )

    assert (await unpack(data)).tree == {"n" * 200: "t/" * 100 + "t"}


async def test_a_size_may_be_binary() -> None:
    data = header(b"f", size=b"\x80" + (2).to_bytes(11, "big")) + padded(b"xy") + END

    assert (await unpack(data)).tree == {"f": b"xy"}


async def test_labels_are_passed_over() -> None:
    assert (await unpack(header(b"label", kind=b"V") + header(b"f") + END)).tree == {"f": b""}


async def test_signed_checksums_are_taken() -> None:
    block = bytearray(header("é".encode()))
    block[148:156] = b" " * 8
    total = sum(byte - 256 if byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total

    assert (await unpack(bytes(block) + END)).tree == {"é": b""}


@pytest.mark.parametrize("end", [b"", END[:512], END, END * 20, END[:700]])
async def test_the_end_mark_may_be_missing_short_or_long(end: bytes) -> None:
    one = header(b"f")

    assert (await unpack(one + end)).root == (await unpack(one + END)).root


@pytest.mark.parametrize("mark", [END[:512], END, END * 1000])
@pytest.mark.parametrize("packing", [bytes, gzip.compress], ids=["plain", "gzip"])
async def test_what_follows_the_end_mark_is_not_lost(
    mark: bytes, packing: Callable[[bytes], bytes]
) -> None:
    error = (await unpack(packing(header(b"a") + mark + header(b"b") + END))).error

    assert error.code is Code.ABORTED
    assert "behind its end mark" in error.message


@pytest.mark.parametrize("zeros", [512, 1024, 32 * 1024])
async def test_what_begins_with_zeros_and_goes_on_is_no_tar(zeros: int) -> None:
    # Images of disks do.
    error = (await unpack(bytes(zeros) + b"\x01CD001\x01" + bytes(4096))).error

    assert error.code is Code.ABORTED
    assert error.message == "it is neither a tar nor a zip"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (header(b"dev", kind=b"3"), "a device"),
        (header(b"dev", kind=b"4"), "a device"),
        (header(b"fifo", kind=b"6"), "a pipe"),
        (header(b"sparse", kind=b"S"), "a sparse file"),
        (pax(b"GNU.sparse.major=1") + header(b"f"), "a sparse file"),
        (header(b"f", kind=b"Z"), "of type b'Z'"),
        (header(b"\xff"), "not in UTF-8"),
        (header(b"l", kind=b"2", link=b"\xff"), "not in UTF-8"),
        (header(b"l", kind=b"2"), "no path"),
        (header(b"f", size=b"\xff" * 12), "no number"),
        (header(b"f", size=b"9"), "no number"),
        (header(b"f", size=b"0x10"), "no number"),
        (header(b"f", mode=b"rwx"), "no number"),
        (header(b"ok") + b"damaged" + bytes(505), "damaged"),
        (header(b"ok") + header(b"cut")[:100], "ends in the middle"),
        (header(b"f", size=b"1000") + b"few", "ends in the middle"),
        (header(b"f", size=b"3") + b"few", "ends in the middle"),
        (header(b"x", kind=b"x", size=b"1000") + b"few", "ends in the middle"),
        (header(b"x", kind=b"x", size=b"4000001"), "1048577 bytes"),
        (header(b"L", kind=b"L", size=b"77777777777"), "8589934591 bytes"),
        (header(b"x", kind=b"x", size=b"5") + padded(b"hello"), "damaged"),
        (header(b"x", kind=b"x", size=b"3") + padded(b"9 a"), "damaged"),
        (header(b"x", kind=b"x", size=b"4") + padded(b"4 a\n"), "damaged"),
        (header(b"x", kind=b"x", size=b"2") + padded(b"0 "), "damaged"),
        (pax(b"size=-1") + header(b"f"), "size b'-1'"),
        (pax(b"size=" + b"9" * 30) + header(b"f"), "has the size"),
        (pax(*[b"a="] * 1001) + header(b"f"), "more than 1000 records"),
        (pax(b"path=/etc/x") + header(b"f"), "absolute"),
        (pax(b"path=a\0b") + header(b"f"), "NUL"),
    ],
)  # fmt: skip
async def test_what_no_directory_can_hold_is_refused(data: bytes, said: str) -> None:
    error = (await unpack(data + END if said != "ends in the middle" else data)).error

    assert error.code is Code.ABORTED
    assert said in error.message


async def test_only_the_owners_permission_to_execute_counts() -> None:
    modes = {"rwx": 0o700, "group": 0o010, "set": 0o4644, "all": 0o777}
    archive = tar(*(Entry(name, b"x", mode) for name, mode in modes.items()))

    assert (await unpack(archive)).tree == {
        "rwx": (b"x",),
        "group": b"x",
        "set": b"x",
        "all": (b"x",),
    }


async def test_neither_times_nor_owners_make_a_difference() -> None:
    def made(**fields: object) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            info = tarfile.TarInfo("f")
            for name, value in fields.items():
                setattr(info, name, value)
            archive.addfile(info)
        return out.getvalue()

    first = await unpack(made(mtime=1, uid=0, uname="root"))

    assert (await unpack(made(mtime=2.5, uid=7, gname="staff"))).root == first.root
