"""What a tar is packed in, damaged or made to harm."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import zlib
from collections.abc import Callable

import pytest

from nativelink.core.errors import Code
from nativelink.services.archives import limits
from nativelink.services.archives.limits import ArchiveLimits
from tests.services.archives.making import Entry, header, tar, unpack

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    import backports.zstd as zstd

Pack = Callable[[bytes], bytes]
ALL = pytest.mark.parametrize(
    "pack",
    [gzip.compress, bz2.compress, lzma.compress, zstd.compress],
    ids=["gzip", "bzip2", "xz", "zstd"],
)
ARCHIVE = tar(Entry("a", b"contents " * 20_000), Entry("b", b"x"))


@ALL
class TestDamage:
    async def test_what_is_cut_off_is_refused(self, pack: Pack) -> None:
        packed = pack(ARCHIVE)

        for length in (len(packed) // 2, len(packed) - 1):
            error = (await unpack(packed[:length])).error
            assert error.code is Code.ABORTED
            assert "cut off" in error.message

    async def test_what_is_changed_is_refused(self, pack: Pack) -> None:
        packed = bytearray(pack(ARCHIVE))
        packed[len(packed) // 2] ^= 0xFF

        error = (await unpack(bytes(packed))).error

        assert error.code is Code.ABORTED

    async def test_what_is_no_tar_is_refused(self, pack: Pack) -> None:
        error = (await unpack(pack(b"text" * 1000))).error

        assert error.code is Code.ABORTED
        assert error.message.endswith("holds is no tar")

    async def test_streams_that_follow_each_other_are_one(self, pack: Pack) -> None:
        packed = pack(ARCHIVE[:700]) + pack(b"") + pack(ARCHIVE[700:])

        assert (await unpack(packed)).root == (await unpack(ARCHIVE)).root

    async def test_zeros_behind_the_end_are_padding(self, pack: Pack) -> None:
        packed = pack(ARCHIVE) + bytes(20_000)

        assert (await unpack(packed)).root == (await unpack(ARCHIVE)).root

    async def test_anything_else_there_is_damage(self, pack: Pack) -> None:
        assert (await unpack(pack(ARCHIVE) + b"garbage")).error.code is Code.ABORTED

    async def test_many_empty_streams_are_given_up(self, pack: Pack) -> None:
        error = (await unpack(pack(ARCHIVE[:512]) + pack(b"") * 200)).error

        assert error.code is Code.ABORTED
        assert "streams with 512 bytes" in error.message

    async def test_a_bomb_is_given_up_by_its_size(self, pack: Pack) -> None:
        bomb = pack(header(b"zeros", size=b"77777777777") + bytes(1_500_000))

        error = (await unpack(bomb, ArchiveLimits(1_000_000, 10))).error

        assert error.code is Code.RESOURCE_EXHAUSTED
        assert "more than 1000000 bytes" in error.message


async def test_a_bomb_is_given_up_by_what_becomes_of_how_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "_FREE_BYTES", 1_000_000)
    bomb = gzip.compress(header(b"zeros", size=b"77777777777") + bytes(5_000_000))

    error = (await unpack(bomb, ArchiveLimits(10**12, 10))).error

    assert error.code is Code.RESOURCE_EXHAUSTED
    assert "250 times as much is allowed" in error.message


async def test_frames_that_are_passed_over_may_come_first() -> None:
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"

    assert (await unpack(skipped + zstd.compress(ARCHIVE))).root == (await unpack(ARCHIVE)).root


async def test_xz_with_a_dictionary_beyond_all_measure_is_refused() -> None:
    packed = bytearray(lzma.compress(ARCHIVE))
    # The dictionary's size is one byte of the block's header, behind which is its CRC.
    size = packed[12]
    packed[12 + 4] = 38
    end = 12 + (size + 1) * 4
    packed[end - 4 : end] = zlib.crc32(packed[12 : end - 4]).to_bytes(4, "little")

    error = (await unpack(bytes(packed))).error

    assert error.code is Code.ABORTED
    assert "xz is damaged" in error.message
