"""Directories that nobody pushed: archives, unpacked once, and parts of larger directories.

What an archive unpacks to depends on its bytes alone, so it is remembered under the archive's
digest, where no client can say anything: who asks for the archive's URI has the archive first, with
its checksum, its age and its credentials, as a blob.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from nativelink.core.clock import Clock
from nativelink.core.digest import Digest, DigestFunction, digests_of
from nativelink.core.errors import Code, NativeLinkError, invalid_argument
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
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
        data = await read_bytes(cas, at, max_size=_MAX_DIRECTORY_BYTES)
        try:
            nodes = reapi.Directory.FromString(data).directories
            found = digests_of(node.digest for node in nodes if node.name == name)
        except (DecodeError, NativeLinkError) as error:
            raise NativeLinkError(
                Code.FAILED_PRECONDITION, f"blob {at} is no Directory: {error}"
            ) from error
        if not found:
            return None
        at = found[0]
    return at
