"""Which action results were found complete a short while ago."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from types import TracebackType
from typing import Final, Self

from nativelink.core.digest import Digest, StoreKey

__all__ = ["Check", "VerdictStatistics", "Verdicts"]

#: Parts of all remembered results together. One costs about 150 bytes, so these cost 40 MB.
MAX_PARTS: Final = 250_000

#: A result of more parts is checked each time: forgetting it takes as long as it has parts.
MAX_PARTS_OF_RESULT: Final = 20_000

#: What is lost while a check runs is noted up to here. Beyond, its verdict is not remembered.
_MAX_LOST: Final = 10_000

#: A verdict weighs this much beside its parts.
_OWN_WEIGHT: Final = 4


@dataclass(frozen=True, slots=True)
class VerdictStatistics:
    """What is remembered, and what came of it.

    Attributes:
        count: results remembered.
        parts: their parts.
        confirmed: questions that were answered without the CAS.
        checked: questions for which the CAS was asked.
        revoked: verdicts that were forgotten because a part was lost.
    """

    count: int
    parts: int
    confirmed: int
    checked: int
    revoked: int


@dataclass(slots=True)
class _Verdict:
    """A result that was complete.

    Attributes:
        fingerprint: of its bytes: the value of a key may change.
        expires: by the monotonic clock.
        parts: hashes of what it needs; two parts of one hash are forgotten together.
    """

    fingerprint: bytes
    expires: float
    parts: tuple[int, ...]


class Verdicts:
    """Remembers that results were complete, never that they were not.

    A verdict belongs to the exact bytes of a result under its key. It is forgotten

    - when `max_seconds` have passed since the CAS was asked: being of use does not make it younger;
    - when one of its parts is known to have left the CAS, or was looked for there in vain, or when
      the CAS says that it may have lost any;
    - when there are more than `MAX_PARTS` parts in memory: the oldest verdict goes first.

    So a result is wrongly called complete only if a part vanished that nobody has asked for since
    and whose store does not tell, and only for `max_seconds`, which must be shorter than anything
    lives in the CAS: what was there when it was asked for cannot have become too old meanwhile.

    Args:
        max_seconds: how long a verdict is good for.
        now: a clock that never goes back.
    """

    def __init__(self, *, max_seconds: float, now: Callable[[], float]) -> None:
        self._max_seconds = max_seconds
        self._now = now
        #: The oldest first, which is the first to expire.
        self._verdicts: OrderedDict[Digest, _Verdict] = OrderedDict()
        #: Hash of a part -> the results that need it: one key, or several.
        self._needed_by: dict[int, Digest | set[Digest]] = {}
        self._weight = 0
        self._checks: set[Check] = set()
        self._confirmed = 0
        self._checked = 0
        self._revoked = 0

    def confirms(self, key: Digest, value: bytes) -> bool:
        """Whether this result was complete a short while ago."""
        verdict = self._verdicts.get(key)
        if verdict is not None:
            if verdict.expires <= self._now() or verdict.fingerprint != _fingerprint(value):
                self._forget(key)
            else:
                self._confirmed += 1
                return True
        self._checked += 1
        return False

    def checking(self, key: Digest, value: bytes) -> Check:
        """A check that begins now, as a context; its verdict counts from now."""
        return Check(self, key, _fingerprint(value), self._now() + self._max_seconds)

    def statistics(self) -> VerdictStatistics:
        """What is remembered now."""
        count = len(self._verdicts)
        return VerdictStatistics(
            count,
            self._weight - count * _OWN_WEIGHT,
            self._confirmed,
            self._checked,
            self._revoked,
        )

    def begin(self, check: Check) -> None:
        """Tell a check of what is lost from now on."""
        self._checks.add(check)

    def end(self, check: Check) -> None:
        """Tell it no more."""
        self._checks.discard(check)

    def remember(self, key: Digest, fingerprint: bytes, expires: float, parts: set[int]) -> None:
        """Keep a verdict."""
        if expires <= self._now():
            return
        if key in self._verdicts:
            self._forget(key)
        self._verdicts[key] = _Verdict(fingerprint, expires, tuple(parts))
        self._weight += len(parts) + _OWN_WEIGHT
        for part in parts:
            others = self._needed_by.setdefault(part, key)
            if isinstance(others, set):
                others.add(key)
            elif others is not key:
                self._needed_by[part] = {others, key}
        while self._weight > MAX_PARTS:
            self._forget(next(iter(self._verdicts)))

    def _forget(self, key: Digest) -> None:
        verdict = self._verdicts.pop(key)
        self._weight -= len(verdict.parts) + _OWN_WEIGHT
        for part in verdict.parts:
            others = self._needed_by[part]
            if isinstance(others, set):
                others.discard(key)
                if not others:
                    del self._needed_by[part]
            else:
                del self._needed_by[part]

    def removed(self, part: StoreKey | None) -> None:
        """Forget the results that need what left the CAS (`RemovalFeed`)."""
        if part is not None:
            self.lose((part,))
            return
        self._revoked += len(self._verdicts)
        self._verdicts.clear()
        self._needed_by.clear()
        self._weight = 0
        for check in self._checks:
            check.give_up()

    def lose(self, parts: Iterable[StoreKey]) -> None:
        """Forget the results that need one of these: they are not in the CAS."""
        if not self._needed_by and not self._checks:
            return
        hashes = set(map(hash, parts))
        for check in self._checks:
            check.lose(hashes)
        # A new build asks for thousands of blobs that nobody has: the set is what is quick.
        for part in self._needed_by.keys() & hashes:
            # Another part of the same result may have been the one before.
            keys = self._needed_by.get(part)
            for key in (keys,) if isinstance(keys, Digest) else tuple(keys or ()):
                self._revoked += 1
                self._forget(key)


class Check:
    """One look at all parts of a result. A context manager.

    Args:
        verdicts: where the verdict goes.
        key: of the result.
        fingerprint: of its bytes.
        expires: when the verdict is too old.
    """

    __slots__ = ("_expires", "_fingerprint", "_key", "_lost", "_parts", "_verdicts")

    def __init__(self, verdicts: Verdicts, key: Digest, fingerprint: bytes, expires: float) -> None:
        self._verdicts = verdicts
        self._key = key
        self._fingerprint = fingerprint
        self._expires = expires
        self._parts: set[int] = set()
        #: What was lost since it began; None if that, or the result, is too much to remember.
        self._lost: set[int] | None = set()

    def __enter__(self) -> Self:
        self._verdicts.begin(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._verdicts.end(self)
        if error is None and self._lost is not None and self._lost.isdisjoint(self._parts):
            self._verdicts.remember(self._key, self._fingerprint, self._expires, self._parts)

    def add(self, parts: Sequence[Digest]) -> None:
        """Note parts that are there."""
        if self._lost is None:
            return
        if len(self._parts) + len(parts) > MAX_PARTS_OF_RESULT:
            self.give_up()
            return
        self._parts.update(map(hash, parts))

    def lose(self, parts: set[int]) -> None:
        """Note what is not in the CAS."""
        if self._lost is None:
            return
        self._lost |= parts
        if len(self._lost) > _MAX_LOST:
            self.give_up()

    def give_up(self) -> None:
        """Have nothing remembered of what is found."""
        self._lost = None
        self._parts.clear()


def _fingerprint(value: bytes) -> bytes:
    return blake2b(value, digest_size=16).digest()
