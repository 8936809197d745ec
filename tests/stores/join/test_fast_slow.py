"""Two sides: what each is asked for, who keeps what, and what happens when one of them fails."""

import asyncio
import gc
import hashlib
import random
import tracemalloc

import pytest

from nativelink.core.digest import Digest, DigestFunction, StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSink, BytesSource, Chunk, NullSink
from nativelink.stores.join import fast_slow
from nativelink.stores.join.fast_slow import FastSlowStore, StoreDirection
from nativelink.stores.join.single_flight import PIPE_BYTES, WINDOW_BYTES
from nativelink.testing.fakes import DictStore, FakeClock, PiecesSource, wait_until
from nativelink.testing.faults import (
    FaultySink,
    FaultySource,
    FaultyStore,
    Gate,
    Latency,
    injected,
)

SMALL, LARGE, HUGE = 1_000, 300_000, 3 * WINDOW_BYTES
#: Sizes on both sides of the border between the ways to read and write.
SIZES = (SMALL, LARGE)


def blob(size: int, seed: int = 0) -> tuple[Digest, bytes]:
    data = random.Random(f"{size} {seed}").randbytes(size)
    return DigestFunction.SHA256.digest_of(data), data


class Pair:
    """A fast_slow over two dictionaries whose calls are counted and can be made to fail."""

    def __init__(self, *, chunk_size: int = 50_000, **settings) -> None:
        self.fast_blobs = DictStore(chunk_size=chunk_size)
        self.slow_blobs = DictStore(chunk_size=chunk_size)
        self.fast = FaultyStore(self.fast_blobs)
        self.slow = FaultyStore(self.slow_blobs)
        self.clock = FakeClock()
        self.store = FastSlowStore(self.fast, self.slow, clock=self.clock, **settings)

    async def read(self, key: StoreKey, *, offset: int = 0, limit: int | None = None) -> bytes:
        sink = BytesSink()
        await self.store.get(key, sink, offset=offset, limit=limit)
        return sink.getvalue()

    def forget(self) -> None:
        """Start counting again."""
        self.fast.calls.clear()
        self.slow.calls.clear()


async def code_of(work) -> Code | None:
    try:
        await work
    except NativeLinkError as error:
        return error.code
    return None


# Who is asked, who keeps what


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
    try:
        for _ in range(10):
            assert await code_of(pair.store.get(key, NullSink())) is Code.NOT_FOUND
        assert gc.collect() == 0
    finally:
        gc.enable()


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


# Writes


async def test_the_fast_side_shows_nothing_before_the_slow_side_has_it():
    for size in SIZES:
        pair, (key, data) = Pair(), blob(size)
        gate = Gate()

        class Committing(DictStore):
            """Holds the commit back."""

            async def put(self, key, source, gate=gate):
                data = b"".join([chunk async for chunk in _chunks(source)])
                await gate.wait()
                self.blobs[key] = data
                return len(data)

        store = FastSlowStore(pair.fast_blobs, Committing())
        async with asyncio.TaskGroup() as tasks:
            putting = tasks.create_task(store.put(key, PiecesSource.split(data, 9_000)))
            await wait_until(lambda gate=gate: gate.waiting == 1)
            assert pair.fast_blobs.blobs == {}
            gate.open()
            await putting
        assert pair.fast_blobs.blobs == {key: data}


async def _chunks(source):
    while chunk := await source.read():
        yield chunk


async def test_a_cancelled_write_leaves_no_task_and_nothing_in_either_side():
    pair, (key, data) = Pair(), blob(LARGE)
    gate = Gate()
    source = FaultySource(PiecesSource.split(data, 9_000), gate=gate, gate_at=100_000)
    before = asyncio.all_tasks()
    async with asyncio.TaskGroup() as tasks:
        putting = tasks.create_task(pair.store.put(key, source))
        await wait_until(lambda: gate.waiting == 1)
        putting.cancel()
    assert asyncio.all_tasks() == before
    assert pair.fast_blobs.blobs == pair.slow_blobs.blobs == {}


