"""What a filesystem store finds at its start: every file, the most recently used first.

A thread lists the directories while the store serves already. It gives the loop a few hundred
entries at a time and waits until they were taken, and it sleeps a little after each slice of its
own work, because a thread that computes would keep the interpreter lock from the loop for
`sys.getswitchinterval()` at every turn.

Age is the later of access and modification time (NativeLink: access time, else modification time;
with `relatime` a file that was just written has an old access time at first).
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import stat
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Final, TypeAlias

from nativelink.core.digest import StoreKey
from nativelink.stores.filesystem_layout import Layout, parse_digest_name

__all__ = ["Found", "StartupScan"]

log = logging.getLogger(__name__)

#: A key, its file's size in bytes, and when it was last used in seconds since the epoch.
Found: TypeAlias = tuple[StoreKey, int, float]

#: Entries that are listed and sorted in one go, about 10 ms of work.
_RUN: Final = 4096
#: Entries that the loop takes in one go, about half a millisecond of its time.
_SLICE: Final = 256
#: Long enough for a thread that waits for the interpreter lock to wake up and take it.
_REST_S: Final = 0.0005


class _Run:
    """Some entries by descending time; arrays, because a million small tuples are 60 MB."""

    __slots__ = ("_keys", "_sizes", "_times")

    def __init__(self, found: list[Found]) -> None:
        found.sort(key=lambda entry: -entry[2])
        self._keys = [key for key, _, _ in found]
        self._sizes = array("q", [size for _, size, _ in found])
        self._times = array("d", [used for _, _, used in found])

    def __iter__(self) -> Iterator[tuple[float, int, StoreKey]]:
        """`(-time, size, key)`, in an order that `heapq.merge` understands."""
        for used, size, key in zip(self._times, self._sizes, self._keys, strict=True):
            yield -used, size, key


class StartupScan:
    """The scan of one store.

    Args:
        layout: the store's directories, open.
        take: gets entries on the loop's thread, in order of last use, latest first.
        done: called on the loop's thread at the end, with what went wrong.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        take: Callable[[Sequence[Found]], None],
        done: Callable[[BaseException | None], None],
    ) -> None:
        self._layout = layout
        self._take = take
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._ended = self._loop.create_future()
        self._thread = Thread(target=self._scan, name="filesystem-scan", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def close(self) -> None:
        """Stop early if it still runs."""
        self._stopping = True
        await asyncio.shield(self._ended)
        self._thread.join()

    def _scan(self) -> None:
        error: BaseException | None = None
        try:
            self._adopt_loose_files()
            runs = [
                *self._runs(self._layout.content_path / "d", parse_digest_name),
                *self._runs(self._layout.content_path / "s", _parse_string_name),
            ]
            self._hand_over(runs)
        except BaseException as caught:  # noqa: BLE001 - reported by the store
            error = caught
        self._loop.call_soon_threadsafe(self._end, error)

    def _end(self, error: BaseException | None) -> None:
        if not self._stopping:
            self._done(error)
        self._ended.set_result(None)

    def _adopt_loose_files(self) -> None:
        """Move files of the layout of before December 2024, `{content_path}/{digest}`, into `d`.

        Anything else in `{content_path}` is none of ours and stays.
        """
        root = self._layout.content_path
        with os.scandir(root) as entries:
            loose = [
                (entry.name, entry.is_file(follow_symlinks=False))
                for entry in entries
                if entry.name not in {"d", "s"}
            ]
        foreign: list[str] = []
        for name, is_file in loose:
            if is_file and parse_digest_name(name) is not None:
                (root / name).rename(root / "d" / name)
            else:
                foreign.append(name)
        if foreign:
            log.warning(
                "%s holds %d entries that are none of the store's and were left alone: %s",
                root,
                len(foreign),
                ", ".join(sorted(foreign)[:5]),
            )

    def _runs(self, directory: Path, parse: Callable[[str], StoreKey | None]) -> Iterator[_Run]:
        """All entries of a directory in sorted runs; names that are no key's are removed."""
        found: list[Found] = []
        with list_directory(directory) as entries:
            for entry in entries:
                if self._stopping:
                    return
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                key = parse(entry.name)
                if not stat.S_ISREG(status.st_mode) or key is None:
                    _remove_foreign(entry, status)
                    continue
                found.append((key, status.st_size, max(status.st_atime, status.st_mtime)))
                if len(found) == _RUN:
                    yield _Run(found)
                    found = []
                    time.sleep(_REST_S)
        yield _Run(found)

    def _hand_over(self, runs: list[_Run]) -> None:
        """Merge the runs and give them to the loop slice by slice."""
        taken = Event()
        slice_: list[Found] = []

        def hand() -> None:
            nonlocal slice_
            taken.clear()
            self._loop.call_soon_threadsafe(self._give, slice_, taken)
            slice_ = []
            taken.wait()
            time.sleep(_REST_S)

        for used, size, key in heapq.merge(*runs, key=_by_time):
            if self._stopping:
                return
            slice_.append((key, size, -used))
            if len(slice_) == _SLICE:
                hand()
        hand()

    def _give(self, found: Sequence[Found], taken: Event) -> None:
        try:
            if not self._stopping:
                self._take(found)
        finally:
            taken.set()


#: The one place where directories are read; tests hold it up.
list_directory = os.scandir


def _by_time(entry: tuple[float, int, StoreKey]) -> float:
    return entry[0]


def _parse_string_name(name: str) -> StoreKey | None:
    """The string key of a file name, None if it is no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return None
    return name


def _remove_foreign(entry: os.DirEntry[str], status: os.stat_result) -> None:
    """Remove a file that has no place in the store; directories are left alone."""
    if stat.S_ISDIR(status.st_mode):
        log.warning("%s is a directory in a filesystem store and was left alone", entry.path)
    else:
        log.warning("%s is no key's file and is removed", entry.path)
        Path(entry.path).unlink()
