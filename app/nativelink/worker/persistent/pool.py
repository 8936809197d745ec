"""The persistent workers of this machine: found, asked, kept for a while, ended."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from uuid import uuid4

from nativelink.core.clock import Clock
from nativelink.core.errors import Code, unavailable
from nativelink.proto.nativelink.v1 import work_pb2
from nativelink.stores.disk import DiskLane
from nativelink.worker.launch import Exit, Launch
from nativelink.worker.persistent.messages import ProtocolError, WorkInput, encode
from nativelink.worker.persistent.moving import move
from nativelink.worker.persistent.plan import LOG, Key, Plan, expand, key_of, plan
from nativelink.worker.persistent.process import PersistentProcess, PipedLauncher

__all__ = ["PersistentSettings", "PersistentWorkers"]

T = TypeVar("T")

_KILLED: Final = 128 + signal.SIGKILL
#: Highest exit code that a process can have.
_MAX_EXIT_CODE: Final = 255


@dataclass(frozen=True, slots=True)
class PersistentSettings:
    """Bounds of the pool; the defaults are NativeLink v1.6.6's.

    Attributes:
        directory: new, or emptied; on the device of the actions' directories.
        max_processes: at the same time, idle ones included: as many as the worker runs actions.
        max_requests: after which a process is replaced, as compilers leak.
        idle_timeout_s: seconds after which one that nobody asks ends.
        distrust_s: seconds for which actions like one that a process died of run by themselves.
    """

    directory: Path
    max_processes: int = 4
    max_requests: int = 200
    idle_timeout_s: float = 300.0
    distrust_s: float = 600.0


class PersistentWorkers:
    """Runs actions by processes that stay, where they ask for it.

    A context manager: leaving it ends all of them. Use it on one event loop, inside of the
    launcher's and the lane's lifetime.
    """

    def __init__(
        self, launcher: PipedLauncher, lane: DiskLane, clock: Clock, settings: PersistentSettings
    ) -> None:
        """Nothing is started before the first action that asks for it.

        Args:
            launcher: runs the processes.
            lane: for system calls on files.
            clock: for when something was.
            settings: bounds.
        """
        self._launcher = launcher
        self._lane = lane
        self._clock = clock
        self._settings = settings
        self._idle: list[tuple[float, Key, PersistentProcess]] = []
        self._processes = 0
        self._distrusted: dict[Key, float] = {}
        self._loop = asyncio.get_running_loop()
        self._sweeping: asyncio.Task[None] | None = None
        self._group = asyncio.TaskGroup()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._lane.run(self._empty)
        await self._stack.enter_async_context(self._group)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        while self._idle:
            await self._end(self._idle.pop()[2])
        await self._stack.aclose()

    def _empty(self) -> None:
        shutil.rmtree(self._settings.directory, ignore_errors=True)
        self._settings.directory.mkdir(parents=True)

    @property
    def processes(self) -> int:
        """How many there are, idle ones included."""
        return self._processes

    async def run(
        self,
        launch: Launch,
        properties: Mapping[str, str],
        *,
        timeout_s: float,
        inputs: Sequence[WorkInput] = (),
    ) -> Exit | None:
        """Run an action by a process that stays.

        Whatever comes of it, the action's directory is as after a run of its own: outputs, stdout
        (empty) and stderr (the response's output) are where `launch` says.
        Cancelling, and the time limit, kill the process that works for the action, with all that
        it started.

        Args:
            launch: the action.
            properties: its platform properties.
            timeout_s: seconds that it may take, the process' start included.
            inputs: what the request lists as the action's inputs.

        Returns:
            How it ended, without measurements of CPU time and memory; None if nothing was done,
            and it is to be run in a process of its own: it does not ask for this, it cannot be
            run so, all processes are busy, or one died lately of an action like it.

        Raises:
            NativeLinkError: UNAVAILABLE if the process died or answered nonsense; outputs may be
                there in part, so the action must begin anew (`distrust_s` sees that it is not for
                ever). INVALID_ARGUMENT if its files of arguments are outside of its directory.
        """
        planned = plan(launch, properties)
        if planned is None:
            return None
        prepared = await self._lane.run(partial(_prepare, planned))
        if prepared is None:
            return None
        key, arguments = prepared
        if self._is_distrusted(key):
            return None
        process = await self._take(key)
        is_new = process is None
        if process is None:
            process = await self._make(planned)
        if process is None:
            return None
        request = encode(arguments, inputs, planned.protocol)
        return await self._ask(process, planned, key, request, timeout_s, is_new=is_new)

    async def _ask(
        self,
        process: PersistentProcess,
        planned: Plan,
        key: Key,
        request: bytes,
        timeout_s: float,
        *,
        is_new: bool,
    ) -> Exit | None:
        launch = planned.launch
        inside = launch.working_directory.relative_to(launch.action_directory)
        lend = partial(move, launch.action_directory, process.directory, inside, keep=frozenset())
        give_back = partial(
            move, process.directory, launch.action_directory, inside, keep=frozenset({LOG})
        )
        try:
            await self._lane.run(lend)
        except OSError:
            # Its inputs are mounts, or a link is on the way to its working directory.
            await self._end(process)
            return None
        started_at = self._clock.time()
        response: work_pb2.WorkResponse | None = None
        timed_out = False
        problem = ""
        try:
            if is_new:
                process.start(self._group)
            async with asyncio.timeout(timeout_s):
                response = await process.ask(request)
        except TimeoutError:
            timed_out = True
        except ProtocolError as error:
            problem = str(error)
        finally:
            problem = await self._finish(
                self._settle(process, key, launch, give_back, response, problem)
            )
            ended_at = self._clock.time()
        if problem:
            if process.failure is not None and process.failure.code is not Code.UNAVAILABLE:
                # It could not even be started: the action's own process will say why.
                return None
            self._distrust(key)
            raise unavailable(f"the persistent worker {planned.startup[0]!r} failed: {problem}")
        code = _KILLED if response is None else response.exit_code
        return Exit(
            timed_out=timed_out,
            exit_code=code if 0 <= code <= _MAX_EXIT_CODE else _MAX_EXIT_CODE,
            signal=signal.SIGKILL if timed_out else 0,
            started_at=started_at,
            ended_at=ended_at,
        )

    async def _settle(
        self,
        process: PersistentProcess,
        key: Key,
        launch: Launch,
        give_back: Callable[[], None],
        response: work_pb2.WorkResponse | None,
        problem: str,
    ) -> str:
        """Give the action its files, and keep or end the process.

        Returns:
            What went wrong, empty if nothing did.
        """
        if response is None:
            # Before its files move under its feet.
            await process.stop()
        try:
            await self._lane.run(give_back)
            said = "" if response is None else response.output
            await self._lane.run(partial(_write, launch, said))
        except OSError as error:
            problem = f"its directory cannot be emptied: {error}"
        if response is not None and not problem:
            await self._put(key, process)
            return ""
        if problem and (words := await self._lane.run(process.last_words)):
            problem += f"; the end of its stderr: {words}"
        await self._end(process)
        return problem

    async def _finish(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run to the end what cleans up, and only then heed a cancellation."""
        task = self._group.create_task(coro)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        return task.result()

    def _distrust(self, key: Key) -> None:
        now = self._loop.time()
        self._distrusted = {key: until for key, until in self._distrusted.items() if until > now}
        self._distrusted[key] = now + self._settings.distrust_s

    def _is_distrusted(self, key: Key) -> bool:
        return self._distrusted.get(key, 0.0) > self._loop.time()

    async def _take(self, key: Key) -> PersistentProcess | None:
        """The idle process of `key` that was used last."""
        for place in range(len(self._idle) - 1, -1, -1):
            if self._idle[place][1] == key:
                process = self._idle.pop(place)[2]
                if process.is_alive:
                    return process
                await self._end(process)
                return await self._take(key)
        return None

    async def _make(self, planned: Plan) -> PersistentProcess | None:
        """A new process, not started yet; None if there are too many that work."""
        if self._processes >= self._settings.max_processes:
            if not self._idle:
                return None
            await self._end(self._idle.pop(0)[2])
        self._processes += 1
        directory = self._settings.directory / uuid4().hex
        try:
            await self._lane.run(directory.mkdir)
            return PersistentProcess(self._launcher, planned.process(directory), planned.protocol)
        except OSError:
            self._processes -= 1
            return None

    async def _put(self, key: Key, process: PersistentProcess) -> None:
        """Keep a process that has answered."""
        if process.requests >= self._settings.max_requests:
            await self._end(process)
            return
        self._idle.append((self._loop.time(), key, process))
        if self._sweeping is None:
            self._sweeping = self._group.create_task(self._sweep())

    async def _sweep(self) -> None:
        """End processes that nobody asks any more, as long as there are any."""
        while self._idle:
            wait_s = self._idle[0][0] + self._settings.idle_timeout_s - self._loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            else:
                await self._end(self._idle.pop(0)[2])
        self._sweeping = None

    async def _end(self, process: PersistentProcess) -> None:
        """End a process, and remove what is left of it."""
        try:
            await process.stop()
            process.close()
            await self._lane.run(partial(shutil.rmtree, process.directory, ignore_errors=True))
        finally:
            self._processes -= 1


def _prepare(planned: Plan) -> tuple[Key, list[str]] | None:
    """What has to be read for a plan: its key with the tools, and the request's arguments."""
    key = key_of(planned)
    arguments = expand(planned.flags, planned.launch.working_directory)
    return None if key is None or arguments is None else (key, arguments)


def _write(launch: Launch, said: str) -> None:
    """Make an action's stdout and stderr, whatever it left in their place.

    Raises:
        OSError: if that is a directory.
    """
    for path, text in ((launch.stdout, ""), (launch.stderr, said)):
        path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o644), "w", encoding="utf-8") as file:
            file.write(text)
