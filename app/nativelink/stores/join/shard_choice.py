"""Which shard a key belongs to.

`Bounds` is NativeLink v1.6.6's choice: blobs lie where NativeLink put them, but a changed weight or
number of shards moves most of them. `Rendezvous` is ours: each shard draws a number for each key
and the lowest one gets it, so a new shard takes its share from all others and nothing else moves
(Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998; with weights as in
Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from math import log
from typing import Final, Protocol

from nativelink.core.digest import DigestFunction, StoreKey
from nativelink.core.errors import invalid_argument

__all__ = ["Bounds", "Choice", "Rendezvous"]

_U32: Final = 0xFFFF_FFFF
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF

# Of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
_GAMMA: Final = 0x9E37_79B9_7F4A_7C15
_MIX_1: Final = 0xBF58_476D_1CE4_E5B9
_MIX_2: Final = 0x94D0_49BB_1331_11EB


class Choice(Protocol):
    """Says where keys belong."""

    def __call__(self, key: StoreKey) -> int:
        """The number of the shard, from 0."""
        ...


class Bounds:
    """Shards own ranges of a 32-bit hash, one after the other, as long as their weights say.

    Args:
        weights: of each shard; 0 gets nothing.

    Raises:
        NativeLinkError: INVALID_ARGUMENT if all weights are 0.
    """

    __slots__ = ("_bounds",)

    def __init__(self, weights: Sequence[int]) -> None:
        total = _total(weights)
        bounds = list(accumulate(_U32 * weight // total for weight in weights))
        bounds[-1] = _U32
        self._bounds = bounds

    def __call__(self, key: StoreKey) -> int:
        return bisect_left(self._bounds, _hash32(key))


class Rendezvous:
    """Each shard draws a number per key, the more often a low one the larger its weight.

    A shard is known by its place in the list: new ones are added at the end, and one that is to
    get nothing any more is given the weight 0.

    Args:
        weights: of each shard; 0 gets nothing.

    Raises:
        NativeLinkError: INVALID_ARGUMENT if all weights are 0.
    """

    __slots__ = ("_shards",)

    def __init__(self, weights: Sequence[int]) -> None:
        _total(weights)
        self._shards = [
            (number, number * _GAMMA, weight) for number, weight in enumerate(weights) if weight
        ]

    def __call__(self, key: StoreKey) -> int:
        if isinstance(key, str):
            key = DigestFunction.BLAKE3.digest_of(key.encode())
        hash_, size = key
        seed = int(hash_[:16], 16) ^ size
        lowest = float("inf")
        chosen = 0
        for number, offset, weight in self._shards:
            mixed = (seed + offset) & _U64
            mixed = ((mixed ^ (mixed >> 30)) * _MIX_1) & _U64
            mixed = ((mixed ^ (mixed >> 27)) * _MIX_2) & _U64
            # 53 bits make a float that is exact; half of one more keeps it away from 0 and 1.
            drawn = -log(((mixed >> 11) + 0.5) / 2**53) / weight
            if drawn < lowest:
                lowest, chosen = drawn, number
        return chosen


def _total(weights: Sequence[int]) -> int:
    total = sum(weights)
    if not total:
        raise invalid_argument(
            f"the weights of {len(weights)} shards are all 0: one must be larger, or nothing can "
            "be stored"
        )
    return total


def _hash32(key: StoreKey) -> int:
    """NativeLink's 32-bit hash of a key."""
    if isinstance(key, str):
        return _siphash13(key.encode()) >> 32
    # All eight words of the hash and both of the size, folded into one.
    words = int.from_bytes(bytes.fromhex(key[0]), "little") ^ key[1]
    words ^= words >> 128
    words ^= words >> 64
    words ^= words >> 32
    return words & _U32


def _siphash13(data: bytes) -> int:
    """SipHash-1-3 with a key of zeros (Aumasson and Bernstein, "SipHash", 2012)."""
    state = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    end = len(data) & ~7
    for at in range(0, end, 8):
        state = _absorb(state, int.from_bytes(data[at : at + 8], "little"))
    last = int.from_bytes(data[end:], "little") | (len(data) & 0xFF) << 56
    v0, v1, v2, v3 = _absorb(state, last)
    state = (v0, v1, v2 ^ 0xFF, v3)
    for _ in range(3):
        state = _round(*state)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _absorb(state: tuple[int, int, int, int], word: int) -> tuple[int, int, int, int]:
    v0, v1, v2, v3 = state
    v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ word)
    return v0 ^ word, v1, v2, v3


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & _U64
    v1 = _rotate(v1, 13) ^ v0
    v0 = _rotate(v0, 32)
    v2 = (v2 + v3) & _U64
    v3 = _rotate(v3, 16) ^ v2
    v0 = (v0 + v3) & _U64
    v3 = _rotate(v3, 21) ^ v0
    v2 = (v2 + v1) & _U64
    v1 = _rotate(v1, 17) ^ v2
    v2 = _rotate(v2, 32)
    return v0, v1, v2, v3


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _U64
