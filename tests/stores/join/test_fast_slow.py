"""Two sides: what each is asked for, and who keeps what."""

import gc

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSource, NullSink
from nativelink.stores.join.fast_slow import StoreDirection
from tests.stores.join.two_sides import SIZES, SMALL, Pair, blob, code_of


@pytest.mark.parametrize("size", SIZES)
async def test_a_put_goes_to_both_sides(size: int):
    pair, (key, data) = Pair(), blob(size)
    await pair.store.put(key, BytesSource(data))
    assert pair.fast_blobs.blobs == pair.slow_blobs.blobs == {key: data}


@pytest.mark.parametrize("size", SIZES)
async def test_what_the_fast_side_has_does_not_touch_the_slow_one(size: int):
    pair, (key, data) = Pair(), blob(size)
    pair.fast_blobs.blobs[key] = data
    assert await pair.read(key) == data
    assert await pair.read(key, offset=10, limit=100) == data[10:110]
    assert not pair.slow.calls


@pytest.mark.parametrize("size", SIZES)
async def test_a_cold_read_fills_the_fast_side(size: int):
    pair, (key, data) = Pair(), blob(size)
    pair.slow_blobs.blobs[key] = data
    assert await pair.read(key) == data
    assert pair.fast_blobs.blobs == {key: data}
    pair.forget()
    assert await pair.read(key) == data
    assert not pair.slow.calls


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("offset", "limit"), [(0, 10), (10, None), (10, 100), (0, 10**9)])
async def test_a_ranged_read_fills_nothing(size: int, offset: int, limit: int | None):
    pair, (key, data) = Pair(), blob(size)
    pair.slow_blobs.blobs[key] = data
    expected = data[offset:] if limit is None else data[offset : offset + limit]
    assert await pair.read(key, offset=offset, limit=limit) == expected
    assert pair.fast_blobs.blobs == {}
    assert not pair.fast.calls["put"]


async def test_has_asks_the_slow_side_alone():
    """What only the fast side holds is absent: everyone else could not read it."""
    pair, (key, data), (lost, _) = Pair(), blob(10), blob(20)
    pair.slow_blobs.blobs[key] = data
    pair.fast_blobs.blobs[lost] = b"x" * 20
    assert await pair.store.has([key, lost]) == [10, None]
    assert not pair.fast.calls


async def test_has_asks_both_if_the_slow_side_takes_no_uploads():
    pair = Pair(slow_direction=StoreDirection.READ_ONLY)
    (here, a), (there, b), (nowhere, _) = blob(10), blob(20), blob(30)
    await pair.store.put(here, BytesSource(a))
    pair.slow_blobs.blobs[there] = b
    assert await pair.store.has([there, nowhere, here]) == [20, None, 10]
    assert pair.slow_blobs.blobs == {there: b}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("direction", "keeps_puts", "keeps_gets"),
    [
        (StoreDirection.BOTH, True, True),
        (StoreDirection.UPDATE, True, False),
        (StoreDirection.GET, False, True),
        (StoreDirection.READ_ONLY, False, False),
    ],
)
async def test_the_fast_direction_says_what_is_kept(
    size: int, direction: StoreDirection, keeps_puts: bool, keeps_gets: bool
):
    pair = Pair(fast_direction=direction)
    (put, a), (got, b) = blob(size, 1), blob(size, 2)
    await pair.store.put(put, BytesSource(a))
    pair.slow_blobs.blobs[got] = b
    assert await pair.read(got) == b
    assert (put in pair.fast_blobs.blobs, got in pair.fast_blobs.blobs) == (keeps_puts, keeps_gets)
    assert put in pair.slow_blobs.blobs


@pytest.mark.parametrize("direction", [StoreDirection.GET, StoreDirection.READ_ONLY])
async def test_a_put_that_nobody_keeps_is_refused(direction: StoreDirection):
    pair = Pair(fast_direction=direction, slow_direction=direction)
    key, data = blob(10)
    with pytest.raises(NativeLinkError, match="neither side") as caught:
        await pair.store.put(key, BytesSource(data))
    assert caught.value.code is Code.PERMISSION_DENIED


async def test_blobs_from_the_threshold_on_bypass_the_fast_side():
    pair = Pair(bypass_dedup_threshold_bytes=200_000)
    (below, a), (at, b) = blob(199_999), blob(200_000)
    pair.slow_blobs.blobs |= {below: a, at: b}
    assert await pair.read(below) == a
    assert await pair.read(at) == b
    assert set(pair.fast_blobs.blobs) == {below}


async def test_a_missing_blob_is_not_found_and_leaves_no_flight():
    pair = Pair()
    for size in SIZES:
        key, _ = blob(size)
        with pytest.raises(NativeLinkError) as caught:
            await pair.read(key)
        assert caught.value.code is Code.NOT_FOUND
    assert pair.store.statistics().flights == 0
    assert pair.fast.calls["put"] == 0


async def test_a_miss_leaves_nothing_to_the_garbage_collector():
    pair = Pair()
    key, _ = blob(SMALL)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(10):
            assert await code_of(pair.store.get(key, NullSink())) is Code.NOT_FOUND
        gc.collect()
        # Threads of other tests may leave something else.
        assert not [each for each in gc.garbage if isinstance(each, NativeLinkError)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
