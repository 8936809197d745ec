"""What is remembered, for how long, and what makes it forgotten."""

import asyncio

import pytest

from nativelink.core.digest import EMPTY_DIGESTS, Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSink, BytesSource, NullSink
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.memory import MemoryStore
from nativelink.stores.wrap.existence_cache import ExistenceCacheStore
from nativelink.testing.fakes import DictStore, FakeClock, wait_until
from nativelink.testing.faults import FaultyStore, Gate, injected

KEYS = [DigestFunction.SHA256.digest_of(bytes([n])) for n in range(20)]


class Fixture:
    def __init__(self, *, feed: bool = True, **policy: float) -> None:
        self.blobs = DictStore()
        self.backend = FaultyStore(self.blobs)
        self.clock = FakeClock()
        self.store = ExistenceCacheStore(
            self.backend,
            eviction=EvictionPolicy(**policy),
            clock=self.clock,
            removals=self.blobs if feed else None,
        )

    async def has(self, *keys: Digest | str) -> list[int | None]:
        return await self.store.has(keys)

    @property
    def asked(self) -> int:
        """How often the backend was asked since this was last read."""
        return self.backend.calls.pop("has", 0)


def put_behind(fixture: Fixture, *keys: Digest) -> None:
    for key in keys:
        fixture.blobs.blobs[key] = b"x"


async def test_presence_is_remembered_and_absence_is_not():
    fixture = Fixture()
    put_behind(fixture, KEYS[0])
    for _ in range(3):
        assert await fixture.has(KEYS[0]) == [1]
    assert fixture.asked == 1
    for _ in range(3):
        assert await fixture.has(KEYS[1]) == [None]
    assert fixture.asked == 3
    put_behind(fixture, KEYS[1])
    assert await fixture.has(KEYS[1]) == [1]


async def test_only_what_is_unknown_is_asked_for_and_all_of_it_at_once():
    fixture = Fixture()
    put_behind(fixture, *KEYS[:10])
    await fixture.has(*KEYS[:5])
    asked: list[list[Digest]] = []
    has = fixture.blobs.has

    async def listen(keys):
        asked.append(list(keys))
        return await has(keys)

    fixture.blobs.has = listen
    batch = [KEYS[12], *KEYS[3:8], KEYS[12], KEYS[6]]
    assert await fixture.has(*batch) == [None, 1, 1, 1, 1, 1, None, 1]
    assert asked == [[KEYS[12], *KEYS[5:8]]]


async def test_puts_and_whole_reads_are_remembered():
    fixture = Fixture()
    await fixture.store.put(KEYS[0], BytesSource(b"12345"))
    put_behind(fixture, KEYS[1], KEYS[2])
    await fixture.store.get(KEYS[1], NullSink())
    await fixture.store.get(KEYS[2], NullSink(), limit=1)
    assert await fixture.has(KEYS[0], KEYS[1]) == [5, 1]
    assert fixture.asked == 0
    assert await fixture.has(KEYS[2]) == [1]
    assert fixture.asked == 1, "a ranged read does not tell the size"


async def test_the_empty_blob_is_known_from_the_start():
    fixture = Fixture()
    for function in DigestFunction:
        assert await fixture.has(function.digest_of(b"")) == [0]
    assert fixture.asked == 0


async def test_string_keys_are_asked_for_every_time():
    fixture = Fixture()
    await fixture.store.put("name", BytesSource(b"abc"))
    for value in (b"", b"longer"):
        fixture.blobs.blobs["name"] = value
        assert await fixture.has("name") == [len(value)]


# Staleness


async def test_what_the_backend_removes_is_forgotten():
    fixture = Fixture()
    put_behind(fixture, KEYS[0])
    await fixture.has(KEYS[0])
    fixture.blobs.remove(KEYS[0])
    assert await fixture.has(KEYS[0]) == [None]


