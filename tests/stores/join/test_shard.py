"""Where keys belong. The golden data of NativeLink is in test_wrappers_golden.py."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from nativelink.core.digest import Digest, DigestFunction, StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.join.shard import ShardStore
from nativelink.stores.join.shard_choice import Bounds, Choice, Rendezvous, _siphash13
from nativelink.testing.fakes import DictStore


def keys(count: int) -> list[StoreKey]:
    noise = random.Random(count)
    found: list[StoreKey] = [
        Digest(noise.randbytes(32).hex(), noise.randrange(10**6)) for _ in range(count)
    ]
    return found + [f"key {number}" for number in range(count)]


@pytest.mark.parametrize("choice", [Bounds, Rendezvous])
def test_shards_get_as_much_as_their_weights_say(choice: type[Bounds | Rendezvous]) -> None:
    count = Counter(map(choice((1, 0, 2, 5)), keys(8_000)))
    assert count[1] == 0
    for shard, weight in ((0, 1), (2, 2), (3, 5)):
        assert count[shard] == pytest.approx(2_000 * weight, rel=0.1)


def test_a_new_shard_takes_its_share_by_rendezvous_and_nothing_else_moves() -> None:
    before, after = Rendezvous((1, 2, 1)), Rendezvous((1, 2, 1, 2))
    moved = [(before(key), after(key)) for key in keys(3_000) if before(key) != after(key)]
    assert {to for _, to in moved} == {3}
    assert len(moved) == pytest.approx(6_000 / 3, rel=0.1)
    # From all others, by their weights.
    assert Counter(origin for origin, _ in moved)[1] == pytest.approx(1_000, rel=0.15)


def test_a_shard_that_is_taken_away_leaves_all_other_keys_where_they_are() -> None:
    before, after = Rendezvous((1, 1, 1)), Rendezvous((1, 0, 1))
    assert all(after(key) == before(key) for key in keys(2_000) if before(key) != 1)


def test_rendezvous_places_stay_the_same_for_ever() -> None:
    choice = Rendezvous((3, 1, 2, 2))
    placed = [choice(DigestFunction.SHA256.digest_of(b"%d" % number)) for number in range(16)]
    assert placed == [0, 3, 1, 0, 3, 2, 0, 0, 0, 2, 3, 2, 0, 0, 3, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", 0xD1FBA762150C532C),
        (b"a", 0x407448D2B89B1813),
        (b"12345678", 0x3489982430560A87),
        (b"hello world, shard", 0x3DFA2BF6C14F0B3D),
    ],
)
def test_the_hash_of_strings_is_siphash_1_3(text: bytes, expected: int) -> None:
    # Expected is what Rust's DefaultHasher makes of the same bytes.
    assert _siphash13(text) == expected


@pytest.mark.parametrize("choice", [Bounds, Rendezvous])
def test_weights_that_are_all_zero_are_refused(choice: type[Bounds | Rendezvous]) -> None:
    with pytest.raises(NativeLinkError) as caught:
        choice((0, 0))
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_a_batch_is_asked_for_in_one_call_per_shard() -> None:
    asked: list[int] = []

    class Asked(DictStore):
        async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
            asked.append(len(keys))
            return await super().has(keys)

    choice: Choice = Bounds((1, 1))
    store = ShardStore((Asked(), Asked()), choice)
    batch = keys(50)
    assert await store.has(batch) == [None] * 100
    assert sorted(asked) == sorted(Counter(map(choice, batch)).values())
