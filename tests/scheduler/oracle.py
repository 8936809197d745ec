"""What a scheduler's machine promises, held against what is seen of it: events, effects, views.

It shares no code with the machine. `BrokenPromiseError` says what was broken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from nativelink.core.errors import Code
from nativelink.scheduler import effects, events
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.operation import OperationView
from nativelink.scheduler.policy import Policy, PropertyKind
from tests.scheduler.farm import SUPPORTED

#: What sums of times may be off by.
_SLACK_S: Final = 0.01


class BrokenPromiseError(AssertionError):
    """The machine broke a promise."""


def must(condition: object, what: str) -> None:
    if not condition:
        raise BrokenPromiseError(what)


def amount(properties: tuple[tuple[str, str], ...], name: str) -> int:
    """The largest value of a number, -1 if there is none."""
    return max((int(value) for key, value in properties if key == name), default=-1)


def suits(asked: tuple[tuple[str, str], ...], offered: tuple[tuple[str, str], ...]) -> bool:
    """Whether such a worker could ever run such an action."""
    names = {name for name, _ in offered}
    for name, value in asked:
        kind = SUPPORTED.get(name)
        if kind is PropertyKind.MINIMUM and not int(value) <= amount(offered, name):
            return False
        if kind is PropertyKind.EXACT and (name, value) not in offered:
            return False
        if kind is PropertyKind.PRIORITY and name not in names:
            return False
        if kind is None and name in names and (name, value) not in offered:
            return False
    return True


@dataclass
class Held:
    """What the oracle knows that a worker has: an operation and what it uses."""

    usage: dict[str, int]
    own: bool = True
    ended: bool = False


@dataclass
class Known:
    """What the oracle knows of a worker."""

    properties: tuple[tuple[str, str], ...]
    slots: int
    connected: bool = True
    draining: bool = False
    quarantined_until: float | None = None
    probe: str = ""
    idle_since: float | None = None
    held: dict[str, Held] = field(default_factory=dict)


@dataclass
class Asked:
    """What the oracle knows of an operation."""

    action: ActionInfo
    names: list[str] = field(default_factory=list)
    holder: str = ""
    epoch: int = 0
    done: bool = False
    failed_tries: int = 0
    waiting_since: float | None = None
    tried_on: set[str] = field(default_factory=set)
    refusals: int = 0


class Oracle:
    """What must be true, whatever happens."""

    def __init__(self, policy: Policy, machine: Machine) -> None:
        self.policy = policy
        self.machine = machine
        self.workers: dict[str, Known] = {}
        self.operations: dict[str, Asked] = {}
        self.of_name: dict[str, str] = {}
        self.joinable: dict[ActionKey, str] = {}
        self.streams: dict[str, int] = {}
        self.left_at: dict[str, float] = {}
        self.cancelled: set[str] = set()
        self.forgotten: set[str] = set()
        self.last: dict[str, OperationView] = {}

    # -- before the machine sees an event -------------------------------------------------------

    def expect(self, event: events.Event, now: float) -> None:
        """Take note of what is about to happen."""
        match event:
            case events.ExecuteRequested():
                shared = self.joinable.get(event.action.key) if event.action.joinable else None
                operation_id = shared or event.operation_id
                if shared is None:
                    self.operations[operation_id] = Asked(event.action, waiting_since=now)
                    if event.action.joinable:
                        self.joinable[event.action.key] = operation_id
                self.operations[operation_id].names.append(event.name)
                self.of_name[event.name] = operation_id
                self.streams[event.name] = 1
            case events.ClientAttached():
                if event.name in self.streams:
                    self.streams[event.name] += 1
            case events.ClientDetached():
                if event.name in self.streams:
                    self.streams[event.name] -= 1
                    self.left_at[event.name] = now
            case events.CancelRequested():
                view = self.machine.view(event.name)
                if view is not None and not view.done:
                    self.cancelled.add(event.name)
            case events.WorkerJoined():
                self._expect_join(event)
            case events.WorkerLeft():
                self._drop(event.worker_id)
            case events.WorkerLost():
                known = self.workers.get(event.worker_id)
                if known is not None:
                    known.connected = False
            case events.DrainRequested():
                if event.worker_id in self.workers:
                    self.workers[event.worker_id].draining = event.draining
            case events.ProcessEnded():
                held = self._held(event.worker_id, event.operation_id)
                if held is not None:
                    held.usage = {}
                    held.ended = True
            case events.ExecutionFailed() | events.ExecutionFinished():
                self._expect_end(event)
            case _:
                pass

    def _expect_join(self, event: events.WorkerJoined) -> None:
        known = self.workers.get(event.worker_id)
        if known is None:
            known = self.workers[event.worker_id] = Known(event.properties, 0)
        known.properties = event.properties
        known.slots = event.max_inflight_tasks
        known.connected = True
        for operation_id in list(known.held):
            if operation_id not in event.running:
                del known.held[operation_id]
        for operation_id in event.running:
            if operation_id not in known.held:
                asked = self.operations.get(operation_id)
                usage = {} if asked is None else self._usage(asked.action)
                known.held[operation_id] = Held(usage, own=False)

    def _expect_end(self, event: events.ExecutionFailed | events.ExecutionFinished) -> None:
        held = self._held(event.worker_id, event.operation_id)
        if held is None:
            return
        known = self.workers[event.worker_id]
        del known.held[event.operation_id]
        if isinstance(event, events.ExecutionFinished):
            known.quarantined_until = None
            known.probe = ""
        asked = self.operations.get(event.operation_id)
        if asked is not None and held.own and isinstance(event, events.ExecutionFailed):
            if event.failure.code is Code.RESOURCE_EXHAUSTED and not held.ended:
                asked.refusals += 1
            else:
                asked.failed_tries += 1

    def _held(self, worker_id: str, operation_id: str) -> Held | None:
        known = self.workers.get(worker_id)
        return None if known is None else known.held.get(operation_id)

    def _drop(self, worker_id: str) -> None:
        self.workers.pop(worker_id, None)

    @staticmethod
    def _usage(action: ActionInfo) -> dict[str, int]:
        return {
            name: max(0, amount(action.properties, name)) for name in ("cpu_count", "memory_kb")
        }

    # -- after it -------------------------------------------------------------------------------

    def judge(self, event: events.Event, found: list[effects.Effect], now: float) -> None:
        """Look at what the machine wants done."""
        for effect in found:
            match effect:
                case effects.StartExecution():
                    self._judge_start(effect, now)
                case effects.WorkerQuarantined():
                    must(effect.seconds > 0, f"{effect.worker_id}: quarantined for no time")
                    self._judge_quarantine(effect, event, now)
                case effects.AttemptEnded():
                    asked = self.operations[effect.operation_id]
                    must(asked.holder == effect.worker_id, "a try ended that was not going on")
                    asked.holder = ""
                    asked.waiting_since = now
                    asked.tried_on.add(effect.worker_id)
                    self._disown(effect.worker_id, effect.operation_id)
                case effects.KillExecution():
                    asked_for = self.operations.get(effect.operation_id)
                    if asked_for is not None and asked_for.holder == effect.worker_id:
                        # It follows that the operation is over.
                        view = self.machine.operation(effect.operation_id)
                        must(view is None or view.done, "a running operation is killed")
                    self._disown(effect.worker_id, effect.operation_id)
                case effects.WorkerEvicted():
                    self._drop(effect.worker_id)
                case effects.OperationUpdated():
                    for name in effect.names:
                        self._judge_view(name, event)
                case effects.OperationForgotten():
                    for name in effect.names:
                        must(name in self.last and self.last[name].done, f"{name} is lost")
                        self.forgotten.add(name)
                        self.streams.pop(name, None)
                case _:
                    pass
        self._judge_idleness(now)

    def _judge_quarantine(
        self, effect: effects.WorkerQuarantined, event: events.Event, now: float
    ) -> None:
        who = effect.worker_id
        known = self.workers[who]
        must(0 < effect.seconds <= self.policy.longest_quarantine_s, f"{who}: {effect.seconds} s")
        if known.quarantined_until is not None:
            must(
                isinstance(event, events.ExecutionFailed)
                and (event.worker_id, event.operation_id) == (who, known.probe),
                f"{who}: quarantined again for what is no trial",
            )
        known.quarantined_until = now + effect.seconds
        known.probe = ""

    def _judge_idleness(self, now: float) -> None:
        """What a worker could do that has nothing else to do waits for its rests, and no longer.

        An operation that was tried on it may avoid it.
        """
        longest = max(self.policy.longest_quarantine_s, self.policy.longest_pause_s)
        waiting = [
            (operation_id, asked, asked.waiting_since)
            for operation_id, asked in self.operations.items()
            if asked.waiting_since is not None and not asked.holder and not asked.done
        ]
        for worker_id, known in self.workers.items():
            if known.held or known.draining or not known.connected:
                known.idle_since = None
                continue
            if known.idle_since is None:
                known.idle_since = now
            for operation_id, asked, since in waiting:
                if now <= max(since, known.idle_since) + longest + _SLACK_S:
                    continue
                could = worker_id not in asked.tried_on and suits(
                    asked.action.properties, known.properties
                )
                must(not could, f"{operation_id} waits though {worker_id} has been idle too long")

    def _disown(self, worker_id: str, operation_id: str) -> None:
        held = self._held(worker_id, operation_id)
        if held is not None:
            held.own = False

    def _judge_start(self, start: effects.StartExecution, now: float) -> None:
        asked = self.operations[start.operation_id]
        who = f"{start.operation_id} on {start.worker_id}"
        must(not asked.done, f"{who}: started after its end was reported")
        must(not asked.holder, f"{who}: started while {asked.holder} has it")
        must(start.epoch > asked.epoch, f"{who}: epoch {start.epoch} after {asked.epoch}")
        known = self.workers.get(start.worker_id)
        if known is None:
            raise BrokenPromiseError(f"{who}: there is no such worker")
        must(known.connected, f"{who}: the worker is not connected")
        must(not known.draining, f"{who}: the worker is draining")
        if known.quarantined_until is not None:
            must(now >= known.quarantined_until, f"{who}: the worker is in quarantine")
            must(known.probe not in known.held, f"{who}: the worker is tried with more than one")
            known.probe = start.operation_id
        must(start.operation_id not in known.held, f"{who}: the worker still has an earlier try")
        must(suits(start.action.properties, known.properties), f"{who}: the worker does not suit")
        known.held[start.operation_id] = Held(self._usage(start.action))
        for name, amount_of in known.held[start.operation_id].usage.items():
            if not amount_of:
                continue
            used = sum(held.usage.get(name, 0) for held in known.held.values())
            total = max(0, amount(known.properties, name))
            must(used <= total, f"{who}: {name} is {total}, {used} are in use")
        busy = sum(not held.ended for held in known.held.values())
        must(not known.slots or busy <= known.slots, f"{who}: no slot is free")
        asked.holder = start.worker_id
        asked.waiting_since = None
        asked.epoch = start.epoch

    def _judge_view(self, name: str, event: events.Event) -> None:
        view = self.machine.view(name)
        if view is None:
            raise BrokenPromiseError(f"{name} changed but is not known")
        before = self.last.get(name)
        self.last[name] = view
        if before is not None and before.done:
            must(before == view, f"{name} changed after its end")
        operation_id = self.of_name[name]
        must(view.operation_id == operation_id, f"{name} names another operation")
        asked = self.operations[operation_id]
        must(view.attempts <= asked.failed_tries + self._timeouts(), f"{name}: tries made up")
        if not view.done:
            return
        if name in self.cancelled:
            must(view.failure and view.failure.code is Code.CANCELLED, f"{name}: not cancelled")
            if not self.cancelled.issuperset(asked.names):
                return
        elif not asked.done:
            self._judge_end(name, view, asked, event)
        asked.done = True
        if self.joinable.get(asked.action.key) == operation_id:
            del self.joinable[asked.action.key]

    def _timeouts(self) -> int:
        return 10**6 if self.policy.max_action_executing_timeout_s else 0

    def _judge_end(self, name: str, view: OperationView, asked: Asked, event: events.Event) -> None:
        if view.failure is None:
            match event:
                case events.ExecutionFinished():
                    must(view.response == event.response, f"{name}: not the worker's response")
                    must(event.worker_id == asked.holder, f"{name}: a stranger's result")
                    must(event.operation_id == view.operation_id, f"{name}: another's result")
                case _:
                    raise BrokenPromiseError(f"{name}: a result out of nothing")
            return
        code, message = view.failure.code, view.failure.message
        wanted = [each for each in asked.names if each not in self.cancelled]
        if code is Code.CANCELLED and "by the client" in message:
            must(not wanted, f"{name}: cancelled though {wanted} want it")
        if "no client followed" in message:
            followed = [each for each in wanted if self.streams.get(each, 0) > 0]
            must(not followed, f"{name}: given up though {followed} follow it")
        if "no worker had room" in message:
            must(
                asked.refusals > self.policy.max_job_retries,
                f"{name}: given up after {asked.refusals} workers without room",
            )
        if "gave up after" in message:
            must(
                view.attempts > self.policy.max_job_retries,
                f"{name}: given up after {view.attempts} tries",
            )

    def judge_the_end(self) -> None:
        """All is healed and a long time has passed."""
        for name, operation_id in self.of_name.items():
            if name in self.forgotten:
                continue
            view = self.machine.view(name)
            if view is None:
                raise BrokenPromiseError(f"{name} is lost")
            must(view.done, f"{name} never ended: {view.stage.name} {view.note}")
            must(view.operation_id == operation_id, f"{name} names another operation")
        for worker in self.machine.workers():
            must(not worker.running, f"{worker.worker_id} still has {worker.running}")
        must(self.machine.queued == 0, "something still waits")
