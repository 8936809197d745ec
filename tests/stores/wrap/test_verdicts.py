"""A result that was complete a short while ago is complete, until something says otherwise."""

import asyncio
from collections.abc import Sequence

import pytest

from nativelink.core.digest import Digest, DigestFunction, StoreKey
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSink
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.stores.wrap import verdicts as module
from nativelink.stores.wrap.absences import AbsencesStore
from nativelink.stores.wrap.completeness import CompletenessCheckingStore
from nativelink.stores.wrap.verdicts import Verdicts
from nativelink.testing.fakes import DictStore, FakeClock
from nativelink.testing.faults import FaultyStore

ACTIONS = [DigestFunction.SHA256.digest_of(b"action %d" % n) for n in range(8)]
ACTION = ACTIONS[0]


class Fixture:
    """An action cache over a CAS that counts its calls."""

    def __init__(self) -> None:
        self.ac, self.blobs = DictStore(), DictStore(chunk_size=1_000)
        self.counted = FaultyStore(self.blobs)
        self.cas = AbsencesStore(self.counted)
        self.clock = FakeClock()
        self.verdicts = Verdicts(max_seconds=60, now=self.clock.monotonic)
        self.blobs.on_removed(lambda part: self.verdicts.lose((part,)))
        self.cas.on_absent(self.verdicts.lose)
        self.store = CompletenessCheckingStore(self.ac, self.cas, verdicts=self.verdicts)

    def blob(self, data: bytes) -> Digest:
        digest = DigestFunction.SHA256.digest_of(data)
        self.blobs.blobs[digest] = data
        return digest

    def put(self, *parts: Digest, action: Digest = ACTION, exit_code: int = 0) -> bytes:
        """A result that needs these files."""
        files = [
            reapi.OutputFile(path=f"{n}", digest=reapi.Digest(hash=d.hash, size_bytes=d.size_bytes))
            for n, d in enumerate(parts)
        ]
        result = reapi.ActionResult(output_files=files, exit_code=exit_code)
        self.ac.blobs[action] = result.SerializeToString()
        return self.ac.blobs[action]

    async def is_there(self, action: Digest = ACTION) -> bool:
        try:
            value = await read_bytes(self.store, action)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                return False
            raise
        assert value == self.ac.blobs[action]
        return True

    @property
    def looks(self) -> int:
        """How often the CAS was asked."""
        return sum(self.counted.calls.values())


@pytest.fixture
def fixture() -> Fixture:
    return Fixture()


async def test_a_result_that_was_complete_is_given_without_asking_the_cas_again(fixture: Fixture):
    fixture.put(fixture.blob(b"a"), fixture.blob(b"b"))
    assert await fixture.is_there()
    assert fixture.looks == 1
    for _ in range(5):
        assert await fixture.is_there()
        assert await fixture.store.has([ACTION]) == [len(fixture.ac.blobs[ACTION])]
    assert fixture.looks == 1
    now = fixture.verdicts.statistics()
    assert (now.count, now.parts, now.confirmed, now.checked) == (1, 2, 10, 1)


async def test_it_is_asked_again_when_the_verdict_is_too_old(fixture: Fixture):
    part = fixture.blob(b"a")
    fixture.put(part)
    assert await fixture.is_there()
    fixture.clock.advance(59.9)
    assert await fixture.is_there()
    # Being of use made it no younger. Nobody told that the part is gone.
    del fixture.blobs.blobs[part]
    fixture.clock.advance(0.1)
    assert not await fixture.is_there()


async def test_its_age_counts_from_the_beginning_of_the_look(fixture: Fixture):
    part = fixture.blob(b"a")
    value = fixture.put(part)
    with fixture.verdicts.checking(ACTION, value) as check:
        fixture.clock.advance(59)
        check.add([part])
    assert await fixture.is_there()
    assert fixture.looks == 0
    fixture.clock.advance(1)
    assert await fixture.is_there()
    assert fixture.looks == 1


async def test_a_look_that_took_too_long_is_not_remembered(fixture: Fixture):
    part = fixture.blob(b"a")
    with fixture.verdicts.checking(ACTION, fixture.put(part)) as check:
        fixture.clock.advance(60)
        check.add([part])
    assert fixture.verdicts.statistics().count == 0


