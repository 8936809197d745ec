"""What MemoryStore does beyond the store contract."""

from __future__ import annotations

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSource, Chunk
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.memory import MemoryStore
from nativelink.testing.fakes import FakeClock, PiecesSource

KEY = DigestFunction.SHA256.digest_of(b"key")


class Pieces:
    """A sink that keeps the very objects it gets."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    async def write(self, chunk: Chunk, /) -> None:
        self.chunks.append(chunk)


def make(**limits: int) -> MemoryStore:
    return MemoryStore(eviction=EvictionPolicy(**limits), clock=FakeClock())


async def test_a_hit_writes_the_stored_object_itself_and_a_range_is_a_view_of_it() -> None:
    store = make()
    value = b"some value"
    await store.put(KEY, BytesSource(value))
    whole, part = Pieces(), Pieces()
    await store.get(KEY, whole)
    await store.get(KEY, part, offset=5, limit=3)
    assert whole.chunks[0] is value
    (view,) = part.chunks
    assert isinstance(view, memoryview)
    assert view.obj is value
    assert bytes(view) == b"val"


async def test_a_view_is_copied_so_that_it_does_not_keep_its_buffer_alive() -> None:
    store = make()
    buffer = bytearray(b"head value tail")
    await store.put(KEY, BytesSource(memoryview(buffer)[5:10]))
    buffer[5:10] = b"other"
    sink = Pieces()
    await store.get(KEY, sink)
    assert sink.chunks == [b"value"]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_value_that_reaches_max_bytes_is_read_and_dropped(announced: bool) -> None:
    store = make(max_bytes=100)
    gone: list[object] = []
    store.on_removed(gone.append)
    other = Digest("0" * 64, 5)
    await store.put(other, BytesSource(b"other"))
    await store.put(KEY, BytesSource(b"an older value"))
    source = PiecesSource.split(bytes(250), 30, announced=announced)
    assert await store.put(KEY, source) == 250
    assert await source.read() == b""
    assert await store.has([KEY, other]) == [None, 5]
    assert gone == [KEY]
    assert await store.put("text", PiecesSource.split(bytes(100), 30, announced=announced)) == 100
    assert gone == [KEY, "text"]


async def test_a_value_of_one_byte_less_than_max_bytes_is_kept() -> None:
    store = make(max_bytes=100)
    await store.put(KEY, PiecesSource.split(bytes(99), 30))
    assert await store.has([KEY]) == [99]


async def test_the_removal_feed_names_what_was_evicted() -> None:
    store = make(max_count=2)
    gone: list[object] = []
    store.on_removed(gone.append)
    for name in ("a", "b", "c"):
        await store.put(name, BytesSource(b"x"))
    await store.has(["b"])
    await store.put("d", BytesSource(b"x"))
    assert gone == ["a", "c"]
    assert store.statistics().evicted_count == 2


async def test_age_is_measured_from_the_last_use() -> None:
    clock = FakeClock()
    store = MemoryStore(eviction=EvictionPolicy(max_seconds=10), clock=clock)
    await store.put("a", BytesSource(b"x"))
    await store.put("b", BytesSource(b"x"))
    clock.advance(6)
    assert await store.has(["a"]) == [1]
    clock.advance(6)
    assert await store.has(["a", "b"]) == [1, None]


async def test_reading_beyond_the_end_is_out_of_range_and_names_the_key() -> None:
    store = make()
    await store.put(KEY, BytesSource(b"abc"))
    with pytest.raises(NativeLinkError, match=KEY.hash) as caught:
        await store.get(KEY, Pieces(), offset=4)
    assert caught.value.code is Code.OUT_OF_RANGE
