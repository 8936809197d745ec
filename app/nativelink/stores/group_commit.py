"""Durable before acknowledged, for many files at the price of a few.

A file must survive a power cut from the moment its upload is acknowledged, and a partial file must
never have a final name. So its data is made durable, then it is renamed, then the rename is made
durable, then the upload is acknowledged. Paying two waits for the disk per file would cost more
than everything else together; instead all files that wait share them, in cycles:

    cycle n      sync:  data of group B    +  renames of group A
    then                rename group B        acknowledge group A
    cycle n+1    sync:  data of group C    +  renames of group B

One `syncfs` covers a whole cycle, and a cycle begins as soon as the one before has ended, so under
load every file waits for about two and a half of them, however many there are. The waiting is one
call of one thread; renames run on the loop's thread between the cycles, where all changes of
names run, so that a reader never meets half of one.

Where there are but one or two files, two hops to the thread would cost more than they save. If
nobody can meet their names yet, they are synced, renamed and synced again in one.

`syncfs` writes out what other programs have written to that filesystem, too. When that makes it
slow, or when there are only one or two files, files are synced one by one instead: writeback of all
is started first, and then most of the waits find that the journal was already written.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol, TypeAlias

from nativelink.core.digest import StoreKey
from nativelink.core.resumption import Resumption
from nativelink.stores.disk import DiskLane, timer
from nativelink.stores.disk_calls import disk_error, start_writeback, syncfs

__all__ = ["CommitStatistics", "DiskSync", "GroupCommit", "Publisher", "WrittenFile"]

#: Renames take 10 us each on a local disk; the loop is given back after this much time.
_SLICE_S: Final = 0.001


#: Of a file in a group: the directory that has its name now, or why it has none.
_Outcome: TypeAlias = int | OSError


class DiskSync:
    """Makes files and directories of one filesystem durable; used by one thread at a time.

    Args:
        monotonic: seconds, for how long to avoid `syncfs` after it was slow.
    """

    #: Up to so many single syncs are no dearer than one of the whole filesystem.
    FEW: Final = 2
    _SLOW_S: Final = 0.25
    _AVOID_S: Final = 30.0

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._avoid_until = 0.0
        #: How often `syncfs` was slow, because others write to the same filesystem.
        self.slow = 0

    def sync(self, files: Sequence[int], directories: Sequence[int]) -> list[OSError | None]:
        """Make open files and directories durable.

        Returns:
            For each file what went wrong with it.

        Raises:
            OSError: a directory could not be synced.
        """
        if len(files) + len(directories) > self.FEW and self._sync_all((*files, *directories)[0]):
            return [None] * len(files)
        if len(files) > 1:
            for fd in files:
                start_writeback(fd)
        errors: list[OSError | None] = []
        for fd in files:
            try:
                os.fsync(fd)
            except OSError as error:
                errors.append(error)
            else:
                errors.append(None)
        for fd in directories:
            os.fsync(fd)
        return errors

    def sync_and_rename(
        self, files: Sequence[WrittenFile], rename: Callable[[WrittenFile], int]
    ) -> list[_Outcome]:
        """Make files durable, then rename them, then make that durable.

        Raises:
            OSError: a directory could not be synced.
        """
        outcomes: list[_Outcome] = []
        errors = self.sync([file.fd for file in files], ())
        for file, error in zip(files, errors, strict=True):
            try:
                outcomes.append(rename(file) if error is None else error)
            except OSError as failure:
                outcomes.append(failure)
        self.sync((), tuple({each for each in outcomes if isinstance(each, int)}))
        return outcomes

    def _sync_all(self, fd: int) -> bool:
        """Sync the filesystem of `fd`; False if that was not possible or is not wise now."""
        began = self._monotonic()
        if began < self._avoid_until:
            return False
        try:
            synced = syncfs(fd)
        except OSError:
            # It does not say whose data was lost; the files' own calls do.
            return False
        took = self._monotonic() - began
        if took > self._SLOW_S:
            self.slow += 1
            self._avoid_until = began + took + self._AVOID_S
        return synced


class _State(Enum):
    WRITTEN = auto()
    WITHDRAWN = auto()
    RENAMED = auto()


class WrittenFile:
    """A temporary file with all its data, on its way to its final name.

    Attributes:
        key: whose value it is.
        name: in the temporary directory.
        fd: its descriptor, closed by the commit.
        size: in bytes.
        listed: whether the publisher shows it already.
        state: how far it has come.
        done: set when it is durable under its final name; its upload goes on at once.
    """

    __slots__ = ("done", "fd", "key", "listed", "name", "size", "state")

    def __init__(self, key: StoreKey, name: str, fd: int, size: int) -> None:
        self.key = key
        self.name = name
        self.fd = fd
        self.size = size
        self.listed = False
        self.state = _State.WRITTEN
        self.done: Resumption[None] = Resumption(asyncio.get_running_loop())


class Publisher(Protocol):
    """The store's side of a commit, called on the loop's thread but for `rename_new`."""

    def may_rename(self, key: StoreKey) -> bool:
        """Whether the final name is free to be used; if not, the file waits for a cycle."""
        ...

    def is_new(self, key: StoreKey) -> bool:
        """Whether nobody meets a file of this name before `committed` is called."""
        ...

    def rename(self, file: WrittenFile) -> int:
        """Give the file its final name, in place of another one if there is one.

        Returns:
            The descriptor of the directory that holds the name.

        Raises:
            OSError: it could not be renamed.
        """
        ...

    def rename_new(self, file: WrittenFile) -> int:
        """`rename` of one that is new; on the thread of the commits."""
        ...

    def renamed(self, file: WrittenFile) -> None:
        """The file has its final name; a power cut may still take it away."""
        ...

    def committed(self, file: WrittenFile) -> None:
        """The file is there for good; its upload is acknowledged next."""
        ...

    def discard(self, file: WrittenFile) -> None:
        """Remove the temporary file."""
        ...


@dataclass(frozen=True, slots=True)
class CommitStatistics:
    """What the commits did.

    Attributes:
        waiting: files that are not acknowledged yet.
        committed: files acknowledged since the start.
        cycles: waits for the disk since the start; `committed / cycles` is the mean group.
        slow_syncs: cycles that took so long that files were synced singly for a while.
    """

    waiting: int
    committed: int
    cycles: int
    slow_syncs: int


class GroupCommit:
    """Commits the files of concurrent uploads together.

    Args:
        publisher: the store.
        sync: how a group is made durable; called in `lane`.
        lane: one thread.
    """

    def __init__(
        self,
        publisher: Publisher,
        *,
        sync: DiskSync,
        lane: DiskLane,
    ) -> None:
        self._publisher = publisher
        self._sync = sync
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._written: list[WrittenFile] = []
        self._renamed: list[WrittenFile] = []
        #: Of files that came to an end, how they did.
        self._ended: list[tuple[Resumption[None], BaseException | None]] = []
        #: That hold names of `_renamed`.
        self._directories: set[int] = set()
        self._busy = False
        self._idle: asyncio.Future[None] | None = None
        self._waiting = 0
        self._committed = 0
        self._cycles = 0

    async def commit(self, file: WrittenFile) -> None:
        """Make a file durable under its final name.

        Cancelled before the rename: nothing of it is left. Cancelled after: it is there.

        Raises:
            NativeLinkError: it could not be written; nothing of it is left.
        """
        self._written.append(file)
        self._waiting += 1
        if not self._busy:
            self._busy = True
            # The other uploads of this turn of the loop come along.
            self._loop.call_soon(self._begin_cycle)
        try:
            await file.done
        except asyncio.CancelledError:
            if file.state is _State.WRITTEN:
                # The descriptor may be in use by the sync; the name can go at once.
                file.state = _State.WITHDRAWN
                self._publisher.discard(file)
            raise

    async def wait_idle(self) -> None:
        """Wait until nothing waits to be committed."""
        if self._busy:
            if self._idle is None:
                self._idle = self._loop.create_future()
            await asyncio.shield(self._idle)

    def statistics(self) -> CommitStatistics:
        """Figures of this moment."""
        return CommitStatistics(self._waiting, self._committed, self._cycles, self._sync.slow)

    def _begin_cycle(self) -> None:
        written, self._written = self._written, []
        renamed, self._renamed = self._renamed, []
        if not (written or renamed):
            self._busy = False
            if self._idle is not None:
                self._idle.set_result(None)
                self._idle = None
            return
        self._cycles += 1
        if not renamed and len(written) <= self._sync.FEW and self._are_new(written):
            rename = self._publisher.rename_new
            self._lane.submit_now(
                lambda: self._sync.sync_and_rename(written, rename),
                lambda outcomes, failure: self._synced_and_renamed(outcomes, failure, written),
            )
            return
        files = [file.fd for file in written]
        directories = tuple(self._directories)
        self._directories.clear()
        self._lane.submit_now(
            lambda: self._sync.sync(files, directories),
            lambda errors, failure: self._synced(errors, failure, written, renamed),
        )

    def _go_on(self) -> None:
        """Begin the next cycle, and then let those go on whose files came to an end."""
        self._begin_cycle()
        ended, self._ended = self._ended, []
        for done, error in ended:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    def _are_new(self, files: Sequence[WrittenFile]) -> bool:
        publisher = self._publisher
        return all(publisher.is_new(file.key) for file in files)

    def _synced_and_renamed(
        self,
        outcomes: list[_Outcome] | None,
        failure: BaseException | None,
        files: list[WrittenFile],
    ) -> None:
        if outcomes is None:
            assert failure is not None
            for file in files:
                self._fail(file, failure)
        else:
            for file, outcome in zip(files, outcomes, strict=True):
                if isinstance(outcome, int):
                    # Also if it was withdrawn, too late.
                    self._publisher.committed(file)
                    self._committed += 1
                    self._end(file, None)
                else:
                    self._fail(file, outcome)
        self._go_on()

    def _synced(
        self,
        errors: list[OSError | None] | None,
        failure: BaseException | None,
        written: list[WrittenFile],
        renamed: list[WrittenFile],
    ) -> None:
        if errors is not None:
            ready: deque[WrittenFile] = deque()
            for file, error in zip(written, errors, strict=True):
                if error is None:
                    ready.append(file)
                else:
                    self._fail(file, error)
            for file in renamed:
                self._publisher.committed(file)
                self._committed += 1
                self._end(file, None)
            self._rename(ready)
        else:
            # A directory could not be synced, so nobody may be told that anything is safe. Files
            # that were renamed are whole and stay until a later upload replaces them.
            assert failure is not None
            for file in (*renamed, *written):
                self._fail(file, failure)
            self._go_on()

    def _rename(self, files: deque[WrittenFile]) -> None:
        """Rename files for a millisecond, let the loop breathe, go on; then the next cycle."""
        give_way = timer() + _SLICE_S
        while files:
            file = files.popleft()
            if file.state is _State.WITHDRAWN:
                self._end(file, None)
            elif not self._publisher.may_rename(file.key):
                self._written.append(file)
            else:
                try:
                    self._directories.add(self._publisher.rename(file))
                except OSError as error:
                    self._fail(file, error)
                    continue
                file.state = _State.RENAMED
                self._renamed.append(file)
                self._publisher.renamed(file)
            if timer() > give_way and files:
                self._loop.call_soon(self._rename, files)
                return
        self._go_on()

    def _fail(self, file: WrittenFile, error: BaseException) -> None:
        if file.state is _State.WRITTEN:
            self._publisher.discard(file)
        self._end(
            file, disk_error(error, f"storing {file.key}") if isinstance(error, OSError) else error
        )

    def _end(self, file: WrittenFile, error: BaseException | None) -> None:
        os.close(file.fd)
        self._waiting -= 1
        self._ended.append((file.done, error))
