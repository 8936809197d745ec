"""What dedup keeps, and what it does when a part of that is lost."""

from __future__ import annotations

import random

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, MissingBlob, NativeLinkError
from nativelink.core.streams import BytesSink
from nativelink.stores.join.chunker import Chunker
from nativelink.stores.join.dedup import DedupStore
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import DictStore

DATA = random.Random(1).randbytes(200_000)
KEY = DigestFunction.SHA256.digest_of(DATA)


class Parts:
    """A dedup store and what it is made of."""

    def __init__(self) -> None:
        self.index, self.content = DictStore(), DictStore()
        self.reports: list[tuple[int, int]] = []
        self.store = DedupStore(
            self.index,
            self.content,
            chunker=Chunker(min_size=1000, normal_size=4000, max_size=16_000),
            max_concurrent=4,
            report=lambda *sizes: self.reports.append(sizes),
        )


async def test_a_changed_blob_shares_all_chunks_but_those_around_the_change() -> None:
    parts = Parts()
    await write_bytes(parts.store, KEY, DATA)
    changed = DATA[:100_000] + b"a few bytes more" + DATA[100_000:]
    await write_bytes(parts.store, DigestFunction.SHA256.digest_of(changed), changed)
    first, second = parts.reports
    assert first == (len(DATA), len(DATA))
    assert second[0] == len(changed)
    assert second[1] < 48_000
    assert set(map(type, parts.content.blobs)) == {Digest}


async def test_a_blob_of_equal_chunks_keeps_one() -> None:
    parts = Parts()
    await write_bytes(parts.store, "zeros", bytes(160_000))
    assert parts.reports == [(160_000, 16_000)]
    assert await read_bytes(parts.store, "zeros") == bytes(160_000)


async def test_a_blob_of_which_a_chunk_is_lost_is_absent_and_can_be_put_again() -> None:
    parts = Parts()
    await write_bytes(parts.store, KEY, DATA)
    await write_bytes(parts.store, "other", DATA[:500])
    del parts.content.blobs[next(iter(parts.content.blobs))]
    assert await parts.store.has([KEY, "other", KEY]) == [None, 500, None]
    sink = BytesSink()
    with pytest.raises(NativeLinkError) as caught:
        await parts.store.get(KEY, sink)
    assert caught.value.code is Code.NOT_FOUND
    assert caught.value.details == (MissingBlob(KEY),)
    assert sink.size == 0
    await write_bytes(parts.store, KEY, DATA)
    assert await read_bytes(parts.store, KEY) == DATA


@pytest.mark.parametrize(
    "value", [b"", b"short", (2).to_bytes(8, "little") + bytes(40), bytes(7), bytes([1] + [0] * 47)]
)
async def test_a_list_that_is_none_counts_as_absent(value: bytes) -> None:
    parts = Parts()
    parts.index.blobs[KEY] = value
    assert await parts.store.has([KEY]) == [None]
    with pytest.raises(NativeLinkError) as caught:
        await read_bytes(parts.store, KEY)
    assert caught.value.code is Code.NOT_FOUND


async def test_a_chunk_that_is_not_as_long_as_its_name_says_is_data_loss() -> None:
    parts = Parts()
    await write_bytes(parts.store, KEY, DATA)
    first = next(iter(parts.content.blobs))
    parts.content.blobs[first] = parts.content.blobs[first][:-1]
    with pytest.raises(NativeLinkError) as caught:
        await read_bytes(parts.store, KEY)
    assert caught.value.code is Code.DATA_LOSS


async def test_a_ranged_read_fetches_only_the_chunks_that_it_needs() -> None:
    parts = Parts()
    await write_bytes(parts.store, KEY, DATA)
    kept = dict(parts.content.blobs)
    for key in kept:
        if DATA.find(kept[key]) > 60_000:
            del parts.content.blobs[key]
    assert await read_bytes(parts.store, KEY, offset=10_000, limit=30_000) == DATA[10_000:40_000]
