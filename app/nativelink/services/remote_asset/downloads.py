"""What is not known is downloaded, once for all who ask for it at the same time (`flights.py`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

from nativelink.core.clock import Clock
from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.retry import Retry
from nativelink.core.streams import CountingSink, Sink
from nativelink.proto.google.protobuf import timestamp_pb2
from nativelink.services.remote_asset.flights import Flight, Flights
from nativelink.services.remote_asset.index import Asset, AssetIndex, Kind
from nativelink.services.remote_asset.integrity import ALGORITHMS, Integrity
from nativelink.services.remote_asset.qualifiers import Headers, Qualifiers
from nativelink.services.remote_asset.slots import DownloadSlots
from nativelink.services.spool import Spool
from nativelink.stores.store import Store, has_one

__all__ = ["Download", "DownloadRecorder", "Downloads", "Fetched", "Origin", "Refused"]

_log: Final = logging.getLogger(__name__)

#: Which of several mirrors' errors says most, the most telling one first.
_TELLING: Final = (
    Code.ABORTED,
    Code.RESOURCE_EXHAUSTED,
    Code.DEADLINE_EXCEEDED,
    Code.UNAVAILABLE,
    Code.PERMISSION_DENIED,
    Code.NOT_FOUND,
)


class Origin(Protocol):
    """Where contents come from."""

    async def read(self, uri: str, headers: Headers, sink: Sink, /) -> None:
        """Write what a URI leads to into `sink`.

        Raises:
            NativeLinkError: why not; `retryable` says whether it may go better later.
        """
        ...


class DownloadRecorder(Protocol):
    """Hears how downloads went."""

    def ended(self, result: str, size_bytes: int, seconds: float, /) -> None:
        """One download is over; `result` is `ok` or the name of a code."""
        ...


@dataclass(frozen=True, slots=True)
class Download:
    """What is to be downloaded. Equal ones are one.

    Attributes:
        uris: with the request headers of each; any of them will do.
        qualifiers: under which it will be known.
        checksums: all of them must hold.
        function: names the blob.
    """

    uris: tuple[tuple[str, Headers], ...]
    qualifiers: Qualifiers
    checksums: tuple[Integrity, ...]
    function: DigestFunction


@dataclass(frozen=True, slots=True)
class Fetched:
    """Contents that are in the CAS now.

    Attributes:
        uri: the one that worked.
        digest: the blob.
        started_at: seconds since the epoch when the download began.
    """

    uri: str
    digest: Digest
    started_at: float


@dataclass(frozen=True, slots=True)
class Refused:
    """Contents that could not be had, for a reason outside of this server.

    Attributes:
        uri: the one that the error is of.
        code: what kind of reason.
        message: for people.
    """

    uri: str
    code: Code
    message: str


class Downloads:
    """The downloads of one instance: an async context manager that owns their tasks.

    Args:
        origin: where contents come from.
        cas: where they go.
        clock: the time.
        index: where successes are remembered.
        reuse_unverified_s: for which contents without a checksum are remembered; 0: not at all.
        max_concurrent: downloads at a time, of one host half of them; further ones wait.
        timeout_s: for one download with all its tries.
        retry: of what may go better later; every URI is tried before any is tried again.
        folder: for what does not fit into memory; None for the machine's own.
        recorder: hears how downloads went.
    """

    def __init__(
        self,
        origin: Origin,
        cas: Store,
        *,
        clock: Clock,
        index: AssetIndex,
        reuse_unverified_s: float = 0.0,
        max_concurrent: int = 32,
        timeout_s: float = 600.0,
        retry: Retry | None = None,
        folder: Path | None = None,
        recorder: DownloadRecorder | None = None,
    ) -> None:
        self._origin = origin
        self._cas = cas
        self._clock = clock
        self._index = index
        self._reuse_unverified_s = reuse_unverified_s
        self._slots = DownloadSlots(max_concurrent)
        self._timeout_s = timeout_s
        self._retry = Retry() if retry is None else retry
        self._folder = folder
        self._recorder = recorder
        self._flights: Flights[Download, Fetched | Refused] = Flights("the download", clock=clock)

    async def __aenter__(self) -> Downloads:
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

    async def fetch(
        self, wanted: Download, *, timeout_s: float | None = None, not_before: float = 0.0
    ) -> Fetched | Refused:
        """Have something downloaded.

        Args:
            wanted: what.
            timeout_s: how long the caller waits at most. The download goes on without him.
            not_before: one that began before that, for somebody who did not ask for it, will not
                do: seconds since the epoch.

        Raises:
            NativeLinkError: of the CAS.
        """

        async def work(flight: Flight[Fetched | Refused]) -> Fetched | Refused:
            async with self._slots.taken(wanted.uris[0][0]):
                flight.running = True
                return await self._timed(wanted, flight.started_at)

        try:
            return await self._flights.join(
                wanted, work, timeout_s=timeout_s, not_before=not_before
            )
        except TimeoutError:
            return Refused(
                wanted.uris[0][0],
                Code.DEADLINE_EXCEEDED,
                f"the download takes longer than the {timeout_s:g} s of the request",
            )

    async def _timed(self, wanted: Download, started_at: float) -> Fetched | Refused:
        started = self._clock.monotonic()
        outcome: Fetched | Refused
        try:
            async with asyncio.timeout(self._timeout_s):
                outcome = await self._tries(wanted, started_at)
        except TimeoutError:
            outcome = Refused(
                wanted.uris[0][0],
                Code.DEADLINE_EXCEEDED,
                f"the download took longer than the {self._timeout_s:g} s that are allowed here",
            )
        seconds = self._clock.monotonic() - started
        if isinstance(outcome, Fetched):
            size = outcome.digest.size_bytes
            _log.info("downloaded %s: %d bytes in %.1f s", _public(outcome.uri), size, seconds)
            await self._remember(wanted, outcome)
            self._record("ok", size, seconds)
        else:
            _log.warning("cannot download %s", outcome.message)
            self._record(outcome.code.name.lower(), 0, seconds)
        return outcome

    async def _remember(self, wanted: Download, fetched: Fetched) -> None:
        """Let the next call find what was downloaded.

        With a checksum, all URIs lead there for everybody who asks for that checksum. Without one,
        what a server told us it may tell others differently: at once if they send other headers,
        and some time later in any case.
        """
        uris: Iterable[str] = dict.fromkeys(uri for uri, _ in wanted.uris)
        expires_at = None
        if not wanted.checksums:
            if not self._reuse_unverified_s or any(headers for _, headers in wanted.uris):
                return
            uris = (fetched.uri,)
            expires_at = timestamp_pb2.Timestamp()
            expires_at.FromSeconds(int(fetched.started_at + self._reuse_unverified_s))
        try:
            await self._index.store(
                Kind.BLOB,
                [
                    Asset(
                        uri=uri,
                        qualifiers=wanted.qualifiers,
                        digest=fetched.digest,
                        function=wanted.function,
                        expires_at=expires_at,
                        content_time=fetched.started_at,
                    )
                    for uri in uris
                ],
            )
        except NativeLinkError as error:
            _log.warning("%s will be downloaded again: %s", _public(fetched.uri), error)

    def _record(self, result: str, size_bytes: int, seconds: float) -> None:
        if self._recorder is not None:
            self._recorder.ended(result, size_bytes, seconds)

    async def _tries(self, wanted: Download, started_at: float) -> Fetched | Refused:
        """Try each URI, and those that may go better later again."""
        left = list(wanted.uris)
        final: list[tuple[str, NativeLinkError]] = []
        tries = self._retry.tries()
        while True:
            passing: list[tuple[str, NativeLinkError]] = []
            for each in list(left):
                uri, headers = each
                attempt = await self._attempt(wanted, uri, headers)
                if isinstance(attempt, Digest):
                    return Fetched(uri, attempt, started_at)
                if attempt.retryable:
                    passing.append((uri, attempt))
                else:
                    left.remove(each)
                    final.append((uri, attempt))
            failures = final + passing
            if not passing:
                return _refused(failures)
            try:
                await tries.after(passing[0][1])
            except NativeLinkError:
                return _refused(failures)

    async def _attempt(
        self, wanted: Download, uri: str, headers: Headers
    ) -> Digest | NativeLinkError:
        """The blob that a URI leads to, or why the origin gave none.

        Raises:
            NativeLinkError: of the CAS or the spool.
        """
        name = wanted.function.new()
        hashers = [name, *(ALGORITHMS[each.algorithm]() for each in wanted.checksums)]
        spool = Spool(hashers, self._folder)
        try:
            sink = CountingSink(spool)
            try:
                await self._origin.read(uri, headers, sink)
            except NativeLinkError as error:
                if sink.failed:
                    raise
                return error
            source = await spool.finish()
            for checksum, hasher in zip(wanted.checksums, hashers[1:], strict=True):
                got = hasher.hexdigest()
                if got not in checksum.hashes:
                    return NativeLinkError(
                        Code.ABORTED,
                        f"{_public(uri)}: its checksum is {checksum.algorithm} {got}, and "
                        f"{checksum} is asked for ({spool.size} bytes)",
                        retryable=False,
                    )
            digest = Digest(name.hexdigest(), spool.size)
            if await has_one(self._cas, digest) is None:
                await self._cas.put(digest, source)
            return digest
        finally:
            await spool.close()


def _refused(failures: Sequence[tuple[str, NativeLinkError]]) -> Refused:
    """One answer for all URIs: the most telling error, and the text of each."""

    def rank(failure: tuple[str, NativeLinkError]) -> int:
        code = failure[1].code
        return _TELLING.index(code) if code in _TELLING else len(_TELLING)

    uri, first = min(failures, key=rank)
    messages = dict.fromkeys([first.message, *(error.message for _, error in failures)])
    return Refused(uri, first.code, "; ".join(messages))


def _public(uri: str) -> str:
    """A URI without what may be secret in it: the query, and a user's name and password."""
    scheme, _, rest = uri.partition("?")[0].partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
