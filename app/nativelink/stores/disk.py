"""Where the filesystem store's system calls run.

Three places, by cost:

- *Inline*, on the event loop's thread: calls that take microseconds while their data is in the
  page cache. A hop to a thread costs more than they do, and a thread that makes many short calls
  must win the interpreter lock back after each, up to `sys.getswitchinterval()` every time while
  the loop is busy. `InlineGuard` watches that they really are quick.
- *A lane* (`DiskLane`): calls that may wait for the disk. All jobs of one turn of the loop are
  shared out among the threads at once, and each share's results come back together.
- *One long call*: a group commit waits for the disk in a single `syncfs` (group_commit.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Generic, TypeVar

__all__ = ["DiskLane", "InlineGuard", "LaneStatistics", "PieceBudget", "timer"]

T = TypeVar("T")

#: Measures inline calls; finer than a Clock, and of no meaning beyond a difference.
timer: Final = time.perf_counter


class InlineGuard:
    """Whether system calls are quick enough now to be made on the event loop's thread.

    They are on a local disk whose metadata is in memory. They are not on a network filesystem or
    a disk that thrashes, and then the loop must not wait. One slow call proves nothing (the
    scheduler may have taken the processor away); many of the last ones do: each slow call is a
    strike, each quick one takes a strike back, and at `_STRIKES` inline calls pause, for a second
    at first and twice as long each time it happens again, up to a minute.

    Callers look at `allowed` and report every inline call's duration to `took`.
    """

    __slots__ = ("_monotonic", "_pause_s", "_quick", "_resume_at", "_strikes", "pauses")

    _SLOW_S: Final = 0.0005
    _STRIKES: Final = 8
    _MIN_PAUSE_S: Final = 1.0
    _MAX_PAUSE_S: Final = 60.0
    #: Quick calls in a row after which an old pause is forgotten.
    _RECOVERED: Final = 1000

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._strikes = 0
        self._quick = 0
        self._pause_s = self._MIN_PAUSE_S
        self._resume_at = 0.0
        #: How often inline calls were paused.
        self.pauses = 0

    @property
    def allowed(self) -> bool:
        """Whether inline calls may be made now."""
        if not self._resume_at:
            return True
        if self._monotonic() < self._resume_at:
            return False
        self._resume_at = 0.0
        return True

    def took(self, seconds: float) -> None:
        """An inline call (or a short run of them) took so long."""
        if seconds <= self._SLOW_S:
            if self._strikes:
                self._strikes -= 1
            elif self._pause_s > self._MIN_PAUSE_S:
                self._quick += 1
                if self._quick >= self._RECOVERED:
                    self._pause_s = self._MIN_PAUSE_S
            return
        self._quick = 0
        self._strikes += 1
        if self._strikes >= self._STRIKES:
            self._strikes = 0
            self._resume_at = self._monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, self._MAX_PAUSE_S)
            self.pauses += 1


class PieceBudget:
    """Shares memory out among transfers: the more there are at a time, the smaller their pieces.

    A few large transfers get pieces so large that the hops between threads do not count; a
    thousand slow ones do not hold a gigabyte.

    Args:
        total_bytes: for all transfers together, as long as that leaves each a piece of
        smallest_bytes: at least, and it gets no more than
        largest_bytes: at a time.
    """

    __slots__ = ("_largest_bytes", "_smallest_bytes", "_total_bytes", "_transfers")

    def __init__(self, total_bytes: int, *, smallest_bytes: int, largest_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._smallest_bytes = smallest_bytes
        self._largest_bytes = largest_bytes
        self._transfers = 0

    def __enter__(self) -> PieceBudget:
        """One transfer more."""
        self._transfers += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._transfers -= 1

    @property
    def piece_bytes(self) -> int:
        """How large a piece may be now."""
        share = self._total_bytes // max(1, self._transfers)
        return max(self._smallest_bytes, min(share, self._largest_bytes))


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """What a lane has to do.

    Attributes:
        threads: how many work.
        waiting: jobs that are not done yet.
        jobs: jobs taken since the start.
        hops: shares of jobs that travelled to a thread.
    """

    threads: int
    waiting: int
    jobs: int
    hops: int


class _Job(Generic[T]):
    """A call that runs in a lane, and who waits for it."""

    __slots__ = ("call", "ended", "error", "result", "then", "waiter")

    def __init__(
        self,
        call: Callable[[], T],
        waiter: asyncio.Future[T] | None,
        then: Callable[[T | None, BaseException | None], None] | None = None,
    ) -> None:
        self.call = call
        self.waiter = waiter
        self.then = then
        self.result: T | None = None
        self.error: BaseException | None = None
        #: Set when the waiter was cancelled while the job ran.
        self.ended: asyncio.Future[None] | None = None


class DiskLane:
    """Threads for system calls that may wait for the disk.

    A job cannot be stopped, so `run` waits for its end even if the caller is cancelled: whatever
    the job touches (descriptors, buffers) is the caller's again when `run` returns or raises.

    Args:
        name: of the threads.
        threads: how many; started by `start`, on the running loop.
    """

    def __init__(self, name: str, *, threads: int) -> None:
        self._name = name
        self._count = threads
        self._threads: list[Thread] = []
        self._queue: SimpleQueue[list[_Job[Any]] | None] = SimpleQueue()
        self._gathered: list[_Job[Any]] = []
        self._waiting = 0
        self._jobs = 0
        self._hops = 0
        self._running = 0
        self._stopped: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Start the threads."""
        self._loop = asyncio.get_running_loop()
        self._stopped = self._loop.create_future()
        self._running = self._count
        for number in range(self._count):
            # Daemons: a disk that hangs must not keep the process from ending.
            thread = Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    async def close(self) -> None:
        """Finish all jobs and end the threads."""
        if self._stopped is None:
            return
        self._share_out()
        for _ in self._threads:
            self._queue.put(None)
        await self._stopped
        for thread in self._threads:
            thread.join()

    def submit(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Run `call` in the lane, and do not wait: for jobs that nobody needs to outlive."""
        job = self._add(call)
        assert job.waiter is not None
        return job.waiter

    def submit_now(
        self, call: Callable[[], T], then: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Run `call` in the lane, from this moment, and `then` on the loop's thread.

        Args:
            call: the job.
            then: called with what it returned or raised, as soon as the loop hears of its end.
        """
        self._gathered.append(_Job(call, None, then))
        self._waiting += 1
        self._jobs += 1
        self._share_out()

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call` in the lane; returns or raises what it does.

        Cancelled: raises when the job has ended, its result is lost.
        """
        return await self.finish(self.begin(call))

    def begin(self, call: Callable[[], T]) -> _Job[T]:
        """Run `call` in the lane while the caller does something else; `finish` must follow."""
        return self._add(call)

    async def finish(self, job: _Job[T]) -> T:
        """Wait for a job that was begun, as `run` does."""
        assert job.waiter is not None
        try:
            return await job.waiter
        except asyncio.CancelledError:
            while job.call is not _done:
                if job.ended is None or job.ended.done():
                    job.ended = job.waiter.get_loop().create_future()
                try:
                    await job.ended
                except asyncio.CancelledError:
                    continue
            raise

    def statistics(self) -> LaneStatistics:
        """Figures of this moment."""
        return LaneStatistics(self._count, self._waiting, self._jobs, self._hops)

    def _add(self, call: Callable[[], T]) -> _Job[T]:
        loop = self._loop
        assert loop is not None, "the lane was not started"
        job = _Job(call, loop.create_future())
        if not self._gathered:
            loop.call_soon(self._share_out)
        self._gathered.append(job)
        self._waiting += 1
        self._jobs += 1
        return job

    def _share_out(self) -> None:
        jobs, self._gathered = self._gathered, []
        shares = min(len(jobs), self._count)
        for number in range(shares):
            self._queue.put(jobs[number::shares])
        self._hops += shares

    def _work(self) -> None:
        loop = self._loop
        assert loop is not None
        while self._perform(self._queue.get(), loop):
            pass
        loop.call_soon_threadsafe(self._thread_ended)

    def _perform(self, jobs: list[_Job[Any]] | None, loop: asyncio.AbstractEventLoop) -> bool:
        """Do a share of jobs; a call of its own, so that an idle thread holds no buffer."""
        if jobs is None:
            return False
        for job in jobs:
            try:
                job.result = job.call()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
                job.error = error
        loop.call_soon_threadsafe(self._deliver, jobs)
        return True

    def _deliver(self, jobs: list[_Job[Any]]) -> None:
        self._waiting -= len(jobs)
        for job in jobs:
            # Calls and results hold large buffers, and whoever waits may live long.
            job.call = _done
            result, job.result = job.result, None
            if job.then is not None:
                job.then(result, job.error)
            elif job.waiter is not None and not job.waiter.done():
                if job.error is None:
                    job.waiter.set_result(result)
                else:
                    job.waiter.set_exception(job.error)
            if job.ended is not None and not job.ended.done():
                job.ended.set_result(None)

    def _thread_ended(self) -> None:
        self._running -= 1
        if not self._running and self._stopped is not None:
            self._stopped.set_result(None)


def _done() -> Any:
    """Stands for a call that has been made."""
