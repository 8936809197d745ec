"""EvictingMap: rules one by one, and against a model that keeps an exact order in a list."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from nativelink.stores import eviction
from nativelink.stores.eviction import EvictingMap, EvictionPolicy


def make(policy: EvictionPolicy) -> tuple[EvictingMap[str, int], list[str]]:
    """A map of weights, and the keys that leave it."""
    entries = EvictingMap[str, int](policy, weigh=int)
    removed: list[str] = []
    entries.on_removed(lambda key, _: removed.append(key))
    return entries, removed


def test_the_oldest_entries_leave_while_the_sum_is_at_or_above_max_bytes() -> None:
    entries, removed = make(EvictionPolicy(max_bytes=10))
    entries.insert("a", 5, 0)
    entries.insert("b", 4, 0)
    assert removed == []
    entries.insert("c", 1, 0)
    assert removed == ["a"]
    assert entries.total_bytes == 5


def test_evict_bytes_makes_a_low_mark_for_a_pass_that_any_limit_started() -> None:
    entries, removed = make(EvictionPolicy(max_bytes=10, evict_bytes=6, max_count=3))
    for key in "abc":
        entries.insert(key, 2, 0)
    assert removed == []
    entries.insert("d", 1, 0)
    assert removed == ["a", "b"]
    assert entries.total_bytes == 3


def test_evict_bytes_of_max_bytes_or_more_empties_the_map_instead_of_lifting_the_limit() -> None:
    entries, removed = make(EvictionPolicy(max_bytes=10, evict_bytes=10))
    entries.insert("a", 6, 0)
    entries.insert("b", 6, 0)
    assert removed == ["a", "b"]


def test_a_value_as_large_as_max_bytes_is_not_kept() -> None:
    entries, removed = make(EvictionPolicy(max_bytes=10))
    entries.insert("big", 10, 0)
    assert removed == ["big"]
    assert len(entries) == 0


def test_looking_up_refreshes_and_peeking_does_not() -> None:
    entries, removed = make(EvictionPolicy(max_count=3))
    for key in "abc":
        entries.insert(key, 1, 0)
    assert entries.get("a", 0) == 1
    assert entries.peek("b", 0) == 1
    assert entries.peek_many(["b"], 0) == [1]
    entries.insert("d", 1, 0)
    entries.insert("e", 1, 0)
    assert removed == ["b", "c"]


def test_an_entry_expires_once_it_is_older_than_max_seconds_and_not_before() -> None:
    entries, removed = make(EvictionPolicy(max_seconds=10))
    entries.insert("a", 1, 0)
    entries.insert("b", 1, 1)
    entries.insert("c", 1, 10)
    assert removed == []
    entries.insert("d", 1, 10.5)
    assert removed == ["a"]


def test_a_look_up_drops_its_own_expired_key_even_twice_in_a_batch() -> None:
    entries, removed = make(EvictionPolicy(max_seconds=10))
    entries.insert("a", 1, 0)
    assert entries.get_many(["a", "x", "a"], 11) == [None, None, None]
    assert removed == ["a"]
    entries.insert("b", 1, 20)
    assert entries.peek("b", 31) is None
    assert removed == ["a", "b"]
    assert entries.statistics().expired_count == 2


def test_a_use_keeps_an_entry_from_expiring_though_older_ones_wait_behind_it() -> None:
    entries, removed = make(EvictionPolicy(max_seconds=10))
    entries.insert("a", 1, 0)
    entries.insert("b", 1, 1)
    assert entries.get("a", 9) == 1
    entries.insert("c", 1, 12)
    assert removed == ["b"]


def test_leased_entries_stay_and_keep_their_place() -> None:
    entries, removed = make(EvictionPolicy(max_count=2))
    for key in "ab":
        entries.insert(key, 1, 0)
    assert entries.lease("a")
    assert entries.lease("a")
    assert not entries.lease("x")
    entries.insert("c", 1, 0)
    assert removed == ["b"]
    assert list(entries.keys_oldest_first()) == ["a", "c"]
    entries.release("a", 0)
    entries.insert("d", 1, 0)
    assert removed == ["b", "c"]
    entries.release("a", 0)
    entries.release("a", 0)
    entries.insert("e", 1, 0)
    assert removed == ["b", "c", "d"]
    assert entries.statistics().leased == 0


def test_a_map_full_of_leases_evicts_only_what_is_new() -> None:
    entries, removed = make(EvictionPolicy(max_bytes=4, max_seconds=5))
    for key in "abc":
        entries.insert(key, 1, 0)
        entries.lease(key)
    entries.insert("d", 1, 9)
    assert removed == ["d"]
    assert entries.get("a", 9) == 1


def test_entries_from_before_come_in_behind_the_newer_ones() -> None:
    entries, removed = make(EvictionPolicy(max_count=3, max_seconds=100))
    entries.insert("new", 1, 50)
    entries.insert_oldest("new", 7, 49)
    entries.insert_oldest("old", 1, 40)
    entries.insert_oldest("older", 1, 30)
    entries.insert_oldest("oldest", 1, -60)
    entries.evict(50)
    assert list(entries.keys_oldest_first()) == ["older", "old", "new"]
    assert removed == ["oldest"]
    assert entries.get("new", 50) == 1


def test_room_can_be_asked_for_whatever_the_limits() -> None:
    entries, removed = make(EvictionPolicy())
    for key in "abc":
        entries.insert(key, 4, 0)
    assert entries.evict_bytes(5) == 8
    assert removed == ["a", "b"]
    assert entries.evict_bytes(100) == 4


def test_replacing_is_no_removal_and_counts_the_new_weight() -> None:
    entries, removed = make(EvictionPolicy(max_bytes=100))
    entries.insert("a", 40, 0)
    entries.insert("a", 50, 0)
    assert entries.total_bytes == 50
    assert removed == []
    assert entries.remove("a") == 50
    assert entries.remove("a") is None
    assert removed == ["a"]


def test_a_pinned_key_is_outside_of_all_limits() -> None:
    entries, removed = make(EvictionPolicy(max_bytes=4, max_seconds=5, max_count=2))
    entries.pin("empty", 0)
    entries.insert("empty", 9, 0)
    assert not entries.lease("empty")
    assert entries.remove("empty") is None
    for now, key in enumerate("abcd"):
        entries.insert(key, 1, now * 3)
        assert entries.get("empty", now * 3) == 0
    assert entries.get_many(["empty", "x"], 1e9) == [0, None]
    assert entries.evict_bytes(100) == 2
    assert removed == ["a", "b", "c", "d"]
    assert (len(entries), entries.statistics().count, entries.total_bytes) == (0, 0, 0)
    assert list(entries.keys_oldest_first()) == []
    entries.insert("e", 1, 2e9)
    entries.insert("f", 1, 2e9 + 6)
    assert removed[-1] == "e"
    assert entries.peek("empty", 3e9) == 0


KEYS = st.sampled_from("abcdefgh")


@dataclass
class Modelled:
    """A key as the model sees it."""

    weight: int
    used: float
    leases: int = 0


@dataclass
class Model:
    """The rules, written the slow way."""

    policy: EvictionPolicy
    order: list[str] = field(default_factory=list)
    entries: dict[str, Modelled] = field(default_factory=dict)

    def alive(self, key: str, now: float) -> bool:
        entry = self.entries.get(key)
        if entry is None:
            return False
        limit = self.policy.max_seconds
        if limit and now - entry.used > limit and not entry.leases:
            self.drop(key)
            return False
        return True

    def drop(self, key: str) -> None:
        self.order.remove(key)
        del self.entries[key]

    def use(self, key: str, now: float) -> None:
        self.order.remove(key)
        self.order.append(key)
        self.entries[key].used = now

    def insert(self, key: str, weight: int, now: float) -> None:
        if key in self.entries:
            self.entries[key].weight = weight
            self.use(key, now)
        else:
            self.order.append(key)
            self.entries[key] = Modelled(weight, now)
        self.evict(now)

    def evict(self, now: float) -> None:
        policy = self.policy
        loose = [key for key in self.order if not self.entries[key].leases]
        expired = [
            key
            for key in loose
            if policy.max_seconds and now - self.entries[key].used > policy.max_seconds
        ]

        def too_much(bound: int) -> bool:
            total = sum(entry.weight for entry in self.entries.values())
            return bool(
                (policy.max_bytes and total >= bound)
                or (policy.max_count and len(self.entries) > policy.max_count)
            )

        if not expired and not too_much(policy.max_bytes):
            return
        for key in expired:
            self.drop(key)
            loose.remove(key)
        while loose and too_much(max(1, policy.max_bytes - policy.evict_bytes)):
            self.drop(loose.pop(0))


class EvictingMapMachine(RuleBasedStateMachine):
    """Random calls, with notes settled after every few so that both paths are met."""

    @initialize(
        max_bytes=st.sampled_from([0, 10, 20]),
        evict_bytes=st.sampled_from([0, 3, 30]),
        max_seconds=st.sampled_from([0, 5]),
        max_count=st.sampled_from([0, 3]),
    )
    def start(self, max_bytes: int, evict_bytes: int, max_seconds: int, max_count: int) -> None:
        policy = EvictionPolicy(max_bytes, evict_bytes, max_seconds, max_count)
        self.map, self.removed = make(policy)
        self.map.pin("empty", 0)
        self.model = Model(policy)
        self.now = 0.0

    @rule(by=st.integers(0, 4))
    def pass_time(self, by: int) -> None:
        self.now += by

    @rule(key=KEYS, weight=st.integers(0, 12))
    def insert(self, key: str, weight: int) -> None:
        self.map.insert(key, weight, self.now)
        self.model.insert(key, weight, self.now)

    @rule()
    def get_what_is_pinned(self) -> None:
        assert self.map.get("empty", self.now) == 0

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        expected = None
        if self.model.alive(key, self.now):
            expected = self.model.entries[key].weight
            self.model.use(key, self.now)
        assert self.map.get(key, self.now) == expected

    @rule(keys=st.lists(KEYS, max_size=6))
    def get_many(self, keys: list[str]) -> None:
        expected = [
            self.model.entries[key].weight if self.model.alive(key, self.now) else None
            for key in keys
        ]
        for key in keys:
            if key in self.model.entries:
                self.model.use(key, self.now)
        found = self.map.get_many(keys, self.now)
        assert found == expected

    @rule(key=KEYS)
    def peek(self, key: str) -> None:
        expected = self.model.entries[key].weight if self.model.alive(key, self.now) else None
        assert self.map.peek(key, self.now) == expected

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        held = self.model.entries.get(key)
        if held is not None:
            self.model.drop(key)
        assert self.map.remove(key) == (held and held.weight)

    @rule(key=KEYS)
    def lease(self, key: str) -> None:
        held = key in self.model.entries
        if held:
            self.model.entries[key].leases += 1
        assert self.map.lease(key) == held

    @precondition(lambda self: any(entry.leases for entry in self.model.entries.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        leased = sorted(key for key, entry in self.model.entries.items() if entry.leases)
        key = data.draw(st.sampled_from(leased))
        entry = self.model.entries[key]
        entry.leases -= 1
        if not entry.leases and self.model.alive(key, self.now):
            self.model.use(key, self.now)
        self.map.release(key, self.now)

    @rule(wanted=st.integers(0, 10))
    def evict_bytes(self, wanted: int) -> None:
        freed = 0
        for key in list(self.model.order):
            if freed >= wanted:
                break
            if not self.model.entries[key].leases:
                freed += self.model.entries[key].weight
                self.model.drop(key)
        assert self.map.evict_bytes(wanted) == freed

    @rule()
    def settle(self) -> None:
        assert list(self.map.keys_oldest_first()) == self.model.order

    @invariant()
    def the_sums_agree(self) -> None:
        weights = [entry.weight for entry in self.model.entries.values()]
        statistics = self.map.statistics()
        assert (statistics.count, statistics.total_bytes) == (len(weights), sum(weights))
        gone = statistics.evicted_count + statistics.expired_count
        assert len(self.removed) >= gone


TestEvictingMap = EvictingMapMachine.TestCase


def test_notes_are_settled_before_they_take_much_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "_MAX_NOTES", 10)
    entries, removed = make(EvictionPolicy(max_count=3))
    for key in "abc":
        entries.insert(key, 1, 0)
    for _ in range(50):
        entries.get("a", 0)
        entries.get_many(["b", "x"], 0)
        assert len(entries._notes) < 12
    entries.insert("d", 1, 0)
    assert removed == ["c"]


def test_a_map_that_is_cleared_holds_what_is_pinned_and_starts_anew() -> None:
    entries, removed = make(EvictionPolicy(max_bytes=10, max_seconds=10, max_count=3))
    entries.pin("pinned", 0)
    for key in "ab":
        entries.insert(key, 2, 0)
    entries.lease("a")
    entries.get("b", 1)
    entries.clear()
    assert sorted(removed) == ["a", "b"]
    assert (len(entries), entries.total_bytes) == (0, 0)
    assert entries.statistics().leased == 0
    assert entries.get_many(["a", "b", "pinned"], 100) == [None, None, 0]
    entries.insert("a", 3, 105)
    entries.release("a", 105)
    entries.evict(106)
    assert (len(entries), entries.total_bytes, entries.get("a", 106)) == (1, 3, 3)
    entries.clear()
    assert removed.count("a") == 2