async def test_a_result_of_which_a_part_was_evicted_is_gone_at_once(fixture: Fixture):
    shared, own = fixture.blob(b"shared"), fixture.blob(b"own")
    fixture.put(shared)
    fixture.put(shared, own, action=ACTIONS[1])
    fixture.put(own, action=ACTIONS[2])
    for action in ACTIONS[:3]:
        assert await fixture.is_there(action)
    looks = fixture.looks
    fixture.blobs.remove(shared)
    assert await fixture.is_there(ACTIONS[2])
    assert fixture.looks == looks
    assert not await fixture.is_there()
    assert not await fixture.is_there(ACTIONS[1])
    assert fixture.verdicts.statistics().revoked == 2
    assert fixture.verdicts.statistics().count == 1


async def test_a_result_of_which_somebody_misses_a_part_is_gone_at_once(fixture: Fixture):
    parts = [fixture.blob(b"read"), fixture.blob(b"asked for")]
    for part, action in zip(parts, ACTIONS, strict=False):
        fixture.put(part, action=action)
        assert await fixture.is_there(action)
        # As a bucket's lifecycle rule does: nobody tells.
        del fixture.blobs.blobs[part]
        assert await fixture.is_there(action)
    with pytest.raises(NativeLinkError):
        await fixture.cas.get(parts[0], BytesSink())
    assert not await fixture.is_there(ACTIONS[0])
    assert await fixture.is_there(ACTIONS[1])
    assert await fixture.cas.has([ACTION, parts[1]]) == [None, None]
    assert not await fixture.is_there(ACTIONS[1])


async def test_a_part_that_another_result_misses_is_missing_in_all(fixture: Fixture):
    part = fixture.blob(b"a")
    store = CompletenessCheckingStore(fixture.ac, fixture.counted, verdicts=fixture.verdicts)
    fixture.put(part)
    fixture.put(part, fixture.blob(b"b"), action=ACTIONS[1])
    assert await store.has(ACTIONS[:1]) != [None]
    del fixture.blobs.blobs[part]
    assert await store.has(ACTIONS[1:2]) == [None]
    assert await store.has(ACTIONS[:1]) == [None]


async def test_a_tree_that_another_result_misses_is_missing_in_all(fixture: Fixture):
    tree = fixture.blob(reapi.Tree(root=reapi.Directory()).SerializeToString())
    message = reapi.Digest(hash=tree.hash, size_bytes=tree.size_bytes)
    output = reapi.OutputDirectory(path="d", tree_digest=message)
    store = CompletenessCheckingStore(fixture.ac, fixture.counted, verdicts=fixture.verdicts)
    for code in range(2):
        result = reapi.ActionResult(output_directories=[output], exit_code=code)
        fixture.ac.blobs[ACTIONS[code]] = result.SerializeToString()
    assert await store.has(ACTIONS[:1]) != [None]
    assert fixture.verdicts.statistics().parts == 1
    del fixture.blobs.blobs[tree]
    assert await store.has(ACTIONS[1::-1]) == [None, None]


async def test_another_value_of_the_key_is_another_result(fixture: Fixture):
    fixture.put(fixture.blob(b"a"))
    assert await fixture.is_there()
    fixture.put(DigestFunction.SHA256.digest_of(b"never stored"))
    assert not await fixture.is_there()
    fixture.put(fixture.blob(b"b"))
    assert await fixture.is_there()
    assert fixture.verdicts.statistics().parts == 1


async def test_what_is_missing_is_not_remembered(fixture: Fixture):
    part = DigestFunction.SHA256.digest_of(b"late")
    fixture.put(part)
    assert not await fixture.is_there()
    # A worker uploads it a moment later: seen at once.
    await write_bytes(fixture.cas, part, b"late")
    assert await fixture.is_there()


async def test_what_is_lost_during_the_look_makes_its_verdict_worthless(fixture: Fixture):
    part = fixture.blob(b"a")
    value = fixture.put(part)
    with fixture.verdicts.checking(ACTION, value) as check:
        check.add([part])
        fixture.blobs.remove(part)
    assert not await fixture.is_there()
    fixture.blob(b"a")
    with fixture.verdicts.checking(ACTION, value) as check:
        check.add([part])
        fixture.blob(b"other")
        fixture.blobs.remove(DigestFunction.SHA256.digest_of(b"other"))
    looks = fixture.looks
    assert await fixture.is_there()
    assert fixture.looks == looks


