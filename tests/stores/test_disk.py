"""Lanes, the guard of inline calls, durability of a group, and the watch over free space."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from nativelink.core.errors import Code
from nativelink.core.streams import Chunk
from nativelink.stores import disk_calls, group_commit
from nativelink.stores.disk import DiskLane, InlineGuard, PieceBudget
from nativelink.stores.disk_calls import disk_error, write_all
from nativelink.stores.filesystem_read import CachedReads
from nativelink.stores.free_space import DiskSpace, FreeSpaceWatch
from nativelink.stores.group_commit import DiskSync
from nativelink.testing.fakes import FakeClock, wait_until

# Lanes


async def test_jobs_of_one_turn_travel_in_as_many_hops_as_there_are_threads() -> None:
    lane = DiskLane("test", threads=2)
    lane.start()
    jobs = [lane.submit(lambda n=n: n * n) for n in range(100)]
    assert [await job for job in jobs] == [n * n for n in range(100)]
    statistics = lane.statistics()
    assert (statistics.jobs, statistics.hops, statistics.waiting) == (100, 2, 0)
    await lane.close()


async def test_a_job_raises_where_it_is_awaited() -> None:
    lane = DiskLane("test", threads=1)
    lane.start()
    with pytest.raises(FileNotFoundError):
        await lane.run(Path("/nowhere").stat)
    assert await lane.run(lambda: "still works") == "still works"
    await lane.close()


async def test_a_cancelled_caller_gets_its_job_back_when_it_has_ended() -> None:
    lane = DiskLane("test", threads=1)
    lane.start()
    started, gate = threading.Event(), threading.Event()
    ended = False

    def work() -> None:
        nonlocal ended
        started.set()
        gate.wait()
        ended = True

    running = asyncio.Task(lane.run(work))
    await wait_until(started.is_set)
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not running.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended
    await lane.close()


async def test_a_job_that_ended_before_the_cancellation_does_not_hold_the_caller() -> None:
    lane = DiskLane("test", threads=1)
    lane.start()
    job = lane.begin(lambda: None)
    await wait_until(job.waiter.done)
    waiting = asyncio.Task(lane.finish(job))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await lane.close()


async def test_closing_a_lane_finishes_what_was_submitted() -> None:
    lane = DiskLane("test", threads=3)
    lane.start()
    done: list[int] = []
    for n in range(50):
        lane.submit(lambda n=n: done.append(n))
    await lane.close()
    assert sorted(done) == list(range(50))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test-")]


async def test_a_lane_that_was_never_started_can_be_closed() -> None:
    await DiskLane("test", threads=1).close()


def test_pieces_get_smaller_when_there_are_many_transfers() -> None:
    budget = PieceBudget(1000, smallest_bytes=10, largest_bytes=300)
    sizes = [budget.piece_bytes]
    with ExitStack() as transfers:
        for _ in range(200):
            transfers.enter_context(budget)
            sizes.append(budget.piece_bytes)
    assert sizes[:6] == [300, 300, 300, 300, 250, 200]
    assert sizes[-1] == 10
    assert budget.piece_bytes == 300


# Inline calls


def test_inline_calls_pause_when_most_of_the_last_ones_were_slow() -> None:
    clock = FakeClock()
    guard = InlineGuard(clock.monotonic)
    for _ in range(1000):
        # The scheduler takes the processor away now and then.
        guard.took(0.00001)
        guard.took(0.004)
    assert guard.allowed
    for _ in range(8):
        guard.took(0.002)
    allowed = [guard.allowed]
    for seconds in (0.9, 0.2):
        clock.advance(seconds)
        allowed.append(guard.allowed)
    assert allowed == [False, False, True]
    assert guard.pauses == 1


def test_pauses_get_longer_until_the_disk_has_recovered() -> None:
    clock = FakeClock()
    guard = InlineGuard(clock.monotonic)

    def pause_s() -> int:
        for _ in range(8):
            guard.took(0.002)
        for seconds in range(100):
            if guard.allowed:
                return seconds
            clock.advance(1)
        raise AssertionError("the pause never ends")

    assert [pause_s() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    for _ in range(1000):
        guard.took(0.00001)
    assert pause_s() == 1


def test_cached_reads_fall_back_where_the_filesystem_cannot_promise_not_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    directory = os.open(tmp_path, os.O_RDONLY)
    flags: list[int] = []
    preadv = os.preadv

    def unsupported(fd: int, buffers: tuple[bytearray], offset: int, flag: int = 0) -> int:
        flags.append(flag)
        if flag:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", unsupported)
    cached = CachedReads()
    try:
        assert cached.whole(directory, "file", 10) == b"0123456789"
        assert cached.whole(directory, "file", 9) is None
        assert cached.whole(directory, "nothing", 9) is None
        assert flags == [os.RWF_NOWAIT, 0, 0]
    finally:
        os.close(directory)


def test_what_is_not_in_the_page_cache_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    directory = os.open(tmp_path, os.O_RDONLY)

    def would_wait(*_args: object) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "preadv", would_wait)
    try:
        assert CachedReads().whole(directory, "file", 10) is None
    finally:
        os.close(directory)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, Code.RESOURCE_EXHAUSTED),
        (errno.EDQUOT, Code.RESOURCE_EXHAUSTED),
        (errno.EMFILE, Code.UNAVAILABLE),
        (errno.EIO, Code.INTERNAL),
        (errno.EROFS, Code.INTERNAL),
    ],
)
def test_a_system_call_s_error_gets_a_code_and_says_what_failed(number: int, code: Code) -> None:
    error = disk_error(OSError(number, os.strerror(number)), "storing x")
    assert error.code is code
    assert error.message == f"storing x: {os.strerror(number)}"


@pytest.mark.parametrize("at_a_time", [1, 7, 10_000])
def test_short_writes_are_continued(
    at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, data: os.write(fd, b"".join(data)[:at_a_time]))
    chunks: list[Chunk] = [b"abc", memoryview(b"defgh"), b"", b"i" * 20]
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    try:
        assert write_all(fd, chunks) == 28
        monkeypatch.setattr(os, "writev", writev)
        assert write_all(fd, [b"x"] * 5000) == 5000
        assert write_all(fd, []) == 0
    finally:
        os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"abcdefgh" + b"i" * 20 + b"x" * 5000


# Making a group durable


class RecordedSyncs:
    """Counts the calls instead of making them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, takes_s: float = 0.0) -> None:
        self.clock = FakeClock()
        self.calls: list[str] = []
        self.takes_s = takes_s
        self.has_syncfs = True
        monkeypatch.setattr(group_commit, "syncfs", self._syncfs)
        monkeypatch.setattr(group_commit, "start_writeback", lambda fd: self.calls.append(f"w{fd}"))
        monkeypatch.setattr(os, "fsync", lambda fd: self.calls.append(f"f{fd}"))
        self.sync = DiskSync(self.clock.monotonic)

    def _syncfs(self, fd: int) -> bool:
        if self.has_syncfs:
            self.calls.append("all")
            self.clock.advance(self.takes_s)
        return self.has_syncfs

    def made_by(self, files: list[int], directories: list[int]) -> list[str]:
        self.calls.clear()
        assert self.sync.sync(files, directories) == [None] * len(files)
        return self.calls


