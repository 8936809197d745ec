"""Archives of every kind make the same directory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code
from nativelink.services.archives.limits import ArchiveLimits
from tests.services.archives.making import SHA256, Entry, folder, link, tar, unpack, zipped

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    import backports.zstd as zstd

ENTRIES = (
    folder("pkg"),
    Entry("pkg/README", b"read me"),
    Entry("pkg/bin/run", b"#!/bin/sh\n", 0o755),
    Entry("pkg/" + "long" * 40 + "/é", b"x" * 700_000),
    Entry("pkg/empty", b""),
    folder("pkg/nothing"),
    link("pkg/latest", "./bin//run"),
    link("pkg/bin/up", "../README"),
)
TREE = {
    "pkg": {
        "README": b"read me",
        "bin": {"run": (b"#!/bin/sh\n",), "up": "../README"},
        "long" * 40: {"é": b"x" * 700_000},
        "empty": b"",
        "nothing": {},
        "latest": "bin/run",
    }
}

PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("format_", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
async def test_a_tar_becomes_a_directory(format_: int) -> None:
    assert (await unpack(tar(*ENTRIES, format_=format_))).tree == TREE


@pytest.mark.parametrize("packing", PACKINGS)
async def test_whatever_a_tar_is_packed_in_makes_no_difference(packing: str) -> None:
    archive = tar(*ENTRIES)

    packed = await unpack(PACKINGS[packing](archive))

    assert packed.root == (await unpack(archive)).root


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"]
)
async def test_a_zip_becomes_the_same_directory(method: int) -> None:
    assert (await unpack(zipped(*ENTRIES, method=method))).root == (
        await unpack(tar(*ENTRIES))
    ).root


async def test_the_order_of_entries_makes_no_difference() -> None:
    assert (await unpack(tar(*ENTRIES[::-1]))).root == (await unpack(tar(*ENTRIES))).root


async def test_digests_are_of_the_function_that_is_asked_for() -> None:
    blake = await unpack(tar(*ENTRIES), function=DigestFunction.BLAKE3)

    assert blake.tree == TREE
    assert blake.root == DigestFunction.BLAKE3.digest_of(blake.cas.blobs[blake.root])


@pytest.mark.parametrize("data", [b"", b"text", b"x" * 5_000, b"\x7fELF" + bytes(600)])
async def test_what_is_no_archive_is_refused(data: bytes) -> None:
    error = (await unpack(data)).error

    assert error.code is Code.ABORTED
    assert error.message == "it is neither a tar nor a zip"


async def test_an_archive_of_nothing_is_an_empty_directory() -> None:
    for archive in (tar(), zipped()):
        assert (await unpack(archive)).root == SHA256.digest_of(b"")


async def test_files_are_stored_before_the_directory_and_only_if_they_are_absent() -> None:
    first = await unpack(tar(*ENTRIES))
    stored = first.cas.blobs
    assert {SHA256.digest_of(b"read me"), SHA256.digest_of(b"x" * 700_000)} <= set(stored)
    # Nothing but the archive, four directories and three files: the empty blob is always there.
    assert len(stored) == 1 + 4 + 3


@pytest.mark.parametrize("archive", [tar, zipped], ids=["tar", "zip"])
class TestLimits:
    async def test_too_many_entries_are_refused(self, archive: Callable[..., bytes]) -> None:
        # Eight are named, and two directories only stand in paths.
        data = archive(*ENTRIES)
        assert (await unpack(data, ArchiveLimits(10_000_000, 10))).tree == TREE

        error = (await unpack(data, ArchiveLimits(10_000_000, 9))).error

        assert error.code is Code.RESOURCE_EXHAUSTED
        assert "more than 9 files and directories" in error.message

    async def test_too_many_bytes_are_refused(self, archive: Callable[..., bytes]) -> None:
        error = (await unpack(archive(*ENTRIES), ArchiveLimits(700_000, 100))).error

        assert error.code is Code.RESOURCE_EXHAUSTED
        assert "700000" in error.message


@pytest.fixture(params=["", "--format=v7", "--format=ustar", "--gzip"])
def written_by_tar(tmp_path: Path, request: pytest.FixtureRequest) -> bytes:
    """What the machine's own program makes of a directory."""
    if shutil.which("tar") is None:
        pytest.skip("there is no tar here")
    made = tmp_path / "made"
    (made / "bin").mkdir(parents=True)
    (made / "bin/run").write_bytes(b"run")
    (made / "bin/run").chmod(0o755)
    (made / "again").hardlink_to(made / "bin/run")
    (made / "to").symlink_to("bin/run")
    options = [request.param] if request.param else []
    command = ["tar", "--create", "--file=out", *options, "--directory=made", "."]
    subprocess.run(command, cwd=tmp_path, check=True)
    return (tmp_path / "out").read_bytes()


async def test_what_the_machines_tar_writes_is_read(written_by_tar: bytes) -> None:
    assert (await unpack(written_by_tar)).tree == {
        "again": (b"run",),
        "bin": {"run": (b"run",)},
        "to": "bin/run",
    }
