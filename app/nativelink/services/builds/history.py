"""Summaries of builds, and how the latest are found: our own objects beside NativeLink's events.

A store has no list of what it holds, and events are kept by the build's name. So each build has a
summary under `BuildSummary:{invocation_id}`, and each day has `PIECES` small objects,
`BuildIndex:{day}:{piece}`, which name the builds that began on that day (ADR 0018). NativeLink and
tools that process its events never look at either.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple, TypeVar
from zlib import crc32

from google.protobuf.message import DecodeError

from nativelink.core.clock import Clock
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError, invalid_argument, not_found
from nativelink.proto.nativelink.v1 import builds_pb2 as pb
from nativelink.services.builds.events import StreamName, stored_events
from nativelink.services.builds.summary import BuildSummary
from nativelink.stores.store import Store, read_bytes, write_bytes

__all__ = ["MAX_DAYS", "BuildHistory", "Page"]

M = TypeVar("M", pb.Build, pb.BuildIndex)

#: A summary lists hundreds of targets with texts of 4 KiB at most.
_MAX_SUMMARY_BYTES: Final = 16 << 20
_MAX_INDEX_BYTES: Final = 16 << 20
#: What a summary does without rather than become too long to be read.
_LISTS: Final = ("targets", "tests", "failures")
#: What a list of builds does without: a build may take a megabyte, and a page has up to a thousand.
_DETAILS: Final = (*_LISTS, "critical_path", "options")
#: Two servers lose an entry to each other only when they add to the same piece in the same
#: milliseconds; the more pieces, the less often, and the more there is to ask for a list.
PIECES: Final = 32
#: Of one piece: with 32 pieces 320,000 builds a day.
_MAX_ENTRIES: Final = 10_000
MAX_DAYS: Final = 366
#: Days that are searched for the beginning of a name.
_PREFIX_DAYS: Final = 7
#: Days that are asked for at a time, at most: 1,024 pieces. A bucket is asked for each, several at
#: once; the first days are few, as what is looked for is mostly new.
_DAYS_AT_A_TIME: Final = 32
#: Summaries that are read at a time.
_BATCH: Final = 16
_PREFIX: Final = re.compile(r"[\w.@+=-]{4,100}", re.ASCII)


class Page(NamedTuple):
    """The latest builds, and whether there are more."""

    builds: Sequence[pb.Build]
    more: bool


class BuildHistory:
    """The builds of one store.

    Args:
        store: keeps the events.
        clock: the time.
    """

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._indexing = asyncio.Lock()

    async def load(self, invocation_id: str) -> pb.Build | None:
        """A build's summary as it was saved last; None if there is none.

        Raises:
            NativeLinkError: what the store raises.
        """
        return await self._read(_summary_key(invocation_id), pb.Build, _MAX_SUMMARY_BYTES)

    async def save(self, build: pb.Build) -> int:
        """Keep a summary: one that is too long to be read again, without its lists.

        Returns:
            Bytes of all of it.

        Raises:
            NativeLinkError: what the store raises.
        """
        data = build.SerializeToString()
        size = len(data)
        if size > _MAX_SUMMARY_BYTES:
            short = pb.Build.FromString(data)
            for field in _LISTS:
                short.ClearField(field)
            short.incomplete = True
            data = short.SerializeToString()
        await write_bytes(self._store, _summary_key(build.invocation_id), data)
        return size

    async def announce(self, build: pb.Build) -> None:
        """Let a build be found by lists.

        Raises:
            NativeLinkError: what the store raises.
        """
        name = build.invocation_id
        key = _index_key(_day(build.start_time.seconds), crc32(name.encode()) % PIECES)
        async with self._indexing:
            index = await self._read(key, pb.BuildIndex, _MAX_INDEX_BYTES) or pb.BuildIndex()
            if any(entry.invocation_id == name for entry in index.entries):
                return
            del index.entries[: max(0, len(index.entries) + 1 - _MAX_ENTRIES)]
            index.entries.add(invocation_id=name, start_time=build.start_time)
            await write_bytes(self._store, key, index.SerializeToString())

    async def latest(self, count: int, *, days: int, accept: Callable[[pb.Build], bool]) -> Page:
        """The latest builds that `accept` takes, the last one first, without their details.

        Args:
            count: no more than these.
            days: how far to look back, today included.
            accept: which to take.

        Raises:
            NativeLinkError: what the store raises.
        """
        found: list[pb.Build] = []
        async with aclosing(self._newest_first(days)) as builds:
            async for build in builds:
                if accept(build):
                    found.append(_headline(build))
                if len(found) > count:
                    return Page(found[:count], more=True)
        return Page(found, more=False)

    async def _newest_first(self, days: int) -> AsyncGenerator[pb.Build, None]:
        """The builds of so many days; each day costs questions, so stop when it is enough."""
        for some in _growing(self._last(days)):
            for keys in await self._pieces(some):
                entries = await self._entries(keys)
                for begin in range(0, len(entries), _BATCH):
                    loaded = await run_all(
                        self.load(entry.invocation_id) for entry in entries[begin : begin + _BATCH]
                    )
                    for build in loaded:
                        if build is not None:
                            yield build

    async def find(self, invocation_id: str, build_id: str) -> pb.Build:
        """One build.

        Args:
            invocation_id: its name, or the beginning of one of the last days'; empty: the latest.
            build_id: with it, a build is found that only its events tell of.

        Raises:
            NativeLinkError: NOT_FOUND; INVALID_ARGUMENT if several names begin so.
        """
        if not invocation_id:
            async with aclosing(self._newest_first(MAX_DAYS)) as builds:
                async for latest in builds:
                    return latest
            raise not_found("no build has been published here; Bazel does so by --bes_backend")
        if not _PREFIX.fullmatch(invocation_id):
            raise invalid_argument(
                f"malformed invocation {invocation_id[:100]!r}: a name as Bazel prints it is "
                "expected, or four characters or more of its beginning"
            )
        build = await self.load(invocation_id)
        if build is None and build_id:
            build = await self._replayed(StreamName(build_id, invocation_id))
        if build is None:
            build = await self._beginning_with(invocation_id)
        if build is None:
            raise not_found(f"there is no build {invocation_id!r}")
        return build

    async def _replayed(self, name: StreamName) -> pb.Build | None:
        summary = BuildSummary(pb.Build())
        async for request, identity in stored_events(self._store, name, 1):
            summary.add(request, identity)
        return summary.build if summary.build.last_sequence_number else None

    async def _beginning_with(self, prefix: str) -> pb.Build | None:
        names: list[str] = []
        for keys in await self._pieces(self._last(_PREFIX_DAYS)):
            names += [each.invocation_id for each in await self._entries(keys)]
        found = [name for name in names if name.startswith(prefix)]
        if len(found) > 1:
            raise invalid_argument(
                f"{len(found)} builds begin with {prefix!r}: {', '.join(found[:5])}"
            )
        return await self.load(found[0]) if found else None

    def _last(self, days: int) -> list[date]:
        """Today, and as many days before as make `days`, backwards."""
        today = _day(self._clock.time())
        return [today - timedelta(days=back) for back in range(days)]

    async def _pieces(self, days: Sequence[date]) -> list[list[str]]:
        """The pieces of the index that there are of each day: one question for all."""
        keys = [[_index_key(day, piece) for piece in range(PIECES)] for day in days]
        sizes = iter(await self._store.has([key for of_day in keys for key in of_day]))
        return [[key for key in of_day if next(sizes)] for of_day in keys]

    async def _entries(self, keys: Sequence[str]) -> list[pb.BuildIndex.Entry]:
        """The builds in a day's pieces, the last one first."""
        pieces = await run_all(self._read(key, pb.BuildIndex, _MAX_INDEX_BYTES) for key in keys)
        entries = [entry for piece in pieces if piece is not None for entry in piece.entries]
        entries.sort(key=lambda each: (each.start_time.seconds, each.start_time.nanos))
        entries.reverse()
        return entries

    async def _read(self, key: str, kind: type[M], max_size: int) -> M | None:
        try:
            return kind.FromString(await read_bytes(self._store, key, max_size=max_size))
        except DecodeError:
            # Somebody else's object; ours takes its place when there is something to say.
            return None
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise


def _headline(build: pb.Build) -> pb.Build:
    """A build without its details."""
    for field in _DETAILS:
        build.ClearField(field)
    # What is cleared is given back only with the message that it was parsed into.
    copy = pb.Build()
    copy.CopyFrom(build)
    return copy


def _growing(days: Sequence[date]) -> Iterator[Sequence[date]]:
    """The days, one at first, and then twice as many each time."""
    begin, count = 0, 1
    while begin < len(days):
        yield days[begin : begin + count]
        begin, count = begin + count, min(2 * count, _DAYS_AT_A_TIME)


def _summary_key(invocation_id: str) -> str:
    return f"BuildSummary:{invocation_id}"


def _index_key(day: date, piece: int) -> str:
    return f"BuildIndex:{day.isoformat()}:{piece}"


def _day(seconds: float) -> date:
    return datetime.fromtimestamp(seconds, UTC).date()
