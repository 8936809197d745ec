"""The server's side of the hands."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, cast

import nativelink
from nativelink.core.eager import run_all
from nativelink.core.errors import unavailable
from nativelink.core.latch import Latch
from nativelink.worker.hands.process import HEAD, JOBS

__all__ = ["FEW_STEPS", "Hands"]

#: Jobs of up to so many system calls are done at once, on the event loop: some 300 us, as much as
#: it takes to have another process do them.
FEW_STEPS: Final = 48
#: Where the package is comes as an argument: the environment is not looked at (-I).
_START: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from nativelink.worker.hands.process import main; main()"
)

#: What a job returned, and the OSError that it raised.
_Answer: TypeAlias = tuple[Any, tuple[int, str, str] | None]


class Hands:
    """Processes that do large jobs, each one after the other. Use it as `async with hands:`.

    One that dies is started again; the jobs that it had fail as UNAVAILABLE.

    Args:
        count: how many; by default one per processor, four at most.
    """

    def __init__(self, count: int = 0) -> None:
        self._count = count or min(4, len(os.sched_getaffinity(0)))
        self._hands: list[_Hand] = []
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        try:
            self._hands += await run_all(_Hand.start() for _ in range(self._count))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def run(self, job: str, *arguments: Any, steps: int | None = None) -> Any:
        """Do one of `process.JOBS`.

        A job that was begun goes on to its end even if the caller is cancelled, and the caller
        waits for that: what it works on is the caller's again when this returns or raises.

        Args:
            job: its name.
            arguments: plain values.
            steps: system calls that it takes, if that is known; few are made at once.

        Returns:
            What the job returns.

        Raises:
            OSError: what the job raised.
            NativeLinkError: UNAVAILABLE if the process died.
        """
        if steps is not None and steps <= FEW_STEPS:
            return JOBS[job](*arguments)
        hand = min(self._hands, key=_jobs_of)
        if hand.is_dead:
            hand = await self._replace(hand)
        return await hand.run(job, arguments)

    async def _replace(self, dead: _Hand) -> _Hand:
        async with self._starting:
            if dead in self._hands:
                await dead.close()
                self._hands[self._hands.index(dead)] = await _Hand.start()
        return min(self._hands, key=_jobs_of)

    async def _close(self) -> None:
        hands, self._hands = self._hands, []
        for hand in hands:
            await hand.close()


class _Hand(asyncio.Protocol):
    """One process.

    Attributes:
        is_dead: whether it takes no jobs any more.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._waiting: deque[asyncio.Future[_Answer]] = deque()
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._lost = Latch()
        self.is_dead = False

    @classmethod
    async def start(cls) -> _Hand:
        """A new one.

        Raises:
            NativeLinkError: UNAVAILABLE if this machine cannot start a process now.
        """
        package = str(Path(nativelink.__path__[0]).parent)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                # Started once for very many jobs; `Popen` uses vfork.
                process = subprocess.Popen(  # noqa: ASYNC220
                    [sys.executable, "-I", "-c", _START, package],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                )
            except OSError as error:
                ours.close()
                raise unavailable(f"cannot start a process for file work: {error}") from error
        loop = asyncio.get_running_loop()
        _, hand = await loop.create_unix_connection(lambda: cls(process), sock=ours)
        return hand

    @property
    def jobs(self) -> int:
        """What it does and is to do."""
        return len(self._waiting)

    async def run(self, job: str, arguments: tuple[Any, ...]) -> Any:
        """See `Hands.run`."""
        assert self._transport is not None
        data = pickle.dumps((job, arguments), protocol=pickle.HIGHEST_PROTOCOL)
        waiter: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._transport.writelines((HEAD.pack(len(data)), data))
        cancelled: asyncio.CancelledError | None = None
        while not waiter.done():
            try:
                await asyncio.wait((waiter,))
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            waiter.exception()
            raise cancelled
        value, failure = waiter.result()
        if failure is not None:
            raise OSError(*failure)
        return value

    async def close(self) -> None:
        """Let it finish its jobs, and wait for its end."""
        while self._waiting:
            await asyncio.wait((self._waiting[-1],))
        assert self._transport is not None
        self._transport.close()
        # uvloop closes the socket in a later turn of the loop; the process ends when it has.
        await self._lost.wait()
        self._process.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= HEAD.size:
            (length,) = HEAD.unpack_from(received)
            end = HEAD.size + length
            if len(received) < end:
                return
            answer = pickle.loads(bytes(received[HEAD.size : end]))  # noqa: S301 - it is ours
            del received[:end]
            self._waiting.popleft().set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_dead = True
        self._lost.set()
        while self._waiting:
            error = unavailable("a process for file work died; the job may be half done")
            error.__cause__ = exc
            self._waiting.popleft().set_exception(error)


def _jobs_of(hand: _Hand) -> int:
    return hand.jobs
