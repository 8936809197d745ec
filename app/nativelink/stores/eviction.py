"""Which entries leave a bounded store: least recently used first, by bytes, count and age.

`EvictingMap` is the look-up table and the order of memory, filesystem and existence_cache. It is
pure: it holds no clock, does no I/O and never awaits; time comes in with each call. Its rules are
the documented ones of NativeLink's eviction policy (docs/configuration.md, EvictionPolicy).

The order is exact but kept lazily. A look-up of a thousand keys only notes them, in one list; they
are moved to the recent end when somebody needs the order: when something must be evicted, or when
the notes reach `_MAX_NOTES`. A note costs a few nanoseconds, a move as much as the look-up itself,
and a key that is met a hundred times between two settlings is moved once.

There is no object per entry but the key and the value: a million entries are then a million
objects less for the garbage collector to walk through while the event loop waits.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

__all__ = ["EvictingMap", "EvictionPolicy", "EvictionStatistics"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Settling so many notes takes about a millisecond; the keys in them may be the callers' own, of
#: 200 bytes each.
_MAX_NOTES: Final = 4096


@dataclass(frozen=True, slots=True)
class EvictionPolicy:
    """The limits of a store; 0 switches a limit off.

    Attributes:
        max_bytes: entries are evicted while their sum is this much or more.
        evict_bytes: once anything must be evicted, go on until the sum is below
            `max_bytes - evict_bytes`, so that a full store does not evict at every insertion.
        max_seconds: an entry that was not used for longer than this expires.
        max_count: so many entries are kept.
    """

    max_bytes: int = 0
    evict_bytes: int = 0
    max_seconds: float = 0
    max_count: int = 0


@dataclass(frozen=True, slots=True)
class EvictionStatistics:
    """What an `EvictingMap` holds and has let go since it was made.

    Attributes:
        count: entries held.
        total_bytes: their sum, as the store weighs them.
        leased: entries held that may not be evicted now.
        evicted_count: entries that left for want of room.
        evicted_bytes: their sum.
        expired_count: entries that left because of their age.
        expired_bytes: their sum.
    """

    count: int
    total_bytes: int
    leased: int
    evicted_count: int
    evicted_bytes: int
    expired_count: int
    expired_bytes: int


class EvictingMap(Generic[K, V]):
    """A mapping that lets go of its least recently used entries.

    Looking a key up refreshes it, peeking does not; both drop the key if it is expired. Insertion
    evicts. `now` is any clock in seconds that never goes back, the same one for all calls.

    Args:
        policy: the limits.
        weigh: what a value counts against `max_bytes`; a function of the value alone.
    """

    __slots__ = (
        "_bytes",
        "_callbacks",
        "_evicted_bytes",
        "_evicted_count",
        "_expired_bytes",
        "_expired_count",
        "_leases",
        "_low_bytes",
        "_max_bytes",
        "_max_count",
        "_max_seconds",
        "_next_expiry",
        "_notes",
        "_pinned",
        "_used",
        "_values",
        "_weigh",
    )

    def __init__(self, policy: EvictionPolicy, *, weigh: Callable[[V], int]) -> None:
        self._max_bytes = policy.max_bytes
        # The reference switches its size check off when evict_bytes >= max_bytes, which leaves
        # the store without the bound that was asked for; here such a pass empties it.
        self._low_bytes = max(policy.max_bytes - policy.evict_bytes, 1)
        self._max_seconds = policy.max_seconds
        self._max_count = policy.max_count
        self._weigh = weigh
        self._values: OrderedDict[K, V] = OrderedDict()
        #: When each key was last used, only under `max_seconds`.
        self._used: dict[K, float] = {}
        #: Keys that were looked up since the order was last settled, in order; not all are held.
        self._notes: list[K] = []
        #: A time before which nothing expires: ages only ever get younger.
        self._next_expiry = 0.0
        self._leases: dict[K, int] = {}
        self._pinned: set[K] = set()
        self._callbacks: list[Callable[[K, V], None]] = []
        self._bytes = 0
        self._evicted_count = 0
        self._evicted_bytes = 0
        self._expired_count = 0
        self._expired_bytes = 0

    def __len__(self) -> int:
        return len(self._values) - len(self._pinned)

    def __contains__(self, key: K) -> bool:
        """Whether the key is held, expired or not; nothing is refreshed or dropped."""
        return key in self._values

    @property
    def total_bytes(self) -> int:
        """The sum of all entries as the store weighs them."""
        return self._bytes

    def pin(self, key: K, value: V) -> None:
        """Hold a key for ever, outside of all limits, sums and counts.

        For the empty blob, which is always there: a look-up finds it like any other, so no
        look-up pays for a second question.
        """
        self._pinned.add(key)
        self._values[key] = value
        if self._max_seconds:
            self._used[key] = math.inf

    def on_removed(self, callback: Callable[[K, V], None]) -> None:
        """Call `callback` for every entry that is evicted, expires or is removed.

        Not for a value that a newer one of the same key replaces. The map is consistent then, but
        must not be changed by the callback.
        """
        self._callbacks.append(callback)

    def get(self, key: K, now: float) -> V | None:
        """The value, or None; refreshes the key."""
        value = self._values.get(key)
        if value is None or (self._max_seconds and not self._use(key, now)):
            return None
        self._notes.append(key)
        if len(self._notes) >= _MAX_NOTES:
            self._settle()
        return value

    def get_many(self, keys: Sequence[K], now: float) -> list[V | None]:
        """The value of each key, position by position, None where it is absent; refreshes them."""
        values: list[V | None] = list(map(self._values.get, keys))
        if self._max_seconds:
            for index, key in enumerate(keys):
                if values[index] is not None and not self._use(key, now):
                    values[index] = None
        # Keys that are all absent, as of a new build, have no order to be kept.
        if values.count(None) < len(values):
            self._notes += keys
            if len(self._notes) >= _MAX_NOTES:
                self._settle()
        return values

    def peek(self, key: K, now: float) -> V | None:
        """The value, or None; leaves age and order as they are."""
        value = self._values.get(key)
        if value is None or (self._max_seconds and not self._is_alive(key, now)):
            return None
        return value

    def peek_many(self, keys: Sequence[K], now: float) -> list[V | None]:
        """`get_many` that leaves age and order as they are."""
        values: list[V | None] = list(map(self._values.get, keys))
        if self._max_seconds:
            for index, key in enumerate(keys):
                if values[index] is not None and not self._is_alive(key, now):
                    values[index] = None
        return values

    def insert(self, key: K, value: V, now: float) -> None:
        """Put or replace a value as the most recent one, then evict what is too much.

        A value that alone reaches `max_bytes` is evicted at once, with everything else. A pinned
        key keeps its value.
        """
        if key in self._pinned:
            return
        older = self._values.get(key)
        if older is not None:
            self._bytes -= self._weigh(older)
        self._values[key] = value
        self._bytes += self._weigh(value)
        if self._max_seconds:
            self._used[key] = now
        # Noted like a look-up, as it is more recent than the notes before it.
        self._notes.append(key)
        self.evict(now)

    def insert_oldest(self, key: K, value: V, used: float) -> None:
        """Put a value that was last used at `used` as the least recent one; evicts nothing.

        For what was there before the map: to be called from the most recent to the least, with
        `evict` at the end. A key that is held already stays as it is.
        """
        if key not in self._values:
            self._values[key] = value
            self._values.move_to_end(key, last=False)
            self._bytes += self._weigh(value)
            if self._max_seconds:
                self._used[key] = used
                self._next_expiry = min(self._next_expiry, used + self._max_seconds)

    def remove(self, key: K) -> V | None:
        """Take a key out; its value, or None if it was not held."""
        if key not in self._values or key in self._pinned:
            return None
        self._leases.pop(key, None)
        return self._drop(key)

    def clear(self) -> None:
        """Take all keys out, as `remove` does."""
        self._notes.clear()
        self._leases.clear()
        pinned = {key: self._values[key] for key in self._pinned}
        gone = {} if not self._callbacks else self._values.copy()
        self._values.clear()
        self._values.update(pinned)
        self._used = {key: used for key, used in self._used.items() if key in pinned}
        self._bytes = 0
        for key, value in gone.items():
            if key not in pinned:
                for callback in self._callbacks:
                    callback(key, value)

    def lease(self, key: K) -> bool:
        """Keep a key from being evicted until `release`; False if it is not held.

        Leases of one key are counted. `remove` ends them all.
        """
        if key not in self._values or key in self._pinned:
            return False
        self._leases[key] = self._leases.get(key, 0) + 1
        return True

    def release(self, key: K, now: float) -> None:
        """End one lease, which counts as a use of the key just now."""
        count = self._leases.get(key, 0)
        if count > 1:
            self._leases[key] = count - 1
        elif count:
            del self._leases[key]
            self.get(key, now)

    def evict(self, now: float) -> None:
        """Evict what the policy demands now."""
        expiring = self._max_seconds and now > self._next_expiry
        over = (self._max_bytes and self._bytes >= self._max_bytes) or (
            self._max_count and len(self) > self._max_count
        )
        if not (expiring or over):
            if len(self._notes) >= _MAX_NOTES:
                self._settle()
            return
        self._settle()
        if self._max_seconds:
            over = self._evict_expired(now) or over
        if over:
            self._evict_while(self._is_too_much)
        if self._max_seconds:
            oldest = self._used[next(iter(self._values))] if len(self) else now
            self._next_expiry = oldest + self._max_seconds

    def evict_bytes(self, wanted: int) -> int:
        """Evict the least recent entries until `wanted` bytes are free; returns how many are."""
        self._settle()
        before = self._bytes
        self._evict_while(lambda: before - self._bytes < wanted)
        return before - self._bytes

    def statistics(self) -> EvictionStatistics:
        """Figures of this moment."""
        return EvictionStatistics(
            count=len(self),
            total_bytes=self._bytes,
            leased=len(self._leases),
            evicted_count=self._evicted_count,
            evicted_bytes=self._evicted_bytes,
            expired_count=self._expired_count,
            expired_bytes=self._expired_bytes,
        )

    def keys_oldest_first(self) -> Sequence[K]:
        """All keys in the order in which they would be evicted."""
        self._settle()
        return [key for key in self._values if key not in self._pinned]

    def _is_too_much(self) -> bool:
        return bool(
            (self._max_bytes and self._bytes >= self._low_bytes)
            or (self._max_count and len(self) > self._max_count)
        )

    def _evict_expired(self, now: float) -> bool:
        before = self._expired_count
        oldest = now - self._max_seconds
        used = self._used
        self._evict_while(lambda: used[next(iter(self._values))] < oldest, expired=True)
        return self._expired_count > before

    def _evict_while(self, condition: Callable[[], bool], *, expired: bool = False) -> None:
        """Let go of the least recent entry again and again; leased ones are passed over."""
        values = self._values
        for key in self._pinned:
            values.move_to_end(key)
        passed: list[K] = []
        while len(self) > len(passed) and condition():
            key = next(iter(values))
            if key in self._leases:
                # Out of the way for this pass, back in its place afterwards.
                passed.append(key)
                values.move_to_end(key)
            elif expired:
                self._expire(key)
            else:
                self._evicted_count += 1
                self._evicted_bytes += self._weigh(values[key])
                self._drop(key)
        for key in reversed(passed):
            values.move_to_end(key, last=False)

    def _use(self, key: K, now: float) -> bool:
        """Refresh the age of a key under `max_seconds`; False if it is too old or gone."""
        if not self._is_alive(key, now):
            return False
        if self._used[key] < now:  # A pinned key is of the far future.
            self._used[key] = now
        return True

    def _is_alive(self, key: K, now: float) -> bool:
        """Whether a key is held and young enough, under `max_seconds`; lets it go if it is not."""
        used = self._used.get(key)
        if used is None:
            return False  # Let go a moment ago: one key may stand several times in a batch.
        if now - used <= self._max_seconds or key in self._leases:
            return True
        self._expire(key)
        return False

    def _expire(self, key: K) -> None:
        self._expired_count += 1
        self._expired_bytes += self._weigh(self._values[key])
        self._drop(key)

    def _drop(self, key: K) -> V:
        value = self._values.pop(key)
        self._used.pop(key, None)
        self._bytes -= self._weigh(value)
        for callback in self._callbacks:
            callback(key, value)
        return value

    def _settle(self) -> None:
        """Bring the order up to date."""
        # The last note of a key counts, so they are gone through backwards and each once.
        latest = dict.fromkeys(reversed(self._notes))
        self._notes.clear()
        values = self._values
        move_to_end = values.move_to_end
        for key in reversed(latest):
            if key in values:
                move_to_end(key)
