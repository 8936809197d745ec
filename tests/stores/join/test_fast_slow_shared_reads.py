"""Many who read the same at once, of which one reads the slow side."""

import asyncio
import hashlib
import random
import tracemalloc

import pytest

from nativelink.core.digest import Digest
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSink, Chunk, NullSink
from nativelink.stores.join import fast_slow
from nativelink.stores.join.fast_slow import FastSlowStore
from nativelink.stores.join.single_flight import WINDOW_BYTES
from nativelink.testing.fakes import DictStore, wait_until
from nativelink.testing.faults import FaultySink, Gate, Latency, injected
from tests.stores.join.two_sides import HUGE, LARGE, SMALL, Pair, blob, code_of


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
