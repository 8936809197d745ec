"""The processes between the server and the slots: the guard and the nursery."""

from __future__ import annotations

import gc
import math
import os
import select
import signal
import socket
import struct
import sys
from time import monotonic
from types import FrameType
from typing import NamedTuple, NoReturn

from nativelink.core.errors import NativeLinkError
from nativelink.worker.processes import frames
from nativelink.worker.processes.sandbox import Sandbox
from nativelink.worker.processes.slot import Slot
from nativelink.worker.processes.system import (
    become_subreaper,
    die_with_parent,
    give_up_capabilities,
)
from nativelink.worker.processes.tree import Tree, children, end, wait_for

__all__ = ["Settings", "main"]

#: Descriptor of the guard's and the nursery's socket to the server.
SOCKET = 3

_PID = struct.Struct("=i")
#: Signals that reach a whole process group or control group when an operator, a terminal or an
#: init system ends the server. The server decides when its actions end.
_NOT_FOR_US = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


#: Seconds for which the nursery waits for killed processes, in which it does nothing else.
_STRAYS_S = 5.0


class _Orphaned(BaseException):
    """The guard is gone."""


def _orphaned(_number: int, _frame: FrameType | None) -> None:
    raise _Orphaned


def _heed_not(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: unlike an ignored signal, one with a handler is not ignored by an action."""


def _reset_signals() -> None:
    """Undo what Python and the server's parents did to signals: actions would inherit it."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    for number in _NOT_FOR_US:
        signal.signal(number, _heed_not)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class Settings(NamedTuple):
    """What the server decided for all slots.

    Attributes:
        sandbox: whether they are in namespaces.
        hidden: what these hide.
        groups: directory of the control group to divide; empty for none.
        controllers: what can be limited there.
        group: id of the group that they are in; None for the server's.
    """

    sandbox: bool
    hidden: list[bytes]
    groups: str
    controllers: tuple[str, ...]
    group: int | None

    @staticmethod
    def of(arguments: list[str]) -> Settings:
        """From arguments `sandbox`, `hide=PATH`, `groups=PATH`, `limit=CONTROLLER`, `group=ID`."""
        given: dict[str, list[str]] = {}
        for argument in arguments:
            name, _, value = argument.partition("=")
            given.setdefault(name, []).append(value)
        return Settings(
            "sandbox" in given,
            [os.fsencode(path) for path in given.get("hide", ())],
            given.get("groups", [""])[0],
            tuple(given.get("limit", ())),
            int(given["group"][0]) if "group" in given else None,
        )


class _Nursery:
    """Forks slots, and cleans up after those that were killed."""

    def __init__(self, server: socket.socket, settings: Settings) -> None:
        """Nothing is done before `serve`.

        Args:
            server: where orders come from.
            settings: of its slots.
        """
        self._server = server
        self._settings = settings
        self._slots: dict[int, int] = {}
        self._wakeup, self._ended = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        """Work until the server closes its end."""
        signal.signal(signal.SIGCHLD, _heed_not)
        signal.set_wakeup_fd(self._ended, warn_on_full_buffer=False)
        self._tell(frames.Notice(0, 0))
        poll = select.poll()
        poll.register(self._server, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
                self._clean_up()
            if SOCKET in ready and not self._take_order():
                return

    def _tell(self, notice: frames.Notice) -> None:
        try:
            self._server.sendall(notice.pack(), socket.MSG_NOSIGNAL)
        except OSError:
            # The server is gone, as the next read will say.
            pass

    def _take_order(self) -> bool:
        """Fork a slot if the server asks for one. False if it asks for nothing ever again."""
        data, ancillary, _, _ = self._server.recvmsg(
            frames.FORK_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            return False
        order = frames.Fork.unpack(data)
        ((_, _, packed),) = ancillary
        (descriptor,) = memoryview(packed).cast("i")
        try:
            pid, status = self._fork(descriptor, order)
        except OSError as error:
            pid, status = 0, -(error.errno or 1)
        os.close(descriptor)
        if pid:
            self._slots[pid] = order.slot
        else:
            self._tell(frames.Notice(order.slot, status))
        return True

    def _fork(self, descriptor: int, order: frames.Fork) -> tuple[int, int]:
        """Make a slot.

        Returns:
            Its pid, or 0 and how it ended at once.

        Raises:
            OSError: if there can be no process.
        """
        nursery = os.getpid()
        settings = self._settings
        if not settings.sandbox:
            return os.fork() or self._become_slot(descriptor, nursery, None, None), 0
        sandbox = Sandbox(
            hidden=settings.hidden,
            protected=os.fsencode(settings.groups),
            network=order.network,
        )
        ours, theirs = socket.socketpair()
        with ours, theirs:
            forerunner = os.fork()
            if not forerunner:
                ours.close()
                self._become_slot(descriptor, nursery, sandbox, theirs)
            theirs.close()
            told = ours.recv(_PID.size)
            # From here on the slot is a child of ours.
            _, status = os.waitpid(forerunner, 0)
            if not told:
                return 0, status
            ours.sendall(b"+")
        (pid,) = _PID.unpack(told)
        return pid, 0

    def _become_slot(
        self, descriptor: int, nursery: int, sandbox: Sandbox | None, parent: socket.socket | None
    ) -> NoReturn:
        """Never return to the nursery's code, whatever happens."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            self._server.close()
            os.close(self._wakeup)
            os.close(self._ended)
            server = socket.socket(fileno=descriptor)
            try:
                if sandbox is not None and parent is not None:
                    sandbox.enter(parent)
            except NativeLinkError as error:
                failure = frames.Failure(error.code, True, error.message)
                server.sendall(frames.frame(frames.FAILED, failure.pack()), socket.MSG_NOSIGNAL)
            else:
                groups = self._settings.groups
                if sandbox is not None:
                    groups = sandbox.writable or groups
                Slot(server, sandbox, groups, self._settings.controllers).serve(nursery)
                status = 0
        except BaseException:  # noqa: BLE001 the interpreter would go on in the nursery's frames
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _clean_up(self) -> None:
        """Wait for slots that ended, and end what they left behind."""
        ended: list[frames.Notice] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in self._slots:
                ended.append(frames.Notice(self._slots.pop(pid), status))
        if any(notice.status for notice in ended):
            self._end_strays()
        for notice in ended:
            self._tell(notice)

    def _end_strays(self) -> None:
        """Kill every child that is no slot, and what becomes our child by that."""
        until = monotonic() + _STRAYS_S
        while strays := [pid for pid in children(os.getpid()) if pid not in self._slots]:
            for pid in strays:
                end(pid)
            for pid in strays:
                wait_for(pid, _STRAYS_S)
                os.waitpid(pid, os.WNOHANG)
            if monotonic() > until:
                # The kernel does not let go of them; they stay ours until it does.
                return


def main(arguments: list[str]) -> None:
    """What the server starts: becomes the guard, whose child is the nursery.

    Args:
        arguments: see `Settings.of`.
    """
    settings = Settings.of(arguments)
    os.closerange(SOCKET + 1, os.sysconf("SC_OPEN_MAX"))
    os.set_inheritable(SOCKET, False)
    os.umask(0o022)
    os.chdir("/")
    if settings.group is not None:
        os.setgroups([])
        os.setresgid(settings.group, settings.group, settings.group)
    give_up_capabilities()
    _reset_signals()
    become_subreaper()
    gc.disable()
    gc.freeze()
    guard = os.getpid()
    nursery = os.fork()
    if nursery:
        os.waitpid(nursery, 0)
        Tree(nursery, alone=False, floor_kb=0).kill(math.inf)
        return
    become_subreaper()
    # Open until nothing is left, for its end tells the server so.
    server = socket.socket(fileno=SOCKET)
    try:
        signal.signal(signal.SIGUSR1, _orphaned)
        die_with_parent(signal.SIGUSR1)
        if os.getppid() == guard:
            _Nursery(server, settings).serve()
    except _Orphaned:
        pass
    Tree(0, alone=False, floor_kb=0).kill(math.inf)
