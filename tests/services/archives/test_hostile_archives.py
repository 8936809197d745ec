"""Any bytes either become a directory or are refused in one way."""

from __future__ import annotations

import gzip
import io
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.archives.contents import Entries
from nativelink.services.archives.limits import ArchiveLimits
from nativelink.services.archives.packing import Packed
from nativelink.services.archives.tar import read_tar
from nativelink.services.archives.tree import Tree
from nativelink.services.archives.zip import read_zip
from tests.services.archives.making import SHA256, Entry, folder, link, pax, tar, zipped

ENTRIES = (folder("d"), Entry("d/a", b"x" * 600), link("l", "d/a"), Entry("n" * 120, b"y"))
TAR, ZIP = tar(*ENTRIES), zipped(*ENTRIES)
LIMITS = ArchiveLimits(1_000_000, 20)
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=4)


def changed(data: bytes, changes: list[tuple[float, bytes]], kept: float) -> bytes:
    """`data` with other bytes at some places, and without its end."""
    out = bytearray(data)
    for place, value in changes:
        at = int(place * len(out))
        out[at : at + len(value)] = value
    return bytes(out[: int(kept * len(out)) + 1])


def outcome(data: bytes, *, is_zip: bool) -> Code:
    """What becomes of an archive."""
    tree = Tree(LIMITS.max_entries)
    entries = Entries(tree, SHA256, None)
    file = io.BytesIO(data)
    try:
        if is_zip:
            list(read_zip(file, len(data), entries, LIMITS))
        else:
            list(read_tar(Packed(file, LIMITS.max_bytes), entries))
        list(tree.require_confined())
        assert list(tree.directories(SHA256))
    except NativeLinkError as error:
        return error.code
    finally:
        entries.close()
    return Code.OK


def test_what_says_that_a_file_is_sparse_is_not_kept() -> None:
    """Of an archive without a single entry, nothing stays in memory."""
    names = (b"GNU.sparse.%05d%s=" % (number, b"x" * 60_000) for number in range(100))
    archive = b"".join(pax(name, kind=b"g") for name in names)
    entries = Entries(Tree(LIMITS.max_entries), SHA256, None)
    reading = read_tar(Packed(io.BytesIO(archive), 2 * len(archive)), entries)
    tracemalloc.start()
    try:
        held = [tracemalloc.get_traced_memory()[0] for _ in reading]
    finally:
        tracemalloc.stop()
    assert len(held) == 100
    # One header, its records, and what is unpacked at a time.
    assert max(held) < 1_000_000


ALLOWED = {Code.OK, Code.ABORTED, Code.RESOURCE_EXHAUSTED}


@pytest.mark.slow
@given(CHANGES, st.floats(0, 1))
def test_any_tar_unpacks_or_is_refused(changes: list[tuple[float, bytes]], kept: float) -> None:
    assert outcome(changed(TAR, changes, kept), is_zip=False) in ALLOWED


@pytest.mark.slow
@given(CHANGES, st.floats(0, 1))
def test_any_zip_unpacks_or_is_refused(changes: list[tuple[float, bytes]], kept: float) -> None:
    assert outcome(changed(ZIP, changes, kept), is_zip=True) in ALLOWED


@pytest.mark.slow
@given(CHANGES, st.floats(0, 1))
def test_any_packed_tar_unpacks_or_is_refused(
    changes: list[tuple[float, bytes]], kept: float
) -> None:
    packed = gzip.compress(TAR, mtime=0)
    assert outcome(changed(packed, changes, kept), is_zip=False) in ALLOWED
