"""What a PUT brings, however it is cut into pieces."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.rpc import HttpRequest, Peer
from nativelink.core.streams import Chunk, Source
from nativelink.services.http.bodies import LimitedBody, measured, plain_body
from nativelink.services.http.refusal import RefusedError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    import backports.zstd as zstd


class Pieces:
    """A source of unknown length."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.size: int | None = None
        self._pieces = list(pieces)

    async def read(self) -> Chunk:
        return self._pieces.pop(0) if self._pieces else b""


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in pairwise(places)]


async def all_of(source: Source) -> bytes:
    data = b""
    while chunk := await source.read():
        data += chunk
    assert await source.read() == b""
    return data


def unpacked(source: Source) -> Source:
    request = HttpRequest("PUT", "/", "", [(b"content-encoding", b"zstd")], b"", Peer(""))
    return plain_body(request, source)


@pytest.mark.slow
@given(
    st.lists(st.binary(max_size=3000), max_size=5),
    st.lists(st.integers(min_value=0, max_value=10_000), max_size=6),
)
def test_a_zstd_body_is_what_was_packed(frames: list[bytes], at: list[int]) -> None:
    packed = b"".join(map(zstd.compress, frames))
    assert asyncio.run(all_of(unpacked(Pieces(cut(packed, at))))) == b"".join(frames)


@pytest.mark.slow
@given(st.binary(min_size=1, max_size=3000), st.data())
def test_a_zstd_body_that_breaks_off_never_passes_for_whole(
    plain: bytes, data: st.DataObject
) -> None:
    packed = zstd.compress(plain)
    length = data.draw(st.integers(min_value=1, max_value=len(packed) - 1))
    with pytest.raises(NativeLinkError) as raised:
        asyncio.run(all_of(unpacked(Pieces([packed[:length]]))))
    assert raised.value.code is Code.INVALID_ARGUMENT


async def test_a_bomb_comes_in_pieces() -> None:
    source = unpacked(Pieces([zstd.compress(bytes(50_000_000))]))
    size = 0
    while chunk := await source.read():
        size += len(chunk)
        assert len(chunk) <= 1024 * 1024
    assert size == 50_000_000


async def test_a_window_beyond_what_decoders_must_have_is_refused() -> None:
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    compressor = zstd.ZstdCompressor(options=options)
    packed = compressor.compress(b"x" * 1000) + compressor.flush()
    with pytest.raises(NativeLinkError, match="no zstd"):
        await all_of(unpacked(Pieces([packed])))


async def test_a_limit_is_a_limit() -> None:
    assert await all_of(LimitedBody(Pieces([b"ab", b"c"]), 3)) == b"abc"
    with pytest.raises(RefusedError):
        await all_of(LimitedBody(Pieces([b"ab", b"cd"]), 3))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
async def test_a_body_of_unknown_length_is_measured(count: int) -> None:
    pieces = [bytes([number]) * 65_536 for number in range(count)]
    async with measured(Pieces(pieces)) as known:
        assert known.size == count * 65_536
        assert await all_of(known) == b"".join(pieces)


async def test_a_temporary_folder_that_is_full_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> IO[bytes]:
        return Path("/dev/full").open("r+b", buffering=0)

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(NativeLinkError, match="Content-Length") as raised:
        async with measured(Pieces([bytes(4 * 1024 * 1024)])):
            pass
    assert raised.value.code is Code.RESOURCE_EXHAUSTED
