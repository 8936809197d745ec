"""A slot: runs one program after another, and answers when all of each is gone."""

# pathlib would be a good part of these small processes' memory.
# ruff: noqa: PTH123

from __future__ import annotations

import math
import os
import select
import signal
import socket
from resource import RUSAGE_SELF, getrusage
from time import monotonic
from types import FrameType

from nativelink.core.clock import SystemClock
from nativelink.core.errors import Code, NativeLinkError, invalid_argument, not_found, unavailable
from nativelink.worker.processes import frames, program
from nativelink.worker.processes.cgroups import Group
from nativelink.worker.processes.sandbox import Sandbox
from nativelink.worker.processes.system import become_subreaper, die_with_parent
from nativelink.worker.processes.tree import Tree

__all__ = ["Slot"]

#: Seconds between two looks at a program's memory.
_SAMPLE_S = 0.25
#: Seconds that the kernel gets to end what was killed: only a process in an uninterruptible wait,
#: say for a dead network file system, needs more, and it may need for ever.
_KILL_S = 10.0
#: How much likelier than the server the kernel should choose an action when memory runs out, in
#: thousandths of the machine's memory (proc_pid_oom_score_adj(5)).
_OOM_SCORE = 500
#: Bytes of a request taken at once; larger ones take several reads.
_READ_BYTES = 65536

_clock = SystemClock()


class _Orphaned(BaseException):
    """The nursery is gone: there is nobody to work for."""


class _ServerGone(BaseException):
    """The server closed the socket, or died."""


class _UndyingError(Exception):
    """Processes do not end though they were killed."""


def _orphaned(_number: int, _frame: FrameType | None) -> None:
    raise _Orphaned