def test_one_or_two_files_are_synced_singly_and_more_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    syncs = RecordedSyncs(monkeypatch)
    assert syncs.made_by([7], []) == ["f7"]
    assert syncs.made_by([7], [1]) == ["f7", "f1"]
    assert syncs.made_by([7, 8], []) == ["w7", "w8", "f7", "f8"]
    assert syncs.made_by([7, 8], [1]) == ["all"]
    assert syncs.made_by(list(range(100)), [1, 2]) == ["all"]


def test_without_syncfs_writeback_of_all_starts_before_the_first_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    syncs = RecordedSyncs(monkeypatch)
    syncs.has_syncfs = False
    assert syncs.made_by([7, 8, 9], [1]) == ["w7", "w8", "w9", "f7", "f8", "f9", "f1"]


def test_a_filesystem_that_others_keep_busy_is_not_synced_as_a_whole_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    syncs = RecordedSyncs(monkeypatch, takes_s=0.5)
    assert syncs.made_by([7, 8, 9], []) == ["all"]
    assert syncs.sync.slow == 1
    assert "all" not in syncs.made_by([7, 8, 9], [])
    syncs.clock.advance(31)
    syncs.takes_s = 0.001
    assert syncs.made_by([7, 8, 9], []) == ["all"]
    assert syncs.made_by([7, 8, 9], []) == ["all"]


def test_syncfs_really_works_here(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert disk_calls.syncfs(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            disk_calls.syncfs(-1)
    finally:
        os.close(fd)


# Free space

GIB = 1 << 30


@pytest.mark.parametrize(
    ("total", "low"),
    [(10 * GIB, GIB), (20 * GIB, GIB), (500 * GIB, 10 * GIB), (2 * GIB, 2 * GIB // 10), (0, 0)],
)
def test_the_low_water_mark_suits_the_size_of_the_disk(total: int, low: int) -> None:
    assert FreeSpaceWatch.low_bytes(total) == low


def test_nothing_is_evicted_while_enough_is_free() -> None:
    watch = FreeSpaceWatch()
    assert watch.shortfall(DiskSpace(100 * GIB, 2 * GIB), leaving_bytes=0) == 0
    assert watch.shortfall(DiskSpace(100 * GIB, 1 * GIB), leaving_bytes=1 * GIB) == 0


def test_a_shortfall_is_made_good_and_a_step_more() -> None:
    watch = FreeSpaceWatch()
    step = 64 << 20
    assert watch.shortfall(DiskSpace(100 * GIB, GIB), leaving_bytes=0) == GIB + step
    assert watch.shortfall(DiskSpace(100 * GIB, GIB), leaving_bytes=GIB // 2) == GIB // 2 + step


def test_the_disk_is_looked_at_after_the_first_write_and_then_after_every_step() -> None:
    watch = FreeSpaceWatch()
    assert watch.wrote(1)
    watch.shortfall(DiskSpace(GIB, GIB), leaving_bytes=0)
    step = GIB // 10 // 8
    assert not watch.wrote(step - 1)
    assert watch.wrote(1)
    assert not watch.wrote(1)