async def test_a_slow_fast_side_holds_the_writer_back_instead_of_filling_memory():
    """Whoever is slower sets the pace: a few pieces wait between the sides."""
    pair, (key, data) = Pair(), blob(HUGE)
    gate = Gate()

    class Stuck(DictStore):
        async def put(self, key, source):
            await source.read()
            await gate.wait()
            while await source.read():
                pass
            raise injected()

    store = FastSlowStore(Stuck(), pair.slow)
    source = FaultySource(PiecesSource.split(data, 10_000))
    async with asyncio.TaskGroup() as tasks:
        putting = tasks.create_task(store.put(key, source))
        await wait_until(lambda: gate.waiting == 1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert source.given <= PIPE_BYTES + 20_000
        gate.open()
        assert await putting == HUGE


async def test_racing_values_of_a_key_leave_both_sides_agreeing():
    for seed in range(30):
        pair = Pair()
        pair.fast.latency, pair.slow.latency = Latency(seed, 6), Latency(seed + 100, 6)
        values = [bytes((n,)) * size for n, size in enumerate((10, 70_000, 90_000, 20))]
        async with asyncio.TaskGroup() as tasks:
            for value in values:
                tasks.create_task(pair.store.put("key", BytesSource(value)))
        for _ in range(3):
            value = await pair.read("key")
            assert await pair.store.has(["key"]) == [len(value)]
            assert value == pair.slow_blobs.blobs["key"]


@pytest.mark.parametrize("size", [100, 70_000])
async def test_a_cold_read_of_an_older_value_never_overwrites_a_newer_one(size: int):
    """A reader that was under way fills nothing behind the writer's back."""
    for turns in range(25):
        pair = Pair(chunk_size=20_000)
        pair.fast.latency = Latency(turns, 5)
        pair.slow_blobs.blobs["key"] = b"a" * size
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pair.read("key"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await pair.store.put("key", BytesSource(b"b" * size))
            assert await pair.read("key") == b"b" * size
        assert await pair.read("key") == b"b" * size


class Held(DictStore):
    """Takes a value, and commits it only when the gate of that value is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[bytes, Gate] = {}

    async def put(self, key, source):
        data = b"".join([chunk async for chunk in _chunks(source)])
        if data in self.gates:
            await self.gates[data].wait()
        self.blobs[key] = data
        return len(data)


async def test_what_is_read_while_a_key_is_written_is_not_kept():
    """It is the older value, and might reach the fast side after the newer one."""
    fast, slow = Held(), Held()
    store = FastSlowStore(fast, slow)
    slow.blobs["key"] = b"old"
    commit, fill = slow.gates[b"new"], fast.gates[b"old"] = Gate(), Gate()
    async with asyncio.TaskGroup() as tasks:
        putting = tasks.create_task(store.put("key", BytesSource(b"new")))
        await wait_until(lambda: commit.waiting == 1)
        tasks.create_task(store.get("key", NullSink()))
        await asyncio.sleep(0)
        assert fill.waiting == 0
        commit.open()
        await putting
        fill.open()
    assert fast.blobs["key"] == slow.blobs["key"] == b"new"


async def test_a_fill_under_way_does_not_outlive_two_writers():
    fast, slow = Held(), Held()
    store = FastSlowStore(fast, slow)
    slow.blobs["key"] = b"old"
    fill = fast.gates[b"old"] = Gate()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(store.get("key", NullSink()))
        await wait_until(lambda: fill.waiting == 1)
        first = tasks.create_task(store.put("key", BytesSource(b"first")))
        await asyncio.sleep(0)
        await store.put("key", BytesSource(b"second"))
        assert fast.blobs["key"] == b"second"
        assert not first.done()
        gate = slow.gates[b"first"] = Gate()
        fill.open()
        await wait_until(lambda: gate.waiting == 1)
        assert fast.blobs["key"] == b"old"
        sink = BytesSink()
        await store.get("key", sink)
        assert sink.getvalue() == b"second"
        gate.open()
    assert slow.blobs["key"] == b"first"


async def test_a_writer_does_not_wait_for_a_reader_who_is_slow():
    for size in SIZES:
        pair, (key, data) = Pair(), blob(size)
        pair.slow_blobs.blobs[key] = data
        gate = Gate()
        async with asyncio.TaskGroup() as tasks:
            slow_reader = FaultySink(NullSink(), gate=gate)
            reading = tasks.create_task(pair.store.get(key, slow_reader))
            await wait_until(lambda gate=gate: gate.waiting == 1)
            await pair.store.put(key, BytesSource(data))
            assert await pair.read(key) == data
            assert not reading.done()
            gate.open()


# Shared reads


@pytest.mark.parametrize("size", [SMALL, LARGE, HUGE])
async def test_a_hundred_concurrent_cold_readers_read_the_slow_side_once(size: int):
    pair, (key, data) = Pair(), blob(size)
    pair.slow_blobs.blobs[key] = data
    pair.slow.latency = Latency(1, 2)
    async with asyncio.TaskGroup() as tasks:
        reads = [tasks.create_task(pair.read(key)) for _ in range(100)]
    assert all(read.result() == data for read in reads)
    assert pair.slow.calls["get"] == 1
    assert pair.fast.calls["put"] == 1
    assert pair.fast_blobs.blobs == {key: data}
    statistics = pair.store.statistics()
    assert (statistics.shared_reads, statistics.flights) == (99, 0)


@pytest.mark.parametrize("size", [SMALL, LARGE, HUGE])
async def test_misses_are_shared_too(size: int):
    pair, (key, _) = Pair(), blob(size)
    pair.slow.get_gate = gate = Gate()
    async with asyncio.TaskGroup() as tasks:
        reads = [tasks.create_task(code_of(pair.read(key))) for _ in range(20)]
        await wait_until(lambda: gate.waiting == 1)
        gate.open()
    assert {read.result() for read in reads} == {Code.NOT_FOUND}
    assert pair.slow.calls["get"] == 1


@pytest.mark.parametrize("size", [SMALL, LARGE, HUGE])
@pytest.mark.parametrize("cancelled", [1, 5])
async def test_a_cancelled_leader_hands_over(size: int, cancelled: int):
    pair, (key, data) = Pair(), blob(size)
    pair.slow_blobs.blobs[key] = data
    pair.slow.get_gate = gate = Gate()
    async with asyncio.TaskGroup() as tasks:
        reads = [tasks.create_task(pair.read(key)) for _ in range(10)]
        for read in reads[:cancelled]:
            await wait_until(lambda: gate.waiting == 1)
            read.cancel()
            await wait_until(read.done)
        await wait_until(lambda: gate.waiting == 1)
        gate.open()
    assert all(read.cancelled() for read in reads[:cancelled])
    assert all(read.result() == data for read in reads[cancelled:])
    assert pair.fast_blobs.blobs == {key: data}


@pytest.mark.parametrize("size", [SMALL, LARGE, HUGE])
async def test_the_last_reader_to_leave_ends_the_read(size: int):
    pair, (key, data) = Pair(), blob(size)
    pair.slow_blobs.blobs[key] = data
    pair.slow.get_gate = gate = Gate()
    before = asyncio.all_tasks()
    async with asyncio.TaskGroup() as tasks:
        reads = [tasks.create_task(pair.read(key)) for _ in range(4)]
        await wait_until(lambda: gate.waiting == 1)
        for read in reads:
            read.cancel()
    assert asyncio.all_tasks() == before
    assert pair.fast_blobs.blobs == {}
    assert pair.store.statistics().flights == 0
    gate.open()
    assert await pair.read(key) == data


@pytest.mark.parametrize("leader_is_slow", [True, False])
async def test_a_slow_reader_costs_only_himself(leader_is_slow: bool):
    pair, (key, data) = Pair(), blob(HUGE)
    pair.slow_blobs.blobs[key] = data
    gate = Gate()
    collected = BytesSink()
    stuck = FaultySink(collected, gate=gate, gate_at=100_000)
    async with asyncio.TaskGroup() as tasks:
        order = [lambda: pair.store.get(key, stuck), lambda: pair.read(key)]
        if not leader_is_slow:
            order.reverse()
        started = [tasks.create_task(start()) for start in order]
        slow, quick = started if leader_is_slow else reversed(started)
        assert await quick == data
        assert not slow.done()
        gate.open()
    assert collected.getvalue() == data
    # He fell out of the window, and the rest came from the fast side, which is filled by now.
    assert pair.slow.calls["get"] == 1
    assert pair.fast_blobs.blobs == {key: data}


async def test_a_slow_reader_whose_blob_was_not_kept_reads_the_slow_side_himself():
    pair, (key, data) = Pair(), blob(HUGE)
    pair.slow_blobs.blobs[key] = data
    pair.fast.go_down()
    gate = Gate()
    collected = BytesSink()
    async with asyncio.TaskGroup() as tasks:
        slow = FaultySink(collected, gate=gate, gate_at=100_000)
        tasks.create_task(pair.store.get(key, slow))
        assert await pair.read(key) == data
        gate.open()
    assert collected.getvalue() == data
    assert pair.slow.calls["get"] == 2


async def test_a_reader_whose_sink_fails_costs_only_himself():
    for size in (SMALL, LARGE, HUGE):
        pair, (key, data) = Pair(), blob(size)
        pair.slow_blobs.blobs[key] = data
        pair.slow.latency = Latency(3, 3)
        error = injected()
        async with asyncio.TaskGroup() as tasks:
            dead = tasks.create_task(
                code_of(pair.store.get(key, FaultySink(NullSink(), fail_at=500, error=error)))
            )
            reads = [tasks.create_task(pair.read(key)) for _ in range(3)]
        assert dead.result() is Code.UNAVAILABLE
        assert all(read.result() == data for read in reads)
        assert pair.store.statistics().fast_errors == 0


async def test_one_reader_alone_holds_the_slow_side_back():
    """The window is all that is read ahead."""
    pair, (key, data) = Pair(), blob(HUGE)
    pair.slow_blobs.blobs[key] = data
    pair.fast.go_down()
    gate = Gate()
    async with asyncio.TaskGroup() as tasks:
        collected = BytesSink()
        sink = FaultySink(collected, gate=gate)
        tasks.create_task(pair.store.get(key, sink))
        for _ in range(500):
            await asyncio.sleep(0)
        assert pair.store.statistics().slow_read_bytes == 0  # it has not come to its end
        flight = pair.store._flights[key]
        assert flight._window_bytes <= WINDOW_BYTES + 50_000
        gate.open()
    assert collected.getvalue() == data


async def test_a_late_reader_waits_for_the_fast_side_to_be_filled():
    pair, (key, data) = Pair(), blob(HUGE)
    pair.slow_blobs.blobs[key] = data
    gate = Gate()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(
            pair.store.get(key, FaultySink(NullSink(), gate=gate, gate_at=WINDOW_BYTES + 200_000))
        )
        await wait_until(lambda: gate.waiting == 1)
        late = tasks.create_task(pair.read(key))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not late.done()
        assert not first.done()
        gate.open()
    assert late.result() == data
    assert pair.slow.calls["get"] == 1


async def test_a_late_reader_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fast_slow, "_LATE_WAIT_S", 0.01)
    pair, (key, data) = Pair(), blob(HUGE)
    pair.slow_blobs.blobs[key] = data
    gate = Gate()
    async with asyncio.TaskGroup() as tasks:
        sink = FaultySink(NullSink(), gate=gate, gate_at=WINDOW_BYTES + 200_000)
        tasks.create_task(pair.store.get(key, sink))
        await wait_until(lambda: gate.waiting == 1)
        assert await pair.read(key) == data
        gate.open()
    assert pair.slow.calls["get"] == 2


async def test_a_reader_who_comes_while_the_fast_side_commits_reads_along():
    pair, (key, data) = Pair(), blob(LARGE)
    pair.slow_blobs.blobs[key] = data
    gate = Gate()

    class Committing(DictStore):
        async def put(self, key, source):
            size = await super().put(key, source)
            self.blobs.pop(key)
            await gate.wait()
            self.blobs[key] = data
            return size

    store = FastSlowStore(Committing(), pair.slow)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(store.get(key, NullSink()))
        await wait_until(lambda: gate.waiting == 1)
        sink = BytesSink()
        reading = tasks.create_task(store.get(key, sink))
        await wait_until(lambda: sink.size == LARGE)
        gate.open()
        await reading
    assert pair.slow.calls["get"] == 1


async def test_a_store_that_cannot_keep_a_blob_is_told_its_size_beforehand():
    """Else a memory store gathers as much as it may hold before it gives up."""
    pair, (key, data) = Pair(), blob(LARGE)
    pair.slow_blobs.blobs[key] = data
    sizes: list[int | None] = []

    class Asking(DictStore):
        async def put(self, key, source):
            sizes.append(source.size)
            return await super().put(key, source)

    fast = Asking()
    await FastSlowStore(fast, pair.slow).get(key, NullSink())
    assert sizes == [LARGE]
    assert fast.blobs == {key: data}


async def test_a_value_of_another_size_than_its_digest_is_read_and_not_kept():
    """It is no blob of a CAS, and nobody knows its size beforehand."""
    pair, (key, data) = Pair(), blob(LARGE)
    for value in (data[:-1], data + b"x"):
        pair.slow_blobs.blobs[key] = value
        assert await pair.read(key) == value
        assert pair.fast_blobs.blobs == {}
    assert pair.store.statistics().fast_errors == 0


async def test_a_result_that_is_larger_than_its_action_is_shared_and_kept():
    pair = Pair()
    action = Digest(hashlib.sha256(b"action").hexdigest(), 142)
    pair.slow_blobs.blobs[action] = b"r" * 700_000
    pair.slow.latency = Latency(4, 2)
    async with asyncio.TaskGroup() as tasks:
        reads = [tasks.create_task(pair.read(action)) for _ in range(5)]
    assert all(read.result() == b"r" * 700_000 for read in reads)
    assert pair.slow.calls["get"] == 1
    assert pair.fast_blobs.blobs == pair.slow_blobs.blobs


async def test_a_value_of_unknown_size_that_is_huge_is_read_by_everyone_for_himself(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(fast_slow, "_MAX_WHOLE_BYTES", 100_000)
    pair = Pair()
    pair.slow_blobs.blobs["key"] = b"v" * 200_000
    pair.slow.latency = Latency(4, 2)
    async with asyncio.TaskGroup() as tasks:
        reads = [tasks.create_task(pair.read("key")) for _ in range(3)]
    assert all(read.result() == b"v" * 200_000 for read in reads)
    assert pair.fast_blobs.blobs == {}
    assert pair.store.statistics().fast_errors == 0


async def test_random_readers_of_a_large_blob_all_get_it():
    """Slow, failing and cancelled readers, and a fast side that breaks: seeded."""
    key, data = blob(HUGE)
    for seed in range(12):
        choose = random.Random(seed)
        pair = Pair(chunk_size=choose.choice((30_000, 400_000)))
        pair.slow_blobs.blobs[key] = data
        pair.slow.latency = Latency(seed, 2)
        if choose.random() < 0.5:
            pair.fast.put_error = injected()
            pair.fast.put_fails_at = choose.randrange(1, HUGE)
        before = asyncio.all_tasks()
        sinks: list[BytesSink] = []
        async with asyncio.TaskGroup() as tasks:
            cancelled = []
            for n in range(8):
                sink = BytesSink()
                faulty = FaultySink(
                    sink, latency=Latency(seed * 100 + n, choose.choice((0, 3, 30)))
                )
                reading = tasks.create_task(pair.store.get(key, faulty))
                for _ in range(choose.randrange(12)):
                    await asyncio.sleep(0)
                if choose.random() < 0.3:
                    cancelled.append(reading)
                else:
                    sinks.append(sink)
            for reading in cancelled:
                reading.cancel()
        assert all(sink.getvalue() == data for sink in sinks)
        assert pair.fast_blobs.blobs.get(key, data) == data
        assert pair.store.statistics().flights == 0
        assert asyncio.all_tasks() == before


@pytest.mark.slow
async def test_memory_is_bounded_by_the_window():
    """Neither side holds anything: what is in flight is all that is in memory."""
    piece = random.Random(1).randbytes(256 * 1024)
    count = 128
    key = Digest(hashlib.sha256(piece * count).hexdigest(), len(piece) * count)

    class Made:
        """Gives the blob without having it, takes everything and keeps nothing."""

        async def has(self, keys):
            return [key.size_bytes for key in keys]

        async def get(self, key, sink, *, offset=0, limit=None):
            for _ in range(offset // len(piece), count):
                await asyncio.sleep(0)
                await sink.write(bytes(bytearray(piece)))

        async def put(self, key, source):
            size = 0
            while chunk := await source.read():
                size += len(chunk)
            return size

    class Absent(Made):
        async def get(self, key, sink, *, offset=0, limit=None):
            raise NativeLinkError(Code.NOT_FOUND, "nothing here")

    class Hashing:
        def __init__(self) -> None:
            self.hasher = hashlib.sha256()

        async def write(self, chunk: Chunk, /) -> None:
            self.hasher.update(chunk)

    store = FastSlowStore(Absent(), Made())
    tracemalloc.start()
    try:
        sinks = [Hashing() for _ in range(6)]
        async with asyncio.TaskGroup() as tasks:
            for sink in sinks:
                tasks.create_task(store.get(key, sink))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert {sink.hasher.hexdigest() for sink in sinks} == {key.hash}
    assert peak < WINDOW_BYTES + 3 * 1024 * 1024
