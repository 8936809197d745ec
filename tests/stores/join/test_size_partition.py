"""Small blobs to one store, large ones to the other."""

import pytest

from nativelink.core.digest import Digest
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSink, BytesSource
from nativelink.stores.join.size_partition import SizePartitioningStore
from nativelink.testing.fakes import DictStore
from nativelink.testing.faults import FaultyStore

BELOW, AT, ABOVE = (Digest(f"{n:064x}", size) for n, size in enumerate((65_535, 65_536, 65_537)))


class Pair:
    def __init__(self) -> None:
        self.lower = FaultyStore(DictStore())
        self.upper = FaultyStore(DictStore())
        self.store = SizePartitioningStore(self.lower, self.upper, size=65_536)


async def test_the_size_itself_belongs_to_the_upper_store():
    lower, upper = DictStore(), DictStore()
    store = SizePartitioningStore(lower, upper, size=65_536)
    for key in (BELOW, AT, ABOVE):
        await store.put(key, BytesSource(bytes(key.size_bytes)))
        sink = BytesSink()
        await store.get(key, sink)
        assert sink.size == key.size_bytes
    assert set(lower.blobs) == {BELOW}
    assert set(upper.blobs) == {AT, ABOVE}
    assert await store.has([ABOVE, BELOW, AT, BELOW]) == [65_537, 65_535, 65_536, 65_535]


@pytest.mark.parametrize(
    ("keys", "asked"), [([BELOW], (1, 0)), ([AT, ABOVE], (0, 1)), ([AT, BELOW], (1, 1))]
)
async def test_only_the_stores_concerned_are_asked(keys: list[Digest], asked: tuple[int, int]):
    pair = Pair()
    assert await pair.store.has(keys) == [None] * len(keys)
    assert (pair.lower.calls["has"], pair.upper.calls["has"]) == asked


async def test_a_store_that_is_down_fails_only_its_own_blobs():
    pair = Pair()
    pair.upper.go_down()
    assert await pair.store.has([BELOW]) == [None]
    with pytest.raises(NativeLinkError) as caught:
        await pair.store.has([BELOW, AT])
    assert caught.value.code is Code.UNAVAILABLE


async def test_a_string_key_has_no_size():
    pair = Pair()
    for work in (
        pair.store.has([BELOW, "name"]),
        pair.store.get("name", BytesSink()),
        pair.store.put("name", BytesSource(b"x")),
    ):
        with pytest.raises(NativeLinkError, match="'name'") as caught:
            await work
        assert caught.value.code is Code.INVALID_ARGUMENT
