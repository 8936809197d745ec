"""What is made of a store's spec: the store, and the powers that others may need of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from nativelink.config.specs_common import EvictionSpec
from nativelink.config.specs_stores import StoreSpec
from nativelink.core.digest import Digest, StoreKey
from nativelink.stores.eviction import EvictionPolicy, EvictionStatistics
from nativelink.stores.local_files import LocalFiles
from nativelink.stores.store import (
    BlobFinder,
    BlobSplitter,
    RemovalFeed,
    Store,
    TreeSource,
)

__all__ = ["Build", "Leaf", "LocalTiers", "Node", "feeds", "finder_of", "policy_of"]


@dataclass(frozen=True, slots=True)
class LocalTiers:
    """What a worker needs of a fast_slow store over a filesystem store.

    Attributes:
        files: the fast side's files.
        upstream: the slow side, if it takes uploads: where everybody finds what is stored.
        trees: gives whole trees, if the slow side can.
    """

    files: LocalFiles
    upstream: Store | None
    trees: TreeSource | None


@dataclass(frozen=True, slots=True)
class Node:
    """A store, and the powers that others may need from it.

    Attributes:
        store: the store.
        removals: says which keys left it, where that can be known.
        keeps: False if it keeps nothing (noop), so that nobody need bring it anything.
        files: its blobs as files of this machine, if they are.
        trees: gives whole trees in one call, if it can.
        tiers: its two sides, if it is a fast_slow store whose fast side's blobs are files.
        finder: finds all that is in it by the hash alone, if it can.
        verified: what is put is checked against its digest.
        splitter: splits and splices blobs where they are, if it can.
    """

    store: Store
    removals: RemovalFeed | None = None
    keeps: bool = True
    files: LocalFiles | None = None
    trees: TreeSource | None = None
    tiers: LocalTiers | None = None
    finder: BlobFinder | None = None
    verified: bool = False
    splitter: BlobSplitter | None = None

    def around(self, store: Store) -> Node:
        """A wrapper of this store that keeps the same bytes under the same keys."""
        return Node(
            store,
            self.removals,
            finder=self.finder,
            verified=self.verified,
            splitter=self.splitter,
        )


@dataclass(frozen=True, slots=True)
class Leaf:
    """A store that keeps something itself, for health checks, metrics and the admin page.

    Attributes:
        path: its place in the configuration without `stores/`, such as `CAS/slow`.
        kind: the configuration's key, such as `filesystem`.
        place: where it keeps what it has, in words for people.
        policy: its limits.
        entries: what it holds, and what it let go so far.
        statistics: that and more, for people; a dataclass.
    """

    path: str
    kind: str
    place: str
    policy: EvictionPolicy
    entries: Callable[[], EvictionStatistics]
    statistics: Callable[[], Any]


#: Makes the store of a spec that stands at a path, such as `CAS/fast`.
Build: TypeAlias = Callable[[StoreSpec, str], Awaitable[Node]]


class _AllFeeds:
    """What left any of several stores."""

    def __init__(self, feeds: Sequence[RemovalFeed]) -> None:
        self._feeds = feeds

    def on_removed(self, callback: Callable[[StoreKey | None], None], /) -> None:
        for feed in self._feeds:
            feed.on_removed(callback)


def feeds(*nodes: Node) -> RemovalFeed | None:
    """What is known of what leaves several stores: one that does not say hides no other."""
    known = [node.removals for node in nodes if node.removals is not None]
    return _AllFeeds(known) if known else None


class _AnyFinder:
    """Finds what is in one of several stores, or in the other."""

    def __init__(self, finders: Sequence[BlobFinder]) -> None:
        self._finders = finders

    async def find(self, hash_: str) -> Digest | None:
        for finder in self._finders:
            found = await finder.find(hash_)
            if found is not None:
                return found
        return None


def finder_of(*nodes: Node) -> BlobFinder | None:
    """Finds what is in several stores; None if one of them cannot say what it has."""
    finders = [node.finder for node in nodes if node.keeps]
    known = [finder for finder in finders if finder is not None]
    if len(known) < len(finders):
        return None
    return known[0] if len(known) == 1 else _AnyFinder(known)


def policy_of(spec: EvictionSpec | None) -> EvictionPolicy:
    """The limits of an eviction policy; none if there is no spec."""
    if spec is None:
        return EvictionPolicy()
    return EvictionPolicy(
        max_bytes=spec.max_bytes,
        evict_bytes=spec.evict_bytes,
        max_seconds=spec.max_seconds,
        max_count=spec.max_count,
    )