class Slot:
    """What a slot is from its fork to its end."""

    def __init__(
        self,
        server: socket.socket,
        sandbox: Sandbox | None,
        groups: str,
        controllers: tuple[str, ...],
    ) -> None:
        """Nothing is done before `serve`.

        Args:
            server: where requests come from.
            sandbox: entered already; None is none.
            groups: directory of the control group to divide; empty for none.
            controllers: what can be limited there.
        """
        self._groups = groups
        self._controllers = controllers
        self._server = server
        self._sandbox = sandbox
        self._received = bytearray()
        self._descriptors: list[int] = []
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._alone = sandbox is not None

    def serve(self, nursery: int) -> None:
        """Work until the server wants no more, or there is no server or no nursery.

        Args:
            nursery: its pid.
        """
        tree = Tree(0, alone=self._alone, floor_kb=0)
        try:
            if self._sandbox is None:
                signal.signal(signal.SIGUSR1, _orphaned)
                die_with_parent(signal.SIGUSR1)
                become_subreaper()
                if os.getppid() != nursery:
                    return
            _prefer_for_killing()
            while True:
                kind, body = self._next()
                if kind == frames.RUN:
                    self._answer(*self._run(frames.Request.unpack(body)))
                elif kind == frames.PROBE:
                    self._answer(*self._probe())
        except (_Orphaned, _ServerGone):
            tree.kill(math.inf)

    def _next(self) -> tuple[int, bytes]:
        """Wait for the next frame."""
        while (cut := frames.cut(self._received)) is None:
            data, ancillary, _, _ = self._server.recvmsg(
                _READ_BYTES, socket.CMSG_SPACE(16), socket.MSG_CMSG_CLOEXEC
            )
            if not data:
                raise _ServerGone
            for _, _, packed in ancillary:
                self._descriptors += memoryview(packed).cast("i")
            self._received += data
        return cut

    def _answer(self, kind: int, body: bytes) -> None:
        try:
            self._server.sendall(frames.frame(kind, body), socket.MSG_NOSIGNAL)
        except OSError:
            raise _ServerGone from None

    def _run(self, request: frames.Request) -> tuple[int, bytes]:
        """Run a program to its end, and what it started too.

        Returns:
            The answer's frame.
        """
        try:
            if self._sandbox is not None:
                self._sandbox.admit(request.words[1])
            try:
                return frames.EXIT, self._run_in(request).pack()
            finally:
                os.chdir("/")
                if self._sandbox is not None:
                    self._sandbox.dismiss()
        except NativeLinkError as error:
            return frames.FAILED, frames.Failure(error.code, False, error.message).pack()
        except _UndyingError as error:
            return frames.FAILED, frames.Failure(Code.UNAVAILABLE, True, str(error)).pack()

    def _run_in(self, request: frames.Request) -> frames.Ended:
        """Run a program where it is to run."""
        group = self._limited(request)
        try:
            deadline = monotonic() + request.timeout_s
            tree, started_at = self._start(request, group)
            timed_out = self._watch(tree, deadline)
            ended_at = _clock.time()
            if group is not None:
                group.kill()
            if left := tree.kill(_KILL_S):
                who = ", ".join(map(str, left[:10]))
                raise _UndyingError(f"the action's processes were killed, but stay (pids {who})")
            assert tree.status is not None
            return frames.Ended(
                timed_out,
                tree.status,
                group is not None and group.ran_out_of_memory(),
                tree.cpu_us,
                tree.peak_kb,
                tree.peak_kb > 0,
                started_at,
                ended_at,
            )
        finally:
            if group is not None:
                group.remove()

    def _limited(self, request: frames.Request) -> Group | None:
        """A control group with the limits that the request has, if it has any."""
        _, memory_bytes, cpus, pids, *_ = request
        if not self._groups or not (memory_bytes or cpus or pids):
            return None
        try:
            group = Group(self._groups, self._controllers)
            group.limit(memory_bytes=memory_bytes, cpus=cpus, pids=pids)
        except OSError as error:
            raise unavailable(f"cannot limit an action: {error}") from None
        return group

    def _start(self, request: frames.Request, group: Group | None) -> tuple[Tree, float]:
        """Start the program where and as it is to run; what will come of it, and when it began."""
        descriptors: list[int] = []
        try:
            stdio = self._open(request, descriptors)
            _enter(request.words[0])
            started_at = _clock.time()
            if group is None:
                main = program.start(request.words[4:], request.variables, stdio)
            else:
                try:
                    group.enter()
                except OSError as error:
                    raise unavailable(f"cannot limit an action: {error}") from None
                try:
                    main = program.start(request.words[4:], request.variables, stdio)
                finally:
                    group.leave()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        floor_kb = getrusage(RUSAGE_SELF).ru_maxrss
        return Tree(main, alone=self._alone, floor_kb=floor_kb), started_at

    def _probe(self) -> tuple[int, bytes]:
        """Whether an action could be run, without running one."""
        try:
            if self._sandbox is not None:
                self._sandbox.admit(b"/")
                self._sandbox.dismiss()
        except NativeLinkError as error:
            return frames.FAILED, frames.Failure(error.code, False, error.message).pack()
        return frames.READY, b""

    def _open(self, request: frames.Request, descriptors: list[int]) -> tuple[int, int, int]:
        """The program's stdin, stdout and stderr; those to close are added to `descriptors`."""
        stdin = self._null
        _, _, stdout_path, stderr_path = request.words[:4]
        if request.piped:
            stdin, stdout = self._descriptors
            self._descriptors = []
            descriptors += (stdin, stdout)
        else:
            stdout = _create(stdout_path)
            descriptors.append(stdout)
        stderr = _create(stderr_path)
        descriptors.append(stderr)
        return stdin, stdout, stderr

    def _watch(self, tree: Tree, deadline: float) -> bool:
        """Wait until the main process has ended, the time is over, or the server says so.

        Args:
            tree: the action's processes.
            deadline: when the time is over, by the monotonic clock.

        Returns:
            Whether the time is over.
        """
        handle = os.pidfd_open(tree.main)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.register(self._server, select.POLLIN)
        try:
            now = monotonic()
            sample_at = now + _SAMPLE_S
            while True:
                wait_s = min(sample_at, deadline) - now
                ready = poll.poll(math.ceil(max(0.0, wait_s) * 1000))
                if any(descriptor == handle for descriptor, _ in ready):
                    return False
                if ready and self._next()[0] == frames.CANCEL:
                    return False
                now = monotonic()
                if now >= deadline:
                    return True
                if now >= sample_at:
                    tree.sample()
                    tree.reap()
                    if tree.status is not None:
                        return False
                    sample_at = now + _SAMPLE_S
        finally:
            os.close(handle)


def _create(path: bytes) -> int:
    """Create or empty the file of an output stream."""
    try:
        stream = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        # O_TRUNC would change the times of a file that is empty, as it most often is.
        if os.fstat(stream).st_size:
            os.ftruncate(stream, 0)
        return stream
    except OSError as error:
        raise unavailable(
            f"cannot create {os.fsdecode(path)!r} for the action's output: {error.strerror}"
        ) from None


def _enter(directory: bytes) -> None:
    """Make `directory` the current one."""
    name = os.fsdecode(directory)
    try:
        os.chdir(directory)
    except FileNotFoundError:
        raise not_found(f"the working directory {name!r} does not exist") from None
    except NotADirectoryError:
        raise invalid_argument(f"the working directory {name!r} is not a directory") from None
    except OSError as error:
        raise invalid_argument(
            f"the working directory {name!r} cannot be entered: {error.strerror}"
        ) from None


def _prefer_for_killing() -> None:
    """Have the kernel look at actions first when memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
            score = min(1000, int(file.read()) + _OOM_SCORE)
            file.seek(0)
            file.write(str(score))
    except OSError:
        # Some containers mount it read-only; the kernel then chooses by size alone.
        pass
