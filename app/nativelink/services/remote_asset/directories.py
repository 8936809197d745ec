"""Directories that nobody pushed: archives, unpacked once, and parts of larger directories.

What an archive unpacks to depends on its bytes alone, so it is remembered under the archive's
digest, where no client can say anything: who asks for the archive's URI has the archive first, with
its checksum, its age and its credentials, as a blob.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeAlias

from google.protobuf.message import DecodeError

from nativelink.core.clock import Clock
from nativelink.core.digest import Digest, DigestFunction, digests_of
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError, invalid_argument
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.services.archives.tree import File, Symlink, Tree
from nativelink.services.aside import Aside
from nativelink.services.remote_asset.downloads import Refused
from nativelink.services.remote_asset.flights import Flight, Flights
from nativelink.services.remote_asset.index import Asset, AssetIndex, Kind
from nativelink.stores.store import Store, read_bytes

if TYPE_CHECKING:
    from nativelink.services.archives.unpacker import Unpacker

__all__ = ["Directories", "parse_path", "part_of"]

_log: Final = logging.getLogger(__name__)
#: Archives worked on at a time. One takes up to some 400 MB where its packing has a window of
#: 128 MiB, and it has 200,000 entries with the longest names that are allowed; 20 MB otherwise.
_MAX_CONCURRENT: Final = 4
#: Parts that are remembered to have no symlink that leads out.
_MAX_CONFINED: Final = 10_000
_CONCURRENT_READS: Final = 16
#: Where symlinks lead, one file is like another.
_FILE: Final = File(Digest("", 0), is_executable=False)
#: A directory's path, which it shares with others, its name (none for the first) and its digest.
_Found: TypeAlias = tuple[tuple[str, ...], tuple[str, ...], Digest]
_MAX_DIRECTORY_BYTES: Final = 16 * 1024 * 1024
_MAX_PATH_BYTES: Final = 4096
#: What `resource_type` may call an archive, and whether that is a zip. Whatever a tar is packed in
#: goes by its name.
_TYPES: Final = {
    **dict.fromkeys(
        ("application/zip", "application/x-zip-compressed", "application/java-archive"), True
    ),
    **dict.fromkeys(
        (
            "application/x-tar", "application/x-gtar", "application/gzip", "application/x-gzip",
            "application/x-bzip2", "application/x-xz", "application/zstd",
            "application/x-compressed-tar", "application/x-bzip-compressed-tar",
            "application/x-xz-compressed-tar", "application/x-zstd-compressed-tar",
        ),
        False,
    ),
}  # fmt: skip


class Directories:
    """The archives of one instance: an async context manager that owns the work on them.

    Args:
        unpacker: makes directories.
        index: where they are remembered.
        clock: the time.
        timeout_s: for one archive.
    """

    def __init__(
        self, unpacker: Unpacker, *, index: AssetIndex, clock: Clock, timeout_s: float = 600.0
    ) -> None:
        self._unpacker = unpacker
        self._index = index
        self._clock = clock
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)
        self._checks = asyncio.Semaphore(_MAX_CONCURRENT)
        self._confined: OrderedDict[Digest, None] = OrderedDict()
        self._flights: Flights[tuple[Digest, DigestFunction], Digest | NativeLinkError] = Flights(
            "the unpacking of the archive", clock=clock
        )

    async def __aenter__(self) -> Directories:
        await self._flights.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up what is under way and wait until nothing of it is left."""
        await self._flights.__aexit__(kind, error, trace)

    async def are_of(self, archive: Digest, resource_type: str) -> bool:
        """Whether an archive is what `resource_type` calls it; what is no archive's name is fine.

        Raises:
            NativeLinkError: of the CAS.
        """
        wanted = _TYPES.get(resource_type.partition(";")[0].strip().lower())
        return wanted is None or await self._unpacker.is_zip(archive) is wanted

    async def find(self, archive: Digest, function: DigestFunction) -> Digest | None:
        """What an archive was unpacked to before; it need not be in the CAS any more."""
        found = await self._index.find(Kind.UNPACKED, _name(archive, function), [()])
        return found[0].digest if found else None

    async def unpack(
        self, archive: Asset, function: DigestFunction, *, timeout_s: float | None = None
    ) -> Digest | Refused:
        """What an archive unpacks to; it is in the CAS then.

        Args:
            archive: in the CAS.
            function: names the directory and its files, as it names the archive.
            timeout_s: how long the caller waits at most. The work goes on without him.

        Raises:
            NativeLinkError: of the CAS, or of the folder for what is worked on.
        """

        async def work(flight: Flight[Digest | NativeLinkError]) -> Digest | NativeLinkError:
            async with self._slots:
                flight.running = True
                return await self._timed(archive.digest, function)

        try:
            outcome = await self._flights.join(
                (archive.digest, function), work, timeout_s=timeout_s
            )
        except TimeoutError:
            outcome = NativeLinkError(
                Code.DEADLINE_EXCEEDED, f"it takes longer than the {timeout_s:g} s of the request"
            )
        if isinstance(outcome, NativeLinkError):
            message = f"the archive {archive.digest} cannot be unpacked: {outcome.message}"
            return Refused(archive.uri, outcome.code, message)
        return outcome

    async def escape(self, cas: Store, part: Digest) -> NativeLinkError | None:
        """Why a part of what an archive unpacks to is not to be had by itself; None if it is.

        Its symlinks may lead anywhere within the whole, and out of the part so.

        Returns:
            ABORTED if one leads out; RESOURCE_EXHAUSTED if they lead through too many others.

        Raises:
            NativeLinkError: of the CAS.
        """
        if part in self._confined:
            return None
        aside = Aside()
        async with self._checks:
            try:
                tree = await _tree_of(cas, part, self._unpacker.limits.max_entries, aside)
                error = await aside.run(partial(_unconfined, tree))
            finally:
                await aside.ended()
        if error is not None:
            return error
        # What has this digest is so for ever.
        self._confined[part] = None
        if len(self._confined) > _MAX_CONFINED:
            self._confined.popitem(last=False)
        return None

    async def _timed(self, archive: Digest, function: DigestFunction) -> Digest | NativeLinkError:
        started = self._clock.monotonic()
        outcome: Digest | NativeLinkError
        try:
            async with asyncio.timeout(self._timeout_s):
                outcome = await self._unpacker.unpack(archive, function)
        except TimeoutError:
            outcome = NativeLinkError(
                Code.DEADLINE_EXCEEDED, f"it takes longer than {self._timeout_s:g} s"
            )
        if isinstance(outcome, NativeLinkError):
            _log.warning("cannot unpack %s: %s", archive, outcome.message)
            return outcome
        seconds = self._clock.monotonic() - started
        _log.info("unpacked %s to %s in %.1f s", archive, outcome, seconds)
        try:
            asset = Asset(_name(archive, function), (), outcome, function)
            await self._index.store(Kind.UNPACKED, [asset])
        except NativeLinkError as error:
            _log.warning("%s will be unpacked again: %s", archive, error)
        return outcome