async def test_a_cas_that_may_have_lost_anything_makes_every_verdict_worthless(fixture: Fixture):
    part = fixture.blob(b"a")
    value = fixture.put(part)
    assert await fixture.is_there()
    fixture.verdicts.removed(None)
    assert fixture.verdicts.statistics().count == fixture.verdicts.statistics().parts == 0
    assert fixture.verdicts.statistics().revoked == 1
    with fixture.verdicts.checking(ACTION, value) as check:
        check.add([part])
        fixture.verdicts.removed(None)
    assert fixture.verdicts.statistics().count == 0
    looks = fixture.looks
    assert await fixture.is_there()
    assert fixture.looks > looks


async def test_a_look_that_failed_leaves_nothing_behind(fixture: Fixture):
    part = fixture.blob(b"a")
    value = fixture.put(part)

    def look(error: BaseException) -> None:
        with fixture.verdicts.checking(ACTION, value) as check:
            check.add([part])
            raise error

    for error in (RuntimeError(), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            look(error)
    assert fixture.verdicts.statistics().count == 0


async def test_so_many_losses_that_nobody_can_note_them_all_count_as_losses(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_MAX_LOST", 3)
    part = fixture.blob(b"a")
    with fixture.verdicts.checking(ACTION, fixture.put(part)) as check:
        check.add([part])
        fixture.verdicts.lose([f"{n}" for n in range(4)])
        fixture.verdicts.lose(["4"])
        check.add([part])
    assert fixture.verdicts.statistics().count == 0


async def test_what_is_remembered_is_bounded_and_the_oldest_goes_first(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "MAX_PARTS", 3 * (5 + 4))
    parts = [fixture.blob(b"%d" % n) for n in range(5)]
    for action in ACTIONS:
        fixture.put(*parts, action=action)
        assert await fixture.is_there(action)
    now = fixture.verdicts.statistics()
    assert (now.count, now.parts) == (3, 15)
    looks = fixture.looks
    for action in ACTIONS[5:]:
        assert await fixture.is_there(action)
    assert fixture.looks == looks
    assert await fixture.is_there(ACTIONS[0])
    assert fixture.looks == looks + 1


async def test_a_result_of_too_many_parts_is_looked_into_each_time(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "MAX_PARTS_OF_RESULT", 4)
    fixture.put(*(fixture.blob(b"%d" % n) for n in range(5)))
    for number in range(1, 3):
        assert await fixture.is_there()
        assert fixture.looks == number
    fixture.put(*(fixture.blob(b"%d" % n) for n in range(4)))
    assert await fixture.is_there()
    assert await fixture.is_there()
    assert fixture.looks == 3


async def test_what_is_forgotten_leaves_no_trace(fixture: Fixture):
    parts = [fixture.blob(b"%d" % n) for n in range(6)]
    for start, action in enumerate(ACTIONS[:4]):
        fixture.put(*parts[start : start + 3], action=action)
        assert await fixture.is_there(action)
    for part in parts:
        fixture.blobs.remove(part)
    now = fixture.verdicts.statistics()
    assert (now.count, now.parts) == (0, 0)
    assert not fixture.verdicts._needed_by


class Pausing(DictStore):
    """A CAS whose answers wait."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        sizes = await super().has(keys)
        self.asked.set()
        await self.go_on.wait()
        return sizes


async def test_an_eviction_between_the_answer_and_its_arrival_is_heeded():
    cas, ac = Pausing(), DictStore()
    verdicts = Verdicts(max_seconds=60, now=FakeClock().monotonic)
    cas.on_removed(lambda part: verdicts.lose((part,)))
    store = CompletenessCheckingStore(ac, cas, verdicts=verdicts)
    part = DigestFunction.SHA256.digest_of(b"a")
    cas.blobs[part] = b"a"
    message = reapi.Digest(hash=part.hash, size_bytes=1)
    ac.blobs[ACTION] = reapi.ActionResult(stdout_digest=message).SerializeToString()

    async def evict() -> None:
        await cas.asked.wait()
        cas.remove(part)
        cas.go_on.set()

    found, _ = await run_all([store.has([ACTION]), evict()])
    # It was there when it was asked for; the next one learns better.
    assert found != [None]
    assert await store.has([ACTION]) == [None]
