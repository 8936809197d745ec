"""Remembers which blobs a slow store has."""

from __future__ import annotations

from collections.abc import Sequence

from nativelink.core.clock import Clock
from nativelink.core.digest import EMPTY_DIGESTS, Digest, StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.latch import Latch
from nativelink.core.streams import CountingSink, Sink, Source
from nativelink.stores.eviction import EvictingMap, EvictionPolicy, EvictionStatistics
from nativelink.stores.store import DelegatingStore, RemovalFeed, Store

__all__ = ["ExistenceCacheStore"]


class ExistenceCacheStore(DelegatingStore):
    """Answers `has` from memory for digests that were there a while ago.

    Only presence is remembered, never absence, so an upload is seen at once, wherever it came
    from. What is remembered may have left the backend since. It is forgotten

    - when it is as old as the policy says (`max_seconds`, which should be shorter than anything
      lives in the backend): being asked for does not make it younger, being put does;
    - when the backend says that it removed the blob (`removals`), or that it may have removed any;
    - when a read finds that the blob is not there.

    A `put` of a digest that is remembered goes to the backend all the same. NativeLink reads such
    an upload to its end and throws it away, which loses the blob if the backend has lost its own,
    and loses the new value where the digest is an action's and the value its result. A client
    that asks `has` first does not upload again anyway, and a backend knows best what it has.

    Concurrent questions about one digest share one answer, and all the unknown digests of a batch
    are asked for together. A string key's value may change, so string keys pass through.

    Args:
        backend: the store that is asked for what is not remembered.
        eviction: how much is remembered, and for how long; an entry weighs as much as its blob.
        clock: ages are measured by its monotonic time.
        removals: what the backend loses, if that can be known.
    """

    __slots__ = ("_claims", "_map", "_now")

    def __init__(
        self,
        backend: Store,
        *,
        eviction: EvictionPolicy,
        clock: Clock,
        removals: RemovalFeed | None,
    ) -> None:
        super().__init__(backend)
        self._map: EvictingMap[StoreKey, int] = EvictingMap(eviction, weigh=int)
        for digest in EMPTY_DIGESTS:
            self._map.pin(digest, 0)
        self._now = clock.monotonic
        #: Who may remember a digest when its call ends. A removal that comes in between takes
        #: the claim away, so an answer that was true a moment ago is not kept for an hour.
        self._claims: dict[Digest, _Claim] = {}
        if removals is not None:
            removals.on_removed(self._removed)

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        sizes = self._map.peek_many(keys, self._now())
        if None not in sizes:
            return sizes
        unknown = [key for key, size in zip(keys, sizes, strict=True) if size is None]
        found = await self._look_up(unknown)
        return [found[key] if size is None else size for key, size in zip(keys, sizes, strict=True)]

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        try:
            if (
                offset
                or limit is not None
                or not isinstance(key, Digest)
                or self._map.peek(key, self._now()) is not None
            ):
                await self._backend.get(key, sink, offset=offset, limit=limit)
            else:
                await self._get_unknown(key, sink)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                self._forget(key)
            raise

    async def put(self, key: StoreKey, source: Source) -> int:
        if not isinstance(key, Digest):
            return await self._backend.put(key, source)
        claim = self._claims[key] = _Claim()
        try:
            size = await self._backend.put(key, source)
            self._remember(key, size, claim)
        finally:
            self._drop(key, claim)
        return size

    def statistics(self) -> EvictionStatistics:
        """How much is remembered, and how much was forgotten for want of room or by age."""
        return self._map.statistics()

    async def _look_up(self, keys: Sequence[StoreKey]) -> dict[StoreKey, int | None]:
        """Ask the backend for what nobody asks for already, and wait for those who do."""
        lookup = _Lookup()
        mine: dict[StoreKey, None] = {}
        theirs: dict[Digest, _Lookup] = {}
        for key in keys:
            if isinstance(key, Digest):
                claim = self._claims.setdefault(key, lookup)
                if claim is not lookup and isinstance(claim, _Lookup):
                    theirs[key] = claim
                    continue
            mine[key] = None
        if mine:
            await self._ask(list(mine), lookup)
        found = lookup.sizes
        again: list[StoreKey] = []
        for key, other in theirs.items():
            await other.ended.wait()
            if other.error is not None:
                raise other.error.copy()
            if key in other.sizes:
                found[key] = other.sizes[key]
            else:
                again.append(key)  # Those who asked were cancelled.
        if again:
            found |= await self._look_up(again)
        return found

    async def _ask(self, keys: list[StoreKey], lookup: _Lookup) -> None:
        try:
            sizes = await self._backend.has(keys)
            lookup.sizes.update(zip(keys, sizes, strict=True))
            for key, size in lookup.sizes.items():
                if size is not None and isinstance(key, Digest):
                    self._remember(key, size, lookup)
        except NativeLinkError as error:
            lookup.error = error
            raise
        finally:
            for key in keys:
                if isinstance(key, Digest):
                    self._drop(key, lookup)
            lookup.ended.set()

    async def _get_unknown(self, key: Digest, sink: Sink) -> None:
        """A whole read of what is not remembered yet: if it succeeds, it will be."""
        claim = _Claim()
        self._claims.setdefault(key, claim)
        counted = CountingSink(sink)
        try:
            await self._backend.get(key, counted)
            self._remember(key, counted.size, claim)
        finally:
            self._drop(key, claim)

    def _remember(self, key: Digest, size: int, claim: _Claim) -> None:
        if self._claims.get(key) is claim:
            self._map.insert(key, size, self._now())

    def _drop(self, key: Digest, claim: _Claim) -> None:
        if self._claims.get(key) is claim:
            del self._claims[key]

    def _removed(self, key: StoreKey | None) -> None:
        if key is None:
            self._map.clear()
            # Who asks right now may have been answered before whatever was missed.
            self._claims.clear()
        else:
            self._forget(key)

    def _forget(self, key: StoreKey) -> None:
        if isinstance(key, Digest):
            self._map.remove(key)
            self._claims.pop(key, None)


class _Claim:
    """The right of one call to remember a digest; compared by identity."""

    __slots__ = ()


class _Lookup(_Claim):
    """A question under way to the backend, whose answer others may wait for.

    Attributes:
        sizes: the answers; a digest is missing while there is none, or if the call was cancelled.
        error: what the backend raised instead.
        ended: set when one of these is there, or never will be.
    """

    __slots__ = ("ended", "error", "sizes")

    def __init__(self) -> None:
        self.sizes: dict[StoreKey, int | None] = {}
        self.error: NativeLinkError | None = None
        self.ended = Latch()
