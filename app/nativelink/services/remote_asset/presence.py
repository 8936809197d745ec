"""Whether all that an asset refers to is in the CAS.

A client takes an answer for granted: what is named to it must be there, and stay for a while
(Fetch service, REAPI v2). Asking for a blob makes it younger in the stores, so what is asked for
often is kept. A tree is read whole for that, so one that was there is believed to be for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError

from nativelink.core.digest import Digest, parse_many
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.store import Store
from nativelink.stores.wrap.tree_digests import DigestPairs, read_digests
from nativelink.stores.wrap.verdicts import Check, Verdicts

__all__ = ["is_complete"]

#: Directories read at once. A tree of 5,000 of them takes 3 s from a store that answers after
#: 20 ms; with 16 it takes 8 s. From memory it takes a quarter of a second of processor time.
_CONCURRENT_READS: Final = 64
#: Different directories of one tree, as GetTree has it: far more than real ones have.
_MAX_DIRECTORIES: Final = 500_000


async def is_complete(
    cas: Store,
    *,
    blobs: Iterable[Digest],
    directories: Iterable[Digest] = (),
    verdicts: Verdicts | None = None,
) -> bool:
    """Whether blobs, and directories with all that is in them, are there.

    Args:
        cas: where they should be.
        blobs: looked at one by one.
        directories: roots of trees.
        verdicts: remembers the tree that was there a short while ago, if it is one; None: all
            are read anew.

    Raises:
        NativeLinkError: what the CAS raised, other than NOT_FOUND.
    """
    try:
        await _require(cas, blobs)
        roots = set(directories)
        if verdicts is None or len(roots) != 1:
            # Several are read together, as they may have most of what is in them in common.
            await _require_trees(cas, roots, None)
            return True
        (root,) = roots
        if not verdicts.confirms(root, b""):
            with verdicts.checking(root, b"") as check:
                await _require_trees(cas, roots, check)
    except _IncompleteError:
        return False
    return True


async def _require_trees(cas: Store, roots: set[Digest], check: Check | None) -> None:
    """Return if directories are there with all that is in them; `check` takes note of that."""
    known = level = roots
    while level:
        below: set[Digest] = set()
        ordered = list(level)
        for start in range(0, len(ordered), _CONCURRENT_READS):
            batch = ordered[start : start + _CONCURRENT_READS]
            for found in await run_all(_read(cas, each, check) for each in batch):
                below |= found
            # A store in memory never waits; others want a turn.
            await asyncio.sleep(0)
        level = below - known
        known = known | level
        if len(known) > _MAX_DIRECTORIES:
            raise NativeLinkError(
                Code.RESOURCE_EXHAUSTED,
                f"an asset has more than {_MAX_DIRECTORIES} directories",
            )


class _IncompleteError(Exception):
    """Something is missing, or is not what it is said to be."""


async def _read(cas: Store, directory: Digest, check: Check | None) -> set[Digest]:
    """The directories in one whose files are all there."""

    async def require(pairs: DigestPairs) -> None:
        files = list(_parse(pairs))
        await _require(cas, files)
        if check is not None:
            check.add(files)

    try:
        found = await read_digests(cas, directory, require, is_tree=False)
    except DecodeError as error:
        raise _IncompleteError from error
    except NativeLinkError as error:
        if error.code is Code.NOT_FOUND:
            raise _IncompleteError from error
        raise
    await require(found.files)
    if check is not None:
        check.add((directory,))
    return set(_parse(found.directories))


async def _require(cas: Store, digests: Iterable[Digest]) -> None:
    keys = list(digests)
    if keys and None in await cas.has(keys):
        raise _IncompleteError


def _parse(pairs: DigestPairs) -> Iterable[Digest]:
    try:
        return parse_many(pairs)
    except NativeLinkError as error:
        raise _IncompleteError from error
