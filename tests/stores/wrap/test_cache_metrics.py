"""Every operation is recorded once, by how it ended."""

import asyncio
from typing import Any

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import NativeLinkError
from nativelink.core.streams import BytesSource, NullSink
from nativelink.stores.wrap.cache_metrics import CacheMetricsStore
from nativelink.testing.fakes import DictStore, wait_until
from nativelink.testing.faults import FaultySink, FaultySource, FaultyStore, Gate, injected

HERE, THERE, NOWHERE = (DigestFunction.SHA256.digest_of(name) for name in (b"a", b"bb", b"ccc"))


class Recorded:
    """Keeps what it is told, but for the time that it took."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []

    def record(
        self,
        cache_type: str,
        operation: str,
        result: str,
        seconds: float,
        size_bytes: int,
        /,
        *,
        count: int = 1,
    ) -> None:
        assert 0 <= seconds < 60
        assert cache_type == "cas"
        self.all.append((operation, result, size_bytes, count))


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
def backend() -> FaultyStore:
    blobs = DictStore(chunk_size=1)
    blobs.blobs |= {HERE: b"a", THERE: b"bb"}
    return FaultyStore(blobs)


@pytest.fixture
def store(backend: FaultyStore, recorded: Recorded) -> CacheMetricsStore:
    return CacheMetricsStore(backend, cache_type="cas", recorder=recorded)


async def test_reads_hit_or_miss(store: CacheMetricsStore, recorded: Recorded):
    await store.get(THERE, NullSink())
    await store.get(THERE, NullSink(), offset=1)
    with pytest.raises(NativeLinkError):
        await store.get(NOWHERE, NullSink())
    assert recorded.all == [
        ("read", "hit", 2, 1),
        ("read", "hit", 1, 1),
        ("read", "miss", 0, 1),
    ]


async def test_the_keys_of_a_batch_are_counted_by_how_they_ended(
    store: CacheMetricsStore, recorded: Recorded
):
    assert await store.has([HERE, NOWHERE, THERE, HERE]) == [1, None, 2, 1]
    assert recorded.all == [("read", "miss", 0, 1), ("read", "hit", 0, 3)]
    recorded.all.clear()
    await store.has([])
    assert recorded.all == []


async def test_writes_succeed_or_fail(store: CacheMetricsStore, recorded: Recorded):
    await store.put(HERE, BytesSource(b"a"))
    with pytest.raises(NativeLinkError):
        await store.put(HERE, FaultySource(BytesSource(b"a"), fail_at=1))
    assert recorded.all == [("write", "success", 1, 1), ("write", "error", 0, 1)]


async def test_failures_are_errors_and_no_misses(
    store: CacheMetricsStore, recorded: Recorded, backend: FaultyStore
):
    backend.go_down()
    for work in (
        store.has([HERE]),
        store.get(HERE, NullSink()),
        store.put(HERE, BytesSource(b"a")),
    ):
        with pytest.raises(NativeLinkError):
            await work
    assert recorded.all == [
        ("read", "error", 0, 1),
        ("read", "error", 0, 1),
        ("write", "error", 0, 1),
    ]


async def test_a_read_that_fails_half_way_says_how_far_it_came(
    store: CacheMetricsStore, recorded: Recorded
):
    with pytest.raises(NativeLinkError):
        await store.get(THERE, FaultySink(NullSink(), fail_at=1, error=injected()))
    assert recorded.all == [("read", "error", 1, 1)]


async def test_a_cancelled_call_is_not_recorded(
    store: CacheMetricsStore, recorded: Recorded, backend: FaultyStore
):
    backend.get_gate = gate = Gate()
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(store.get(HERE, NullSink()))
        await wait_until(lambda: gate.waiting == 1)
        reading.cancel()
    assert recorded.all == []
