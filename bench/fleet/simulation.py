"""A day of builds on one pool, second by second where something happens."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from bench.fleet.group import Figures, Group
from bench.fleet.prices import Price
from bench.fleet.traces import Build, Drought, Trace
from nativelink.aws.past import PastOfPool
from nativelink.aws.scaling import PERIOD_S, ScalingRule, policies_of

__all__ = ["Outcome", "Policy", "Sample", "simulate"]

_DAY_S: Final = 24 * 3600.0
#: Spot notices come so long before the end; what runs is handed back before that.
_NOTICE_S: Final = 120.0
_MARGIN_S: Final = 20.0
#: Machines that are taken back on a day like any other, per machine and hour, and how many of the
#: notices get lost.
_INTERRUPTIONS_PER_HOUR: Final = 0.02
_LOST_NOTICES: Final = 0.05
#: A lost worker is missed after so long (`worker_timeout_s` of our configuration).
_MISSED_S: Final = 15.0
#: EC2 Auto Scaling tries a launch that failed again after so long.
_LAUNCH_RETRY_S: Final = 60.0
_DROUGHT_BEGINS_S: Final = 600.0
#: EC2 bills a minute at least.
_LEAST_BILLED_S: Final = 60.0
_SAMPLE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator chooses.

    Attributes:
        rule: sizes, target and boot time.
        price: of the machines.
        idle_after_s: as long without work ends a machine.
        on_demand_base: so many machines are not spot.
        ending_s: for so long a machine that ends itself is still paid for. Its worker looks every
            5 s, waits 2 s for what may be under way to it, asks its group, completes the lifecycle
            action within 5 s more; and a few are EC2's, which bills no longer once the machine is
            `shutting-down` (EC2 User Guide, "Amazon EC2 instance state changes").
        bounded: the rule knows the past, as it is deployed.
    """

    rule: ScalingRule
    price: Price
    idle_after_s: float
    on_demand_base: int = 0
    ending_s: float = 15.0
    bounded: bool = True


@dataclass(frozen=True, slots=True)
class Sample:
    """The pool at one moment: seconds, and how many of each."""

    at: float
    queued: int
    running: int
    workers: int
    booting: int


@dataclass(slots=True)
class Outcome:
    """What a day was like.

    Attributes:
        asked: actions that builds sent.
        done: those that were executed.
        waits: seconds that each was queued, all its attempts together.
        handed_back: attempts that ended as their machine went.
        wasted_s: seconds of such attempts.
        interruptions: machines that were taken back.
        build_s: seconds that each build took.
        dollars: in all.
        idle_dollars: for machines in service that ran nothing.
        leaving_dollars: that part of them for which machines waited, until they ended.
        ending_dollars: that part of them for which machines were about to end.
        boot_dollars: for machines that were not in service yet.
        busy_s: seconds of slots that ran something.
        paid_s: seconds of slots in service.
        launches: machines that were started.
        samples: the pool over time.
    """

    asked: int = 0
    done: int = 0
    waits: list[float] = field(default_factory=list)
    handed_back: int = 0
    wasted_s: float = 0.0
    interruptions: int = 0
    build_s: list[float] = field(default_factory=list)
    dollars: float = 0.0
    idle_dollars: float = 0.0
    leaving_dollars: float = 0.0
    ending_dollars: float = 0.0
    boot_dollars: float = 0.0
    busy_s: float = 0.0
    paid_s: float = 0.0
    launches: int = 0
    samples: list[Sample] = field(default_factory=list)


class _Run:
    """A build while it runs."""

    __slots__ = ("build", "left", "next_index", "start")

    def __init__(self, build: Build) -> None:
        self.build = build
        self.start = build.start
        self.next_index = 0
        self.left = len(build.durations)


class _Action:
    __slots__ = ("attempt", "duration", "queued_at", "run", "started_at", "waited", "worker")

    def __init__(self, run: _Run, duration: float, now: float) -> None:
        self.run = run
        self.duration = duration
        self.queued_at = now
        self.waited = 0.0
        self.attempt = 0
        self.started_at = 0.0
        self.worker: _Machine | None = None


class _Machine:
    __slots__ = (
        "actions", "draining", "gone", "idle_s", "idle_since", "in_service_at", "launched_at",
        "spot",
    )  # fmt: skip

    def __init__(self, now: float, *, spot: bool) -> None:
        self.launched_at = now
        self.in_service_at: float | None = None
        self.idle_since = now
        self.idle_s = 0.0
        self.actions: dict[_Action, None] = {}
        self.draining = False
        self.gone = False
        self.spot = spot


