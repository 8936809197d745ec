"""What is written to two sides at once, also while others read it or write it too."""

import asyncio

import pytest

from nativelink.core.streams import BytesSink, BytesSource, NullSink
from nativelink.stores.join.fast_slow import FastSlowStore
from nativelink.stores.join.single_flight import PIPE_BYTES
from nativelink.testing.fakes import DictStore, PiecesSource, wait_until
from nativelink.testing.faults import FaultySink, FaultySource, Gate, Latency, injected
from tests.stores.join.two_sides import HUGE, LARGE, SIZES, Pair, blob


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