async def test_a_backend_that_may_have_lost_anything_is_asked_anew():
    fixture = Fixture()
    put_behind(fixture, *KEYS[:3])
    assert await fixture.has(*KEYS[:3]) == [1, 1, 1]
    fixture.blobs.blobs.clear()
    fixture.store._removed(None)
    assert await fixture.has(*KEYS[:3], next(iter(EMPTY_DIGESTS))) == [None, None, None, 0]
    assert fixture.store.statistics().count == 0
    put_behind(fixture, KEYS[0])
    assert await fixture.has(KEYS[0]) == [1]
    assert fixture.store.statistics().count == 1


async def test_what_a_read_does_not_find_is_forgotten():
    fixture = Fixture(feed=False)
    put_behind(fixture, KEYS[0])
    await fixture.has(KEYS[0])
    del fixture.blobs.blobs[KEYS[0]]
    assert await fixture.has(KEYS[0]) == [1], "nobody said anything yet"
    for range_ in ({}, {"offset": 0, "limit": 1}):
        await fixture.has(KEYS[0])
        with pytest.raises(NativeLinkError) as caught:
            await fixture.store.get(KEYS[0], NullSink(), **range_)
        assert caught.value.code is Code.NOT_FOUND
        assert await fixture.has(KEYS[0]) == [None]
        put_behind(fixture, KEYS[0])
        await fixture.has(KEYS[0])
        del fixture.blobs.blobs[KEYS[0]]


async def test_a_read_that_fails_otherwise_forgets_nothing():
    fixture = Fixture()
    put_behind(fixture, KEYS[0])
    await fixture.has(KEYS[0])
    fixture.backend.get_error = injected()
    with pytest.raises(NativeLinkError):
        await fixture.store.get(KEYS[0], NullSink())
    assert fixture.asked == 1
    assert await fixture.has(KEYS[0]) == [1]
    assert fixture.asked == 0


async def test_being_asked_for_does_not_make_younger_and_being_put_does():
    fixture = Fixture(max_seconds=100)
    put_behind(fixture, KEYS[0])
    await fixture.has(KEYS[0])
    await fixture.store.put(KEYS[1], BytesSource(b"x"))
    assert fixture.asked == 1
    for _ in range(4):
        fixture.clock.advance(24)
        await fixture.has(KEYS[0], KEYS[1])
    await fixture.store.put(KEYS[1], BytesSource(b"x"))
    assert fixture.asked == 0
    fixture.clock.advance(10)
    assert await fixture.has(KEYS[1]) == [1]
    assert fixture.asked == 0
    assert await fixture.has(KEYS[0]) == [1]
    assert fixture.asked == 1


async def test_the_policy_bounds_what_is_remembered():
    fixture = Fixture(max_count=3)
    put_behind(fixture, *KEYS)
    await fixture.has(*KEYS)
    assert fixture.store.statistics().count == 3
    assert await fixture.has(*KEYS) == [1] * len(KEYS)


async def test_a_put_of_what_is_remembered_heals_a_backend_that_lost_it():
    fixture = Fixture(feed=False)
    await fixture.store.put(KEYS[0], BytesSource(b"value"))
    del fixture.blobs.blobs[KEYS[0]]
    await fixture.store.put(KEYS[0], BytesSource(b"value"))
    sink = BytesSink()
    await fixture.store.get(KEYS[0], sink)
    assert sink.getvalue() == b"value"


async def test_a_new_result_of_an_action_replaces_the_older_one():
    fixture = Fixture()
    for value in (b"result", b"a longer result"):
        await fixture.store.put(KEYS[0], BytesSource(value))
        assert await fixture.has(KEYS[0]) == [len(value)]
        assert fixture.blobs.blobs[KEYS[0]] == value


async def test_what_is_too_large_to_be_kept_is_not_remembered():
    """The backend evicts it within the put, before that returns."""
    backend = MemoryStore(eviction=EvictionPolicy(max_bytes=100), clock=FakeClock())
    store = ExistenceCacheStore(
        backend, eviction=EvictionPolicy(), clock=FakeClock(), removals=backend
    )
    await store.put(KEYS[0], BytesSource(b"x" * 200))
    assert await store.has([KEYS[0]]) == [None]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("call", ["has", "get", "put"])
