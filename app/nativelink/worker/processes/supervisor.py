"""The server's view of one guard with its nursery and its slots, until all of them are gone."""

from __future__ import annotations

import array
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import nativelink
from nativelink.core.errors import unavailable
from nativelink.core.resumption import Resumption
from nativelink.worker.processes import cgroups, frames

__all__ = ["Namespaces", "Slot", "Supervisor"]

#: Where the package is, for the new interpreter, which searches nothing but its own library.
_ROOT: Final = Path(nativelink.__file__).parents[1]
_BOOT: Final = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from nativelink.worker.processes.nursery import main; main(sys.argv[2:])"
)
#: The nursery's SOCKET.
_THEIR_SOCKET: Final = 3
#: Of the server's environment, what an interpreter may need to start. The rest could hold secrets,
#: and actions can read the environment of a process of the same user.
_PASSED_ON: Final = ("LD_LIBRARY_PATH",)
#: Seconds that an interpreter gets to start; it needs some hundredths.
_START_S: Final = 60.0
#: Seconds until a close gives up on processes that do not end though they were killed.
_END_S: Final = 20.0
_READ_BYTES: Final = 65536
_CANCEL: Final = frames.frame(frames.CANCEL)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Namespaces:
    """What actions are kept from by Linux namespaces.

    Actions always have their own users (the worker's user and group, without capabilities),
    processes, System V IPC, host name `nativelink` and mounts (namespaces(7)).

    Attributes:
        hidden: absolute directories of which an action sees only what is its own.
        network: whether they share the host's network; else they reach only themselves, unless
            they ask for it (`Launch.network`).
    """

    hidden: Sequence[Path] = ()
    network: bool = False

    def covers(self) -> list[str]:
        """The hidden directories without those that are below another."""
        paths = set(self.hidden)
        return sorted(str(path) for path in paths if paths.isdisjoint(path.parents))


class Slot:
    """A slot process, seen from the server: runs one request at a time.

    Attributes:
        usable: whether it takes another request.
        network: whether what it runs may use the network.
    """

    def __init__(self, server: socket.socket, *, network: bool) -> None:
        self.usable = True
        self.network = network
        self._socket = server
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._waiting: Resumption[tuple[int, bytes]] | asyncio.Future[tuple[int, bytes]] | None = (
            None
        )
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(server, self._read)

    def close(self) -> None:
        """Let it end; what runs in it is killed."""
        self.usable = False
        if self._socket.fileno() != -1:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def ended(self, reason: str) -> None:
        """It is gone, and so is everything that it ran."""
        self.close()
        if not self._ended.done():
            self._ended.set_result(None)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(unavailable(reason))

    async def ask(self, request: bytes, descriptors: tuple[int, ...] = ()) -> tuple[int, bytes]:
        """Send a frame and wait for the answer.

        Cancelling kills what runs and waits until it is gone.

        Args:
            request: the frame.
            descriptors: what goes with it.

        Raises:
            NativeLinkError: UNAVAILABLE if the slot ended.
        """
        # The answer is acted upon at once: the next action waits for it.
        waiting = self._waiting = Resumption[tuple[int, bytes]](self._loop)
        whole = False
        try:
            try:
                sent = self._send(request, descriptors)
                if sent < len(request):
                    await self._loop.sock_sendall(self._socket, memoryview(request)[sent:])
            except OSError:
                # It died; its end, with the reason, is about to be told.
                self.close()
            whole = True
            return await waiting
        except asyncio.CancelledError:
            if waiting.cancelled() or not waiting.done():
                await self._stop(cut_off=not whole)
            raise
        finally:
            self._waiting = None

    def _send(self, request: bytes, descriptors: tuple[int, ...]) -> int:
        try:
            if descriptors:
                packed = array.array("i", descriptors)
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)]
                return self._socket.sendmsg([request], ancillary)
            return self._socket.send(request)
        except BlockingIOError:
            return 0

    async def _stop(self, *, cut_off: bool) -> None:
        """Kill what runs and wait until it is gone, however often that is cancelled.

        Args:
            cut_off: the slot has only a part of the request, and can get no other.
        """
        stopped = self._waiting = self._loop.create_future()
        try:
            if cut_off or self._socket.send(_CANCEL) < len(_CANCEL):
                self.close()
        except OSError:
            self.close()
        while not (stopped.done() or self._ended.done()):
            try:
                await asyncio.wait((stopped, self._ended), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                # Heeded by the caller, who raises the first one when nothing is left.
                continue
        if stopped.done():
            stopped.exception()

    def _read(self) -> None:
        data = _receive(self._socket)
        if data is None:
            return
        if not data:
            # Its end is told by the nursery, when nothing is left.
            self.close()
            return
        self._received += data
        answer = frames.cut(self._received)
        if answer is not None and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)