def simulate(trace: Trace, policy: Policy, *, seed: int = 1) -> Outcome:
    """Play a trace; the same arguments give the same outcome."""
    simulation = _Simulation(trace, policy, Random(seed))
    return simulation.play()


class _Simulation:
    def __init__(self, trace: Trace, policy: Policy, random: Random) -> None:
        self._policy = policy
        self._random = random
        self._droughts = tuple(trace.droughts)
        self._group = Group(policy.rule, policies_of(policy.rule))
        self._outcome = Outcome()
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._queue: deque[_Action] = deque()
        #: Those that take actions, the most recently used last.
        self._workers: dict[_Machine, None] = {}
        self._machines: dict[_Machine, None] = {}
        self._running = 0
        self._past = PastOfPool()
        self._builds = len(trace.builds)
        self._launch_again_at = 0.0
        for build in trace.builds:
            self._at(build.start, self._begin, _Run(build))
        for drought in self._droughts:
            self._at(drought.start, self._drought_begins, drought)
        self._at(0.0, self._period)
        self._at(0.0, self._sample)

    def play(self) -> Outcome:
        while self._events:
            self._now, _, do, arguments = heapq.heappop(self._events)
            do(*arguments)
            if self._now >= _DAY_S and not self._builds and self._is_at_its_smallest():
                break
        for machine in list(self._machines):
            self._end(machine, after_s=0.0)
        return self._outcome

    def _is_at_its_smallest(self) -> bool:
        return len(self._machines) <= self._policy.rule.smallest

    def _at(self, time: float, do: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, do, arguments))

    # -- builds --------------------------------------------------------------------------------

    def _begin(self, run: _Run) -> None:
        for _ in range(min(run.build.jobs, len(run.build.durations))):
            self._send_next(run)
        self._match()

    def _send_next(self, run: _Run) -> None:
        if run.next_index < len(run.build.durations):
            duration = run.build.durations[run.next_index]
            run.next_index += 1
            self._outcome.asked += 1
            self._queue.append(_Action(run, duration, self._now))

    def _match(self) -> None:
        slots = self._policy.rule.slots
        while self._queue:
            worker = next(
                (each for each in reversed(self._workers) if len(each.actions) < slots), None
            )
            if worker is None:
                return
            action = self._queue.popleft()
            action.waited += self._now - action.queued_at
            action.attempt += 1
            action.started_at = self._now
            action.worker = worker
            if not worker.actions:
                worker.idle_s += self._now - worker.idle_since
            worker.actions[action] = None
            del self._workers[worker]
            self._workers[worker] = None
            self._running += 1
            self._at(self._now + action.duration, self._finish, action, action.attempt)

    def _finish(self, action: _Action, attempt: int) -> None:
        if action.attempt != attempt or action.worker is None:
            return
        self._release(action)
        outcome = self._outcome
        outcome.done += 1
        outcome.waits.append(action.waited)
        run = action.run
        run.left -= 1
        if run.left:
            self._send_next(run)
        else:
            self._builds -= 1
            outcome.build_s.append(self._now - run.start)
        self._match()

    def _release(self, action: _Action) -> None:
        worker = action.worker
        assert worker is not None
        self._outcome.busy_s += self._now - action.started_at
        del worker.actions[action]
        action.worker = None
        self._running -= 1
        if not worker.actions:
            worker.idle_since = self._now
            self._at(self._now + self._policy.idle_after_s, self._end_if_idle, worker, self._now)

    def _hand_back(self, action: _Action) -> None:
        """Its machine goes: it is first in the queue again, as in the scheduler."""
        self._outcome.handed_back += 1
        self._outcome.wasted_s += self._now - action.started_at
        self._release(action)
        action.attempt += 1
        action.queued_at = self._now
        self._queue.appendleft(action)

    # -- machines ------------------------------------------------------------------------------

    def _period(self) -> None:
        workers = len(self._workers)
        slots = self._policy.rule.slots
        queue = self._queue
        oldest_s = self._now - queue[0].queued_at if queue else 0.0
        past = self._past.add(len(queue), self._running, workers, at=self._now)
        figures = Figures(
            len(queue),
            self._running,
            workers,
            slots * max(workers, 1),
            oldest_s,
            past if self._policy.bounded else None,
        )
        launched = [machine.launched_at for machine in self._machines if not machine.draining]
        self._group.evaluate(figures, launched, self._now)
        self._launch()
        if self._now < _DAY_S or self._builds or self._machines:
            self._at(self._now + PERIOD_S, self._period)

    def _launch(self) -> None:
        missing = self._group.desired - sum(not each.draining for each in self._machines)
        if missing <= 0 or self._now < self._launch_again_at:
            return
        for _ in range(missing):
            fixed = sum(not machine.spot for machine in self._machines)
            spot = fixed >= self._policy.on_demand_base
            if spot and self._random.random() >= self._granted():
                self._launch_again_at = self._now + _LAUNCH_RETRY_S
                continue
            machine = _Machine(self._now, spot=spot)
            self._machines[machine] = None
            self._outcome.launches += 1
            boot_s = self._policy.rule.boot_s * self._random.uniform(0.7, 1.1)
            self._at(self._now + boot_s, self._serve, machine)
            if spot:
                rate = _INTERRUPTIONS_PER_HOUR / 3600
                self._at(self._now + self._random.expovariate(rate), self._notice, machine)

    def _granted(self) -> float:
        for drought in self._droughts:
            if drought.start <= self._now < drought.end:
                return drought.granted
        return 1.0

    def _drought_begins(self, drought: Drought) -> None:
        for machine in self._machines:
            if machine.spot and self._random.random() < drought.interrupted:
                after_s = self._random.uniform(0, _DROUGHT_BEGINS_S)
                self._at(self._now + after_s, self._notice, machine)

    def _serve(self, machine: _Machine) -> None:
        if machine.gone:
            return
        machine.in_service_at = machine.idle_since = self._now
        if not machine.draining:
            self._workers[machine] = None
            self._at(self._now + self._policy.idle_after_s, self._end_if_idle, machine, self._now)
            self._match()

    def _end_if_idle(self, machine: _Machine, since: float) -> None:
        busy = machine.actions or machine.idle_since != since
        if machine.gone or machine.draining or busy:
            return
        if self._group.desired <= self._policy.rule.smallest:
            self._at(self._now + self._policy.idle_after_s, self._end_if_idle, machine, since)
            return
        self._group.ended()
        self._drain(machine)
        policy, outcome = self._policy, self._outcome
        dollars_s = self._dollars_s(machine)
        outcome.leaving_dollars += (self._now - since) * dollars_s
        outcome.ending_dollars += policy.ending_s * dollars_s
        self._end(machine, after_s=policy.ending_s)

    def _notice(self, machine: _Machine) -> None:
        """EC2 takes a machine back in two minutes, and mostly says so."""
        if machine.gone or machine.draining:
            return
        self._outcome.interruptions += 1
        if self._random.random() < _LOST_NOTICES:
            self._at(self._now + _NOTICE_S, self._vanish, machine)
            return
        self._drain(machine)
        self._at(self._now + _NOTICE_S - _MARGIN_S, self._leave, machine)

    def _drain(self, machine: _Machine) -> None:
        machine.draining = True
        self._workers.pop(machine, None)

    def _leave(self, machine: _Machine) -> None:
        for action in list(machine.actions):
            self._hand_back(action)
        self._end(machine, after_s=_MARGIN_S)
        self._match()

    def _vanish(self, machine: _Machine) -> None:
        """Without a word: its actions end nowhere, which is noticed a little later."""
        if machine.gone:
            return
        self._drain(machine)
        lost = list(machine.actions)
        for action in lost:
            # Whatever it would have done is void from now on.
            action.attempt += 1
        self._at(self._now + _MISSED_S, self._missed, lost)
        self._end(machine, after_s=0.0)

    def _missed(self, lost: list[_Action]) -> None:
        for action in lost:
            self._hand_back(action)
        self._match()

    def _end(self, machine: _Machine, *, after_s: float) -> None:
        machine.gone = True
        del self._machines[machine]
        end = self._now + after_s
        policy, outcome = self._policy, self._outcome
        dollars_s = self._dollars_s(machine)
        paid_s = max(_LEAST_BILLED_S, end - machine.launched_at)
        outcome.dollars += paid_s * dollars_s
        served_at = machine.in_service_at
        if served_at is None:
            outcome.boot_dollars += paid_s * dollars_s
            return
        outcome.boot_dollars += (served_at - machine.launched_at) * dollars_s
        if not machine.actions:
            machine.idle_s += end - machine.idle_since
        outcome.idle_dollars += machine.idle_s * dollars_s
        outcome.paid_s += (end - served_at) * policy.rule.slots

    def _dollars_s(self, machine: _Machine) -> float:
        """What a second of it costs."""
        price = self._policy.price
        return (price.spot if machine.spot else price.on_demand) / 3600

    def _sample(self) -> None:
        booting = sum(each.in_service_at is None for each in self._machines)
        workers = len(self._machines) - booting
        self._outcome.samples.append(
            Sample(self._now, len(self._queue), self._running, workers, booting)
        )
        if self._now < _DAY_S:
            self._at(self._now + _SAMPLE_S, self._sample)
