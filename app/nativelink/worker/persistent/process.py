"""One persistent worker: a process that answers one request after another."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final
from typing import Protocol as Interface

from nativelink.core.errors import NativeLinkError
from nativelink.proto.nativelink.v1 import work_pb2
from nativelink.worker.launch import Exit, Launch
from nativelink.worker.persistent.messages import Protocol, ProtocolError, read_response

__all__ = ["PersistentProcess", "PipedLauncher"]

_READ_BYTES: Final = 1 << 18


class PipedLauncher(Interface):
    """Runs processes that are talked to."""

    async def run_piped(self, launch: Launch, *, stdin: int, stdout: int) -> Exit:
        """Run a process to its end, as `Launcher.run` does without a time limit.

        Args:
            launch: its `stdout` is not used.
            stdin: descriptor of its standard input; the caller closes it after the end.
            stdout: likewise of its standard output.
        """
        ...


class PersistentProcess:
    """A process in a directory of its own.

    Attributes:
        directory: its action directory.
        requests: how many it was sent.
    """

    def __init__(self, launcher: PipedLauncher, launch: Launch, protocol: Protocol) -> None:
        """It begins with `run`.

        Args:
            launcher: runs it.
            launch: how.
            protocol: what it speaks.
        """
        self.directory = launch.action_directory
        self.requests = 0
        self._launcher = launcher
        self._launch = launch
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._theirs_in, self._stdin = os.pipe2(os.O_CLOEXEC)
        self._stdout, self._theirs_out = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        self._task: asyncio.Task[None] | None = None
        self._failure: NativeLinkError | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it runs, as far as is known."""
        return self._task is not None and not self._task.done()

    @property
    def failure(self) -> NativeLinkError | None:
        """Why it could not be started, or was ended by others."""
        return self._failure

    def start(self, group: asyncio.TaskGroup) -> None:
        """Start it, in a task of `group` that lasts as long as it does."""
        self._task = group.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._launcher.run_piped(
                self._launch, stdin=self._theirs_in, stdout=self._theirs_out
            )
        except NativeLinkError as error:
            self._failure = error
        finally:
            # Whoever waits for an answer sees the end of it.
            os.close(self._theirs_in)
            os.close(self._theirs_out)

    async def stop(self) -> None:
        """Kill it and what it started, and wait until all is gone."""
        if self._task is None:
            os.close(self._theirs_in)
            os.close(self._theirs_out)
            return
        self._task.cancel()
        await asyncio.wait((self._task,))

    def close(self) -> None:
        """Let go of its pipes, when it has ended."""
        os.close(self._stdin)
        os.close(self._stdout)

    async def ask(self, request: bytes) -> work_pb2.WorkResponse:
        """Send a request and wait for the response.

        Cancelling leaves the process in the middle of it: it is of no use any more.

        Raises:
            ProtocolError: it died, or what it says is no response.
        """
        self.requests += 1
        left = memoryview(request)
        while left:
            try:
                left = left[os.write(self._stdin, left) :]
            except BlockingIOError:
                await self._when(self._loop.add_writer, self._loop.remove_writer, self._stdin)
            except BrokenPipeError:
                raise ProtocolError("it ended before it had read its request") from None
        return await read_response(self._read, self._protocol)

    async def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._stdout, _READ_BYTES)
            except BlockingIOError:
                await self._when(self._loop.add_reader, self._loop.remove_reader, self._stdout)

    async def _when(
        self,
        add: Callable[..., object],
        remove: Callable[[int], object],
        descriptor: int,
    ) -> None:
        """Wait until a descriptor can be used."""
        usable: asyncio.Future[None] = self._loop.create_future()
        add(descriptor, _resolve, usable)
        try:
            await usable
        finally:
            remove(descriptor)

    def last_words(self) -> str:
        """The end of what it wrote to its stderr."""
        return _tail(self._launch.stderr)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


#: Bytes of a log that are shown in an error.
_TAIL_BYTES: Final = 4096


def _tail(path: Path) -> str:
    # Whatever the process put there: no link is followed, no pipe is waited for.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except OSError:
        return ""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return ""
        data = os.pread(fd, _TAIL_BYTES, max(0, status.st_size - _TAIL_BYTES))
    except OSError:
        return ""
    finally:
        os.close(fd)
    return data.decode("utf-8", "replace").strip()