class Supervisor:
    """One guard and what is below it.

    Attributes:
        usable: whether it can make slots.
    """

    def __init__(self, server: socket.socket, guard: int) -> None:
        self.usable = True
        self._socket = server
        self._guard = guard
        self._handle = os.pidfd_open(guard)
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._numbers = 0
        self._slots: dict[int, Slot] = {}
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        # The guard's end and that of the socket, which the nursery has too.
        self._ends = 2
        self._loop.add_reader(server, self._read)
        self._loop.add_reader(self._handle, self._guard_ended)

    @classmethod
    async def start(
        cls,
        namespaces: Namespaces | None,
        groups: cgroups.Limited | None = None,
        *,
        group_id: int | None = None,
    ) -> tuple[Self, Slot]:
        """Start a guard, wait until its nursery is there, and see that it can make a slot.

        Args:
            namespaces: what slots keep actions from; None is nothing.
            groups: where they can be limited; None is nowhere.
            group_id: the group that actions are in; None for that of this process.

        Returns:
            It, and its first slot.

        Raises:
            NativeLinkError: UNAVAILABLE if that cannot be, with what the host has to allow.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                guard = _spawn(theirs, _arguments(namespaces, groups, group_id))
        except OSError as error:
            ours.close()
            raise unavailable(f"cannot start {sys.executable}: {error.strerror}") from error
        supervisor = cls(ours, guard)
        try:
            async with asyncio.timeout(_START_S):
                await supervisor._ready
                slot = await supervisor._probe(
                    network=namespaces is not None and namespaces.network
                )
        except BaseException as error:
            await supervisor.close()
            if isinstance(error, TimeoutError):
                raise unavailable("the process that starts actions did not start") from None
            raise
        return supervisor, slot

    async def _probe(self, *, network: bool) -> Slot:
        """Make a slot and see that it could run something."""
        slot = self.fork(network=network)
        kind, body = await slot.ask(frames.frame(frames.PROBE))
        if kind == frames.FAILED:
            raise unavailable(frames.Failure.unpack(body).message)
        return slot

    def fork(self, *, network: bool) -> Slot:
        """A new slot, which takes requests at once.

        Args:
            network: whether what it runs may use the network.

        Raises:
            NativeLinkError: UNAVAILABLE if the nursery is gone; then so will be all slots.
        """
        self._numbers += 1
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        packed = array.array("i", [theirs.fileno()])
        order = frames.Fork(self._numbers, network).pack()
        with theirs:
            try:
                self._socket.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])
            except OSError as error:
                ours.close()
                self.usable = False
                raise unavailable(f"cannot ask for a process: {error.strerror}") from error
        slot = self._slots[self._numbers] = Slot(ours, network=network)
        return slot

    async def close(self) -> None:
        """Kill everything and wait until it is gone."""
        self.usable = False
        for slot in self._slots.values():
            slot.close()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            # It is gone already.
            pass
        done, _ = await asyncio.wait((self._gone,), timeout=_END_S)
        if not done:
            _log.warning("processes of actions were killed and do not end; left to the system")
            self._loop.remove_reader(self._socket)
            self._loop.remove_reader(self._handle)
            self._all_ended()

    def _read(self) -> None:
        data = _receive(self._socket)
        if data is None:
            return
        if not data:
            self._loop.remove_reader(self._socket)
            self._end()
            return
        self._received += data
        while len(self._received) >= frames.NOTICE_BYTES:
            number, status = frames.Notice.unpack(self._received[: frames.NOTICE_BYTES])
            del self._received[: frames.NOTICE_BYTES]
            if number == 0:
                if not self._ready.done():
                    self._ready.set_result(None)
            else:
                self._slots.pop(number).ended(_reason(status))

    def _guard_ended(self) -> None:
        self._loop.remove_reader(self._handle)
        os.waitpid(self._guard, 0)
        self._end()

    def _end(self) -> None:
        """One of the two ends came; with both, no process is left."""
        self.usable = False
        self._ends -= 1
        if self._ends == 0:
            self._all_ended()

    def _all_ended(self) -> None:
        self._socket.close()
        os.close(self._handle)
        while self._slots:
            self._slots.popitem()[1].ended(_DEAD)
        if not self._ready.done():
            self._ready.set_exception(unavailable("the process that starts actions ended"))
        self._gone.set_result(None)


#: Why an action's run failed when the nursery or the guard was killed.
_DEAD: Final = "the action was killed because its supervisor died"


def _arguments(
    namespaces: Namespaces | None, groups: cgroups.Limited | None, group_id: int | None
) -> list[str]:
    """What the nursery is told; see `nursery.Settings`."""
    told: list[str] = []
    if namespaces is not None:
        told += ["sandbox", *(f"hide={path}" for path in namespaces.covers())]
    if groups is not None:
        told += [f"groups={groups.base}", *(f"limit={name}" for name in groups.controllers)]
    if group_id is not None:
        told.append(f"group={group_id}")
    return told


def _spawn(theirs: socket.socket, arguments: list[str]) -> int:
    """Start a guard; its pid."""
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, str(_ROOT), *arguments],
        {name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, theirs.fileno(), _THEIR_SOCKET),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
        ],
        setsid=True,
    )


def _reason(status: int) -> str:
    """Why a slot ended, from what the nursery says."""
    if status < 0:
        return f"this machine cannot start a process now: {os.strerror(-status)}"
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"the action was killed because its supervisor was ended by {name}"
    return _DEAD


def _receive(connection: socket.socket) -> bytes | None:
    """What has come; nothing at its end, however that came about; None if it was a false alarm."""
    try:
        return connection.recv(_READ_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""
