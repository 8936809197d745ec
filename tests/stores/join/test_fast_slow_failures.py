"""Two sides, of which one fails."""

import asyncio

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSink, BytesSource, NullSink
from nativelink.stores.join import fast_slow
from nativelink.stores.join.fast_slow import FastSlowStore, StoreDirection
from nativelink.testing.fakes import DictStore, PiecesSource, wait_until
from nativelink.testing.faults import FaultySink, Gate, injected
from tests.stores.join.two_sides import LARGE, SIZES, Pair, blob, code_of

# The fast side fails


@pytest.mark.parametrize("size", SIZES)
async def test_a_fast_side_that_is_down_fails_neither_reads_nor_writes(
    size: int, caplog: pytest.LogCaptureFixture
):
    pair, (key, data) = Pair(), blob(size)
    pair.fast.go_down()
    await pair.store.put(key, BytesSource(data))
    for _ in range(3):
        assert await pair.read(key) == data
        assert await pair.read(key, offset=5, limit=10) == data[5:15]
    assert await pair.store.has([key]) == [size]
    assert pair.store.statistics().fast_errors > 3
    assert len(caplog.records) == 1, "one report per interval"
    pair.clock.advance(61)
    await pair.store.put(key, BytesSource(data))
    assert len(caplog.records) == 2
    assert "(1 failures" not in caplog.records[1].getMessage()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fails_at", [1, 500, 100_000])
async def test_a_fast_side_that_breaks_in_the_middle_of_a_write_fails_nothing(
    size: int, fails_at: int
):
    pair, (key, data) = Pair(), blob(size)
    pair.fast.put_error, pair.fast.put_fails_at = injected(), fails_at
    assert await pair.store.put(key, PiecesSource.split(data, 7_000)) == size
    assert pair.slow_blobs.blobs == {key: data}
    assert await pair.read(key) == data


@pytest.mark.parametrize(("offset", "limit"), [(0, None), (1_000, None), (1_000, 200_000)])
async def test_a_read_that_breaks_in_the_middle_goes_on_from_the_slow_side(
    offset: int, limit: int | None
):
    pair, (key, data) = Pair(), blob(LARGE)
    await pair.store.put(key, BytesSource(data))
    pair.fast.get_error, pair.fast.get_fails_at = injected(), 120_000
    expected = data[offset:] if limit is None else data[offset : offset + limit]
    assert await pair.read(key, offset=offset, limit=limit) == expected
    assert pair.store.statistics().slow_read_bytes == len(expected) - 120_000


async def test_the_halves_of_two_values_are_never_put_together():
    """A string's value may have changed since the fast side began to give it."""
    pair = Pair()
    pair.fast_blobs.blobs["key"] = b"a" * 200_000
    pair.slow_blobs.blobs["key"] = b"b" * 200_000
    error = injected()
    pair.fast.get_error, pair.fast.get_fails_at = error, 120_000
    with pytest.raises(NativeLinkError) as caught:
        await pair.read("key")
    assert caught.value is error


async def test_a_bug_of_the_fast_side_fails_nothing_either():
    pair, (key, data) = Pair(), blob(LARGE)
    pair.fast.go_down(OSError("disk on fire"))
    await pair.store.put(key, BytesSource(data))
    assert await pair.read(key) == data


async def test_a_fast_side_that_cannot_be_asked_is_no_miss_where_only_it_can_have_the_blob():
    pair, (key, _) = Pair(slow_direction=StoreDirection.READ_ONLY), blob(10)
    pair.fast.go_down()
    assert await code_of(pair.read(key)) is Code.UNAVAILABLE
    assert await code_of(pair.store.has([key])) is Code.UNAVAILABLE


