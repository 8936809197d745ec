"""An action's result is there only if all that it refers to is there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from nativelink.core.digest import Digest, StoreKey, parse_many
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError, out_of_range
from nativelink.core.streams import BytesSink, Sink
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.stores.store import DelegatingStore, Store, absent
from nativelink.stores.wrap.tree_digests import DigestPairs, TreeDigests, read_digests
from nativelink.stores.wrap.verdicts import Check, Verdicts

__all__ = ["CompletenessCheckingStore"]

#: Results are held in memory while they are checked. They travel in one gRPC message, of a few
#: MiB everywhere; a larger one is no result.
_MAX_RESULT_BYTES: Final = 64 * 1024 * 1024

#: Trees or directories of one result that are read at once, each through about a megabyte.
_CONCURRENT_READS: Final = 16


class CompletenessCheckingStore(DelegatingStore):
    """An action cache that hides results of which a part is missing in the CAS.

    A client takes a result for granted and does not download it (Bazel's
    --remote_download_minimal), so a blob that was evicted since would fail its build later (REAPI
    v2, ActionCache.GetActionResult). Needed in the CAS are: every output file; stdout and stderr,
    unless they are inlined; of each output directory its Tree and every file in that, or, where
    the result has a `root_directory_digest`, every Directory below it and every file in those.

    Values under digests are results; what cannot be decoded is not there. String keys pass
    through, and so do writes. All blobs of a result are asked for in one `has`, in several only
    if there are more than some ten thousand. That `has` also makes them younger in the CAS.

    A result that was complete a short while ago is not looked at again: a build asks for the
    results that the builds beside it ask for. `Verdicts` says how long, and what ends it sooner.

    Args:
        backend: the action cache.
        cas: where the blobs must be.
        verdicts: remembers what is complete. None: every question is looked into.
    """

    __slots__ = ("_cas", "_verdicts")

    def __init__(self, backend: Store, cas: Store, *, verdicts: Verdicts | None = None) -> None:
        super().__init__(backend)
        self._cas = cas
        self._verdicts = verdicts

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        found = await self._backend.has(keys)
        sizes: list[int | None] = []
        for start in range(0, len(keys), _CONCURRENT_READS):
            end = start + _CONCURRENT_READS
            sizes += await run_all(
                self._size(key, size)
                for key, size in zip(keys[start:end], found[start:end], strict=True)
            )
        return sizes

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        if not isinstance(key, Digest):
            await self._backend.get(key, sink, offset=offset, limit=limit)
            return
        value = await self._complete_value(key)
        if value is None:
            raise absent(key)
        size = len(value)
        if offset > size:
            raise out_of_range(f"offset {offset} is beyond the {size} bytes of {key}")
        if offset or (limit is not None and limit < size):
            value = value[offset : None if limit is None else offset + limit]
        if value:
            await sink.write(value)

    async def _size(self, key: StoreKey, size: int | None) -> int | None:
        if size is None or not isinstance(key, Digest):
            return size
        try:
            value = await self._complete_value(key)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                return None  # It was evicted just now.
            raise
        return None if value is None else len(value)

    async def _complete_value(self, key: Digest) -> bytes | None:
        """The value of a key, None if it is no complete result.

        Raises:
            NativeLinkError: what reading it raised; what the CAS raised, other than NOT_FOUND.
        """
        collected = BytesSink(_MAX_RESULT_BYTES)
        await self._backend.get(key, collected)
        value = collected.getvalue()
        verdicts = self._verdicts
        if verdicts is not None and verdicts.confirms(key, value):
            return value
        try:
            result = reapi.ActionResult.FromString(value)
            if verdicts is None:
                await self._check(result, None)
            else:
                with verdicts.checking(key, value) as check:
                    await self._check(result, check)
        except (_IncompleteError, DecodeError):
            return None
        return value

    async def _check(self, result: reapi.ActionResult, check: Check | None) -> None:
        """Return if a result is complete.

        Args:
            result: what is looked at.
            check: takes note of what is there.

        Raises:
            _IncompleteError: something is missing.
            DecodeError: it refers to something that is not what it says.
        """
        needed = [(file.digest.hash, file.digest.size_bytes) for file in result.output_files]
        for inlined, digest in (
            (result.stdout_raw, result.stdout_digest),
            (result.stderr_raw, result.stderr_digest),
        ):
            # An unset digest, or one that was set to nothing, means that there was no output.
            if not inlined and (digest.hash or digest.size_bytes):
                needed.append((digest.hash, digest.size_bytes))
        if result.output_directories:
            await self._read_directories(result, needed, check)
        await self._require(needed, check)

    async def _read_directories(
        self, result: reapi.ActionResult, needed: DigestPairs, check: Check | None
    ) -> None:
        """Add what all output directories of a result need."""
        trees: set[Digest] = set()
        roots: set[Digest] = set()
        for output in result.output_directories:
            root, tree = output.root_directory_digest, output.tree_digest
            if root.hash:
                roots.add(_parse((root.hash, root.size_bytes)))
            if tree.hash and root.hash:
                # What is in it is found by way of the root.
                needed.append((tree.hash, tree.size_bytes))
            elif tree.hash or not root.hash:
                trees.add(_parse((tree.hash, tree.size_bytes)))
        await self._read_all(trees, needed, check, is_tree=True)
        known = roots
        while roots:
            below = await self._read_all(roots, needed, check, is_tree=False)
            roots = below - known
            known |= roots

    async def _read_all(
        self, digests: set[Digest], needed: DigestPairs, check: Check | None, *, is_tree: bool
    ) -> set[Digest]:
        """Read Trees, or Directories: add the files in them, return the directories in them."""
        below: DigestPairs = []
        ordered = list(digests)
        for start in range(0, len(ordered), _CONCURRENT_READS):
            for found in await run_all(
                self._read(digest, check, is_tree=is_tree)
                for digest in ordered[start : start + _CONCURRENT_READS]
            ):
                needed += found.files
                below += found.directories
            if len(needed) >= TreeDigests.FLUSH_COUNT:
                await self._require(needed, check)
                needed.clear()
        return {_parse(pair) for pair in below}

    async def _read(self, digest: Digest, check: Check | None, *, is_tree: bool) -> TreeDigests:
        try:
            found = await read_digests(
                self._cas, digest, lambda pairs: self._require(pairs, check), is_tree=is_tree
            )
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                self._lose((digest,))
                raise _IncompleteError from error
            raise
        if check is not None:
            check.add((digest,))
        return found

    async def _require(self, pairs: DigestPairs, check: Check | None) -> None:
        """Return if all these blobs are in the CAS.

        Raises:
            _IncompleteError: one is missing, or is no digest.
        """
        if not pairs:
            return
        try:
            digests = parse_many(pairs)
        except NativeLinkError as error:
            raise _IncompleteError from error
        sizes = await self._cas.has(digests)
        if None in sizes:
            self._lose(key for key, size in zip(digests, sizes, strict=True) if size is None)
            raise _IncompleteError
        if check is not None:
            check.add(digests)

    def _lose(self, parts: Iterable[Digest]) -> None:
        """Other results that were complete may have needed these too."""
        if self._verdicts is not None:
            self._verdicts.lose(parts)


class _IncompleteError(Exception):
    """A part of a result is missing."""


def _parse(pair: tuple[str, int]) -> Digest:
    try:
        return Digest.parse(*pair)
    except NativeLinkError as error:
        raise _IncompleteError from error
