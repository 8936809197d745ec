"""Runs actions in slots, which it makes as they are needed and keeps for a while."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from typing import Final, NamedTuple, NoReturn, Self

from nativelink.core.errors import Code, NativeLinkError, invalid_argument, unavailable
from nativelink.worker.launch import Exit, Launch
from nativelink.worker.processes import cgroups, frames
from nativelink.worker.processes.supervisor import Namespaces, Slot, Supervisor

__all__ = ["LauncherStatistics", "Namespaces", "ProcessLauncher"]

_log = logging.getLogger(__name__)

#: Slots kept however long they are idle; each is about a megabyte of its own.
_KEPT: Final = 4
#: Seconds after which the others end.
_IDLE_S: Final = 60.0
#: What shells report for a program that signal N ended, and Bazel understands: 128 + N.
_SIGNALED: Final = 128


class LauncherStatistics(NamedTuple):
    """What a launcher does now, and did.

    Attributes:
        running: programs that run.
        idle: slots that wait for one.
        started: programs since the start.
        supervisors: how often guard and nursery were started.
    """

    running: int
    idle: int
    started: int
    supervisors: int


class ProcessLauncher:
    """A `Launcher` for this machine (see `nativelink.worker.processes`).

    A context manager: leaving it kills what still runs. Use it on one event loop.
    """

    def __init__(
        self,
        *,
        namespaces: Namespaces | None = None,
        limited: bool = False,
        group_id: int | None = None,
    ) -> None:
        """Nothing is started before the context is entered.

        Args:
            namespaces: what actions are kept from; None is nothing.
            limited: whether launches will have limits. The process then moves itself into a leaf
                of its control group, where it has one that it may divide; else limits are not kept.
            group_id: the group that actions are in, for which this process needs CAP_SETGID; None
                for its own.
        """
        self._namespaces = namespaces
        self._limited = limited
        self._group_id = group_id
        self._groups: cgroups.Limited | None = None
        self._supervisor: Supervisor | None = None
        self._starting = asyncio.Lock()
        self._closed = False
        self._idle: list[tuple[Slot, float]] = []
        self._pruning: asyncio.TimerHandle | None = None
        self._running = 0
        self._started = 0
        self._supervisors = 0

    async def __aenter__(self) -> Self:
        if self._limited:
            self._groups = _divide()
        await self._revive()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        if self._pruning is not None:
            self._pruning.cancel()
        self._idle.clear()
        if self._supervisor is not None:
            await self._supervisor.close()

    def statistics(self) -> LauncherStatistics:
        """What it does now."""
        return LauncherStatistics(self._running, len(self._idle), self._started, self._supervisors)

    async def run(self, launch: Launch, *, timeout_s: float) -> Exit:
        request = frames.frame(frames.RUN, _packed(launch, timeout_s))
        return await self._ask(request, (), network=self._network(launch))

    async def run_piped(self, launch: Launch, *, stdin: int, stdout: int) -> Exit:
        request = frames.frame(frames.RUN, _packed(launch, math.inf, piped=True))
        return await self._ask(request, (stdin, stdout), network=self._network(launch))

    def _network(self, launch: Launch) -> bool:
        """Whether a slot with the host's network is wanted: only namespaces make a difference."""
        return self._namespaces is not None and (self._namespaces.network or launch.network)

    async def _ask(self, request: bytes, descriptors: tuple[int, ...], *, network: bool) -> Exit:
        try:
            slot = self._take(network=network)
        except NativeLinkError:
            await self._revive()
            slot = self._take(network=network)
        self._running += 1
        self._started += 1
        try:
            kind, body = await slot.ask(request, descriptors)
            if kind == frames.EXIT:
                return _exit(body)
            failure = frames.Failure.unpack(body)
            if failure.last:
                slot.close()
            raise NativeLinkError(Code(failure.code), failure.message)
        finally:
            self._running -= 1
            self._put(slot)

    async def _revive(self) -> None:
        """See that there is a nursery; its predecessor and all of its slots are useless.

        Raises:
            NativeLinkError: UNAVAILABLE if there can be none.
        """
        async with self._starting:
            if self._closed:
                raise unavailable("the launcher is closed")
            if self._supervisor is not None and self._supervisor.usable:
                return
            self._supervisor, slot = await Supervisor.start(
                self._namespaces, self._groups, group_id=self._group_id
            )
            self._put(slot)
            self._supervisors += 1

    def _take(self, *, network: bool) -> Slot:
        """The slot that was used last, whose pages are warm, or a new one.

        Raises:
            NativeLinkError: UNAVAILABLE if there is no nursery.
        """
        for place in range(len(self._idle) - 1, -1, -1):
            slot, _ = self._idle[place]
            if slot.network is network or not slot.usable:
                del self._idle[place]
                if slot.usable:
                    return slot
        if self._supervisor is None or not self._supervisor.usable:
            raise unavailable("no process runs actions")
        return self._supervisor.fork(network=network)

    def _put(self, slot: Slot) -> None:
        if slot.usable:
            loop = asyncio.get_running_loop()
            self._idle.append((slot, loop.time()))
            if self._pruning is None and len(self._idle) > _KEPT:
                self._pruning = loop.call_later(_IDLE_S, self._prune)

    def _prune(self) -> None:
        """End the slots that were not needed for some time."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - _IDLE_S
        self._idle = [(slot, since) for slot, since in self._idle if slot.usable]
        while len(self._idle) > _KEPT and self._idle[0][1] <= oldest:
            self._idle.pop(0)[0].close()
        self._pruning = None
        if len(self._idle) > _KEPT:
            self._pruning = loop.call_at(self._idle[0][1] + _IDLE_S, self._prune)


def _divide() -> cgroups.Limited | None:
    """Prepare control groups, and say what will be limited."""
    groups = cgroups.divide()
    if groups.controllers:
        _log.info("actions are limited in %s below %s", ", ".join(groups.controllers), groups.base)
    if groups.reason:
        _log.warning("not all limits of actions are kept: %s", groups.reason)
    return groups if groups.controllers else None


def _packed(launch: Launch, timeout_s: float, *, piped: bool = False) -> bytes:
    """A launch as the body of a request.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for what no kernel takes.
    """
    if not launch.arguments:
        raise invalid_argument("the command has no arguments, so there is no program to run")
    words = [
        os.fsencode(launch.working_directory),
        os.fsencode(launch.action_directory),
        os.fsencode(launch.stdout),
        os.fsencode(launch.stderr),
        *map(_encoded, launch.arguments),
    ]
    variables: list[bytes] = []
    for name, value in launch.environment.items():
        if not name or "=" in name:
            raise invalid_argument(
                f"environment variable {name!r}: a name is not empty and has no '='"
            )
        variables.append(_encoded(f"{name}={value}"))
    limits = launch.limits
    request = frames.Request(
        timeout_s,
        limits.memory_bytes or 0,
        limits.cpus or 0.0,
        limits.pids or 0,
        piped,
        words,
        variables,
    )
    try:
        return request.pack()
    except ValueError:
        _refuse_nul(launch)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _refuse_nul(launch: Launch) -> NoReturn:
    for place, argument in enumerate(launch.arguments):
        if "\0" in argument:
            raise invalid_argument(f"argument {place} has a NUL byte: {argument[:100]!r}")
    for name, value in launch.environment.items():
        if "\0" in name + value:
            raise invalid_argument(f"environment variable {name!r} has a NUL byte")
    raise invalid_argument(f"a path has a NUL byte: {launch.working_directory!s:.100}")


def _exit(body: bytes) -> Exit:
    ended = frames.Ended.unpack(body)
    number = os.WTERMSIG(ended.status) if os.WIFSIGNALED(ended.status) else 0
    return Exit(
        timed_out=ended.timed_out,
        exit_code=_SIGNALED + number if number else os.WEXITSTATUS(ended.status),
        signal=number,
        out_of_memory=ended.out_of_memory,
        cpu_time_ms=ended.cpu_us // 1000,
        peak_memory_kb=ended.peak_memory_kb,
        sampled=ended.sampled,
        started_at=ended.started_at,
        ended_at=ended.ended_at,
    )
