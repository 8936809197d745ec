"""The scheduler of one process: the machine, driven by an asyncio loop.

Everything is decided in `dispatch`, which never waits: an event goes into the machine, its effects
go to the queues of worker links and to watches. So there are no locks, and nobody sees a state
that is half changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final
from uuid import uuid4

from nativelink.core.clock import Clock
from nativelink.core.errors import (
    NativeLinkError,
    failed_precondition,
    not_found,
    resource_exhausted,
    unavailable,
)
from nativelink.scheduler import effects, events
from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.ends import LocalLink, LocalWatch
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.operation import OperationView
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.pools import Pools, PoolStatistics
from nativelink.scheduler.properties import PropertyRules
from nativelink.scheduler.recorder import NO_RECORDER, Recorder, SchedulerStatistics
from nativelink.scheduler.recording import Recording
from nativelink.scheduler.scheduler import (
    KillOrder,
    StartOrder,
    Watch,
    WorkerHello,
    WorkerLink,
    WorkerView,
    new_operation_name,
)
from nativelink.scheduler.watches import Watches

__all__ = ["LocalScheduler"]

logger = logging.getLogger(__name__)

#: A timer that is called later than this means that the loop, or the machine, stood still. What
#: workers said meanwhile is heard for as long before any of them counts as silent.
_STALL_S: Final = 1.0
#: While anything will be due there is a timer as often as this. So a standstill is noticed however
#: much later the next thing is due, and before it can take a worker for silent that says something
#: every 2.5 s, and may be so for 5 s.
_PULSE_S: Final = 0.5
#: Nothing that will be due is in such a hurry: a busy scheduler forgets a thousand finished
#: operations a second, each a minute after its end.
_TICK_INTERVAL_S: Final = 0.1
#: Requests that are remembered, finished ones included: some 2 GiB. Further ones are turned away
#: and may come again (Bazel does), so that clients that go wild do not take the farm down.
_MAX_REQUESTS: Final = 1_000_000


class LocalScheduler:
    """A `Scheduler` and `WorkerGateway` whose state is this process's memory.

    An async context manager; leaving it is `close`. To be used on one loop, from one thread.

    Args:
        policy: what the configuration says.
        clock: for the time of events; only its monotonic time moves on after the start, so that
            a machine whose clock is set neither loses workers nor keeps them for ever.
        recorder: told what happens.
        worker_match_logging_interval_s: how often it is logged why operations wait; 0 or less is
            never.

    Attributes:
        recorder: as given.
        stopping: whether `close` was called.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        clock: Clock,
        recorder: Recorder = NO_RECORDER,
        worker_match_logging_interval_s: float = 10,
    ) -> None:
        self.recorder: Final = recorder
        self.stopping = False
        self._clock = clock
        self._started_at = clock.time() - clock.monotonic()
        self._machine = Machine(policy)
        #: None where it does not pay to make what the recorder is told.
        self._recording = None if recorder is NO_RECORDER else Recording(recorder, self._machine)
        self._policy = policy
        self._watches = Watches()
        self._links: dict[str, LocalLink] = {}
        #: Links with new orders, while the effects of one event are carried out.
        self._told: list[LocalLink] = []
        self._logging_interval_s = worker_match_logging_interval_s
        self._log_at: float | None = None
        #: Reasons why nothing can run something, of which a warning was logged of late.
        self._warned: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._ticked_at = 0.0
        #: The loop's time of the timer.
        self._timer_at = 0.0
        self._stalled = False

    async def __aenter__(self) -> LocalScheduler:
        self._arm()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop: those who watch get UNAVAILABLE, workers are told to disconnect."""
        self.stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watches.wake_all()
        links = list(self._links.values())
        self._links.clear()
        for link in links:
            link.end()
            link.wake()

    # -- clients --------------------------------------------------------------------------------

    async def execute(self, action: ActionInfo, *, name: str = "") -> Watch:
        self._must_run()
        if self._machine.known >= _MAX_REQUESTS:
            raise resource_exhausted(
                f"the scheduler has {self._machine.known} operations, finished ones that are still "
                f"kept included; {_MAX_REQUESTS} are allowed"
            )
        name = name or new_operation_name(action.key.instance_name)
        watch = LocalWatch(self, name)
        self.dispatch(events.ExecuteRequested(name, str(uuid4()), action))
        self._watches.add(watch)
        return watch

    async def watch(self, name: str) -> Watch:
        self._must_run()
        self.known(name)
        watch = LocalWatch(self, name)
        self.dispatch(events.ClientAttached(name))
        self._watches.add(watch)
        return watch

    async def get(self, name: str) -> OperationView:
        view = self.known(name)
        self.dispatch(events.OperationRead(name))
        return replace(view, story=tuple(self._machine.story(view.operation_id)))

    async def operations(self, *, since: float = 0.0) -> Iterable[OperationView]:
        return self._machine.views(since=since)

    async def cancel(self, name: str) -> None:
        self.known(name)
        self.dispatch(events.CancelRequested(name))

    async def delete(self, name: str) -> None:
        view = self.known(name)
        if not view.done:
            raise failed_precondition(
                f"operation {name} is {view.stage.name}; only finished ones can be deleted, "
                "others can be cancelled"
            )
        self.dispatch(events.DeleteRequested(name))

    def known_properties(self) -> Sequence[str]:
        return sorted(self._policy.supported_properties)

    def known(self, name: str) -> OperationView:
        """The operation as it is now.

        Raises:
            NativeLinkError: NOT_FOUND.
        """
        view = self._machine.view(name)
        if view is None:
            raise not_found(
                f"operation {name[:200]!r} not found: it never was, or finished more than "
                f"{self._policy.retain_completed_for_s:g} s ago"
            )
        return view

    def look(self, name: str) -> OperationView | None:
        """The operation as it is now; None if the name means nothing."""
        return self._machine.view(name)

    def unwatch(self, watch: LocalWatch) -> None:
        """A stream does not follow any more."""
        if self._watches.remove(watch) and not self.stopping:
            self.dispatch(events.ClientDetached(watch.name))

    # -- workers --------------------------------------------------------------------------------

    def connect(self, hello: WorkerHello) -> WorkerLink:
        self._must_run()
        resumed = self._machine.has_worker(hello.resumes)
        worker_id = hello.resumes if resumed else f"{hello.prefix}{uuid4()}"
        link = LocalLink(self, worker_id)
        before = self._links.get(worker_id)
        self._links[worker_id] = link
        try:
            self.dispatch(
                events.WorkerJoined(
                    worker_id,
                    tuple(sorted(hello.properties)),
                    hello.max_inflight_tasks,
                    hello.running,
                    hello.can_resume,
                    hello.address,
                )
            )
        except NativeLinkError:
            if before is None:
                del self._links[worker_id]
            else:
                self._links[worker_id] = before
            raise
        if before is not None:
            logger.info(
                "worker %s connects again, from %s, while its old connection looks alive",
                worker_id,
                hello.address,
            )
            # Its old connection may look alive for long; nothing that still comes from it counts.
            before.end()
            before.wake()
            self.recorder.worker_disconnected(worker_id, "disconnected")
        self.recorder.worker_connected(worker_id, resumed=resumed)
        return link

    def workers(self) -> Sequence[WorkerView]:
        return self._machine.workers()

    def drain(self, worker_id: str, *, draining: bool) -> None:
        if not self._machine.has_worker(worker_id):
            raise not_found(f"worker {worker_id[:200]!r} not found")
        self.dispatch(events.DrainRequested(worker_id, draining))

    def disconnected(self, link: LocalLink, event: events.WorkerLeft | events.WorkerLost) -> None:
        """A worker's connection ended, or it said that it will."""
        link.end()
        if self._links.get(link.worker_id) is link:
            del self._links[link.worker_id]
            self.recorder.worker_disconnected(link.worker_id, "disconnected")
            if not self.stopping:
                self.dispatch(event)
        link.wake()

    def seen(self, worker_id: str) -> None:
        """A worker sent a keep-alive. Puts things off at most, so nothing else follows."""
        self._machine.handle(events.WorkerSeen(worker_id), self._now())
        self.recorder.worker_seen(worker_id)

    def finished(
        self, event: events.ExecutionFinished, *, peak_memory_kb: int, cpu_time_ms: int
    ) -> None:
        """A worker gave a result."""
        if self._recording is not None:
            self._recording.used(event, peak_memory_kb=peak_memory_kb, cpu_time_ms=cpu_time_ms)
        self.dispatch(event)

    # -- what people look at --------------------------------------------------------------------

    def statistics(self) -> SchedulerStatistics:
        """How much waits, runs and is there to run it."""
        return self._machine.statistics()

    @property
    def rules(self) -> PropertyRules:
        """How platform properties are compared."""
        return self._machine.matching.rules

    def pool_statistics(self, pools: Pools) -> Sequence[PoolStatistics]:
        """How much waits, runs and is there to run it, by pools."""
        return self._machine.pool_statistics(pools, self._now())

    # -- the machine ----------------------------------------------------------------------------

    def dispatch(self, event: events.Event) -> None:
        """Handle an event and carry out what follows.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for properties that cannot be right.
        """
        if self._recording is not None:
            began = self._clock.monotonic()
            found = self._machine.handle(event, self._now())
            took_s = self._clock.monotonic() - began
            for effect in found:
                self._carry_out(effect)
            self._recording.handled(found, took_s)
        else:
            found = self._machine.handle(event, self._now())
            for effect in found:
                self._carry_out(effect)
        self._watches.event_ended()
        self._arm()
        if self._told:
            # Workers of this process may answer within these calls: all is in order again.
            told, self._told = self._told, []
            for link in told:
                link.wake()

    def _now(self) -> float:
        return self._started_at + self._clock.monotonic()

    def _carry_out(self, effect: effects.Effect) -> None:
        match effect:
            case effects.OperationUpdated():
                self._watches.update(effect.names)
            case effects.StartExecution():
                link = self._links.get(effect.worker_id)
                if link is not None:
                    link.send(StartOrder(effect.operation_id, effect.action, effect.queued_at))
                    self._told.append(link)
            case effects.KillExecution():
                link = self._links.get(effect.worker_id)
                if link is not None:
                    link.send(KillOrder(effect.operation_id))
                    self._told.append(link)
            case effects.WorkerEvicted():
                link = self._links.pop(effect.worker_id, None)
                if link is not None:
                    link.end()
                    self._told.append(link)
                    self.recorder.worker_disconnected(effect.worker_id, "evicted")
                logger.warning("worker %s is evicted: %s", effect.worker_id, effect.reason)
            case effects.WorkerQuarantined():
                logger.warning(
                    "worker %s gets nothing for %g s: %s",
                    effect.worker_id,
                    effect.seconds,
                    effect.reason,
                )
            case effects.AttemptEnded():
                logger.info(
                    "worker %s did not execute operation %s: %s",
                    effect.worker_id,
                    effect.operation_id,
                    effect.reason,
                )
            case effects.Unschedulable():
                # As many operations as wait are told the same, and all that come.
                if effect.reason not in self._warned:
                    self._warned.add(effect.reason)
                    logger.warning("actions wait that no worker can run: %s", effect.reason)
            case effects.OperationForgotten():
                self._watches.forget(effect.names)
            case _:
                pass

    def _arm(self) -> None:
        """Have `_tick` called when something is due."""
        due = self._machine.next_deadline()
        if self.stopping or self._stalled:
            return
        if not self._machine.queued:
            self._warned.clear()
        if self._logging_interval_s > 0:
            if not self._machine.queued:
                self._log_at = None
            elif self._log_at is None:
                self._log_at = self._now() + self._logging_interval_s
            if self._log_at is not None:
                due = self._log_at if due is None else min(due, self._log_at)
        if due is None:
            return
        due = max(due, self._ticked_at + _TICK_INTERVAL_S)
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        # What uvloop gives back knows its time only where that is still to come.
        self._timer_due = due = min(due, self._now() + _PULSE_S)
        self._timer_at = loop.time() + max(0.0, due - self._now())
        self._timer = loop.call_at(self._timer_at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        late_s = loop.time() - self._timer_at
        self._stalled = not self._stalled and late_s > _STALL_S
        if self._stalled:
            logger.warning("the event loop stood still for %.1f s", late_s)
            self._timer = loop.call_at(loop.time() + _STALL_S, self._tick)
            return
        if self._log_at is not None and self._now() >= self._log_at:
            self._log_at = None
            self._warned.clear()
            self._log_queue()
        due = self._machine.next_deadline()
        if due is None or due > self._now():
            self._arm()
            return
        self._ticked_at = self._now()
        self.dispatch(events.Tick())

    def _log_queue(self) -> None:
        """Say why operations wait."""
        now = self._now()
        for platform in self._machine.statistics().platforms:
            logger.info(
                "queue of %s: %d waiting, the first one for %.0f s: %s",
                platform.properties or "actions that ask for nothing",
                platform.queued,
                now - platform.oldest_queued_at,
                platform.unschedulable or "all that suit are busy",
            )

    def _must_run(self) -> None:
        if self.stopping:
            raise unavailable("the scheduler stops")