async def test_an_older_value_that_a_failing_fast_side_kept_is_not_read():
    pair = Pair()
    for old, new in ((b"a" * 100, b"b" * 200), (b"a" * LARGE, b"b" * 200_000)):
        pair.fast.come_back()
        await pair.store.put("key", BytesSource(old))
        pair.fast.go_down()
        await pair.store.put("key", BytesSource(new))
        pair.fast.come_back()
        assert pair.fast_blobs.blobs["key"] == old
        assert await pair.read("key", limit=10) == new[:10]
        assert await pair.read("key") == new
        assert pair.fast_blobs.blobs["key"] == new, "the read filled it anew"
        assert pair.store.statistics().stale_keys == 0


@pytest.mark.parametrize("size", SIZES)
async def test_a_write_that_failed_after_the_slow_side_kept_it_hides_the_older_value(size: int):
    """A remote store may commit and then lose the connection."""
    pair = Pair()

    class CommitsAndFails(DictStore):
        async def put(self, key, source):
            await super().put(key, source)
            raise injected()

    slow = CommitsAndFails()
    store = FastSlowStore(pair.fast_blobs, slow)
    pair.fast_blobs.blobs["key"] = b"old"
    assert await code_of(store.put("key", BytesSource(b"n" * size))) is Code.UNAVAILABLE
    sink = BytesSink()
    await store.get("key", sink)
    assert sink.getvalue() == slow.blobs["key"] == b"n" * size
    assert pair.fast_blobs.blobs["key"] == b"n" * size


@pytest.mark.parametrize("size", SIZES)
async def test_a_reader_who_goes_away_is_no_fault_of_the_fast_side(size: int):
    pair, (key, data) = Pair(), blob(size)
    await pair.store.put(key, BytesSource(data))
    pair.forget()
    error = injected()
    with pytest.raises(NativeLinkError) as caught:
        await pair.store.get(key, FaultySink(NullSink(), fail_at=500, error=error))
    assert caught.value is error
    assert pair.store.statistics().fast_errors == 0
    assert not pair.slow.calls


async def test_marks_of_stale_keys_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fast_slow, "_MAX_STALE", 10)
    pair = Pair()
    pair.fast.go_down()
    for n in range(30):
        await pair.store.put(f"key {n}", BytesSource(b"value"))
    assert pair.store.statistics().stale_keys == 10


# The slow side fails


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fails_at", [0, 1, 999, 200_000])
async def test_a_slow_side_that_fails_fails_the_write_and_leaves_nothing(size: int, fails_at: int):
    pair, (key, data) = Pair(), blob(size)
    error = injected()
    pair.slow.put_error, pair.slow.put_fails_at = error, min(fails_at, size)
    with pytest.raises(NativeLinkError) as caught:
        await pair.store.put(key, PiecesSource.split(data, 7_000))
    assert caught.value is error
    assert pair.fast_blobs.blobs == pair.slow_blobs.blobs == {}
    assert pair.store.statistics().fast_errors == 0, "the fast side did nothing wrong"


async def test_a_slow_side_that_is_down_does_not_keep_the_fast_one_from_answering():
    pair, (key, data) = Pair(), blob(LARGE)
    await pair.store.put(key, BytesSource(data))
    pair.slow.go_down()
    assert await pair.read(key) == data
    assert await code_of(pair.store.has([key])) is Code.UNAVAILABLE
    assert await code_of(pair.read(blob(5)[0])) is Code.UNAVAILABLE


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fails_at", [0, 500, 100_000])
async def test_a_slow_side_that_breaks_fails_all_readers_and_fills_nothing(
    size: int, fails_at: int
):
    pair, (key, data) = Pair(), blob(size)
    pair.slow_blobs.blobs[key] = data
    pair.slow.get_error, pair.slow.get_fails_at = injected(), min(fails_at, size - 1)
    pair.slow.get_gate = gate = Gate()
    async with asyncio.TaskGroup() as tasks:
        reads = [tasks.create_task(code_of(pair.read(key))) for _ in range(5)]
        await wait_until(lambda: gate.waiting == 1)
        gate.open()
    assert [read.result() for read in reads] == [Code.UNAVAILABLE] * 5
    assert pair.slow.calls["get"] == 1
    assert pair.fast_blobs.blobs == {}
    pair.slow.come_back()
    assert await pair.read(key) == data