async def test_what_is_removed_while_a_call_is_under_way_is_not_remembered(call: str, known: bool):
    fixture = Fixture()
    put_behind(fixture, KEYS[0])
    gate = Gate()

    class Late:
        """Answers what was true when it was asked, later."""

        async def has(self, keys):
            answer = await fixture.blobs.has(keys)
            await gate.wait()
            return answer

        async def get(self, key, sink, **range_):
            await fixture.blobs.get(key, sink, **range_)
            await gate.wait()

        async def put(self, key, source):
            size = await fixture.blobs.put(key, source)
            await gate.wait()
            return size

    store = ExistenceCacheStore(
        Late(), eviction=EvictionPolicy(), clock=FakeClock(), removals=fixture.blobs
    )
    work = {
        "has": lambda: store.has([KEYS[0]]),
        "get": lambda: store.get(KEYS[0], NullSink()),
        "put": lambda: store.put(KEYS[0], BytesSource(b"x")),
    }[call]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(work())
        await wait_until(lambda: gate.waiting == 1)
        if known:
            fixture.blobs.remove(KEYS[0])
        else:
            del fixture.blobs.blobs[KEYS[0]]
            store._removed(None)
        gate.open()
    assert await store.has([KEYS[0]]) == [None]


# Shared look-ups


async def test_concurrent_questions_share_one_answer():
    fixture = Fixture()
    put_behind(fixture, *KEYS[:3])
    gate = Gate()

    class Gated(FaultyStore):
        async def has(self, keys):
            await gate.wait()
            return await super().has(keys)

    backend = Gated(fixture.blobs)
    store = ExistenceCacheStore(
        backend, eviction=EvictionPolicy(), clock=FakeClock(), removals=None
    )
    async with asyncio.TaskGroup() as tasks:
        first = [tasks.create_task(store.has([KEYS[0], KEYS[9]])) for _ in range(5)]
        await wait_until(lambda: gate.waiting == 1)
        second = tasks.create_task(store.has([KEYS[1], KEYS[0]]))
        await wait_until(lambda: gate.waiting == 2)
        gate.open()
    assert [task.result() for task in first] == [[1, None]] * 5
    assert second.result() == [1, 1]
    assert backend.calls["has"] == 2


async def test_who_waits_for_a_question_that_is_cancelled_asks_himself():
    fixture = Fixture()
    put_behind(fixture, KEYS[0])
    gate = Gate()

    class Gated(FaultyStore):
        async def has(self, keys):
            await gate.wait()
            return await super().has(keys)

    store = ExistenceCacheStore(
        Gated(fixture.blobs), eviction=EvictionPolicy(), clock=FakeClock(), removals=None
    )
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(store.has([KEYS[0]])) for _ in range(4)]
        await wait_until(lambda: gate.waiting == 1)
        asking[0].cancel()
        await wait_until(asking[0].done)
        await wait_until(lambda: gate.waiting == 1)
        gate.open()
    assert asking[0].cancelled()
    assert [task.result() for task in asking[1:]] == [[1]] * 3


async def test_a_backend_that_fails_fails_all_who_wait_and_is_asked_once():
    fixture = Fixture()
    fixture.backend.has_error = error = injected()
    gate = Gate()
    has = fixture.backend.has

    class Gated(FaultyStore):
        async def has(self, keys):
            await gate.wait()
            return await has(keys)

    store = ExistenceCacheStore(
        Gated(fixture.blobs), eviction=EvictionPolicy(), clock=FakeClock(), removals=None
    )

    async def failure() -> BaseException | None:
        try:
            await store.has([KEYS[0]])
        except NativeLinkError as caught:
            return caught
        return None

    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(failure()) for _ in range(4)]
        await wait_until(lambda: gate.waiting == 1)
        gate.open()
    failures = [task.result() for task in asking]
    assert {failure.code for failure in failures} == {error.code}
    assert len(set(map(id, failures))) == 4, "each has his own, as context changes them"
    assert fixture.asked == 1
    fixture.backend.come_back()
    assert await store.has([KEYS[0]]) == [None]