def _name(archive: Digest, function: DigestFunction) -> str:
    return f"{function.token}:{archive}"


def parse_path(value: str) -> Sequence[str]:
    """The names of the qualifier `directory`; none for the whole.

    Raises:
        NativeLinkError: INVALID_ARGUMENT.
    """
    names = [name for name in value.split("/") if name not in {"", "."}]
    if value.startswith("/") or ".." in names or len(value) > _MAX_PATH_BYTES:
        raise invalid_argument(
            f"the qualifier directory is {value[:200]!r}; a relative path without '..' of at most "
            f"{_MAX_PATH_BYTES} characters is expected"
        )
    return names


async def part_of(cas: Store, root: Digest, names: Sequence[str]) -> Digest | None:
    """The directory at a path below another one; None if there is none.

    Raises:
        NativeLinkError: of the CAS; FAILED_PRECONDITION if something there is no directory.
    """
    at = root
    for name in names:
        nodes = (await _directory(cas, at)).directories
        found = _digests(at, [node for node in nodes if node.name == name])
        if not found:
            return None
        at = found[0]
    return at


async def _tree_of(cas: Store, root: Digest, max_entries: int, aside: Aside) -> Tree:
    """The names and symlinks of a directory that was made of an archive.

    There may be 200,000 of them, which take half a second: `aside` does it.
    """
    tree = Tree(max_entries)
    level: list[_Found] = [((), (), root)]
    while level:
        below: list[_Found] = []
        for start in range(0, len(level), _CONCURRENT_READS):
            batch = level[start : start + _CONCURRENT_READS]
            messages = await run_all(_directory(cas, digest) for _, _, digest in batch)
            below += await aside.run(partial(_added, tree, batch, messages))
        level = below
    return tree


def _added(
    tree: Tree, batch: Sequence[_Found], messages: Sequence[reapi.Directory]
) -> Sequence[_Found]:
    """Add what is in some directories to a tree; the directories in them, which are not."""
    below: list[_Found] = []
    for (path, name, digest), message in zip(batch, messages, strict=True):
        names = (*path, *name)
        tree.add_directory(names)
        for file in message.files:
            tree.add((*names, file.name), _FILE)
        for symlink in message.symlinks:
            tree.add((*names, symlink.name), Symlink(symlink.target))
        inner = message.directories
        for node, found in zip(inner, _digests(digest, inner), strict=True):
            below.append((names, (node.name,), found))
    return below


def _unconfined(tree: Tree) -> NativeLinkError | None:
    """Why a directory is not to be had by itself, or None. To find that out may take seconds."""
    try:
        for _ in tree.require_confined():
            pass
    except NativeLinkError as error:
        return error
    return None


async def _directory(cas: Store, digest: Digest) -> reapi.Directory:
    if not digest.size_bytes:
        # The empty blob is in every store.
        return reapi.Directory()
    data = await read_bytes(cas, digest, max_size=_MAX_DIRECTORY_BYTES)
    try:
        return reapi.Directory.FromString(data)
    except DecodeError as error:
        raise _no_directory(digest, error) from error


def _digests(directory: Digest, nodes: Iterable[reapi.DirectoryNode]) -> Sequence[Digest]:
    try:
        return digests_of(node.digest for node in nodes)
    except NativeLinkError as error:
        raise _no_directory(directory, error) from error


def _no_directory(digest: Digest, error: Exception) -> NativeLinkError:
    return NativeLinkError(Code.FAILED_PRECONDITION, f"blob {digest} is no Directory: {error}")
