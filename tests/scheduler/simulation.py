"""A farm in virtual time: clients, workers and networks that do whatever they can, from a seed.

The machine is driven as its real driver drives it: what it wants sent reaches a worker after a
while, or twice, or never. Workers are honest, slow, stubborn (they ignore orders to stop), or
liars; they die, fall silent, are cut off and come back. Clients share operations, leave, cancel,
delete. Then all is healed, and every operation must end.

`Oracle` holds the machine to its promises from what it sees alone: events in, effects out, views.
It shares no code with the machine. `BrokenPromiseError` says what was broken, and
`Simulation.history` how it came to that.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code
from nativelink.scheduler import effects, events
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.operation import Failure, OperationView
from nativelink.scheduler.policy import Allocation, Policy, PropertyKind

SUPPORTED = {
    "cpu_count": PropertyKind.MINIMUM,
    "memory_kb": PropertyKind.MINIMUM,
    "OSFamily": PropertyKind.EXACT,
    "tool": PropertyKind.PRIORITY,
    "comment": PropertyKind.IGNORE,
}
START = 1_700_000_000.0


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


@dataclass
class Known:
    """What the oracle knows of a worker."""

    properties: tuple[tuple[str, str], ...]
    slots: int
    connected: bool = True
    draining: bool = False
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
    died: int = 0


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
                    self.operations[operation_id] = Asked(event.action)
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
        del self.workers[event.worker_id].held[event.operation_id]
        asked = self.operations.get(event.operation_id)
        if asked is not None and held.own and isinstance(event, events.ExecutionFailed):
            asked.failed_tries += event.failure.code is not Code.RESOURCE_EXHAUSTED

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
        del now
        for effect in found:
            match effect:
                case effects.StartExecution():
                    self._judge_start(effect)
                case effects.AttemptEnded():
                    asked = self.operations[effect.operation_id]
                    must(asked.holder == effect.worker_id, "a try ended that was not going on")
                    asked.holder = ""
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

    def _disown(self, worker_id: str, operation_id: str) -> None:
        held = self._held(worker_id, operation_id)
        if held is not None:
            held.own = False

    def _judge_start(self, start: effects.StartExecution) -> None:
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
        must(start.operation_id not in known.held, f"{who}: the worker still has an earlier try")
        must(suits(start.action.properties, known.properties), f"{who}: the worker does not suit")
        known.held[start.operation_id] = Held(self._usage(start.action))
        for name, amount_of in known.held[start.operation_id].usage.items():
            if not amount_of:
                continue
            used = sum(held.usage.get(name, 0) for held in known.held.values())
            total = max(0, amount(known.properties, name))
            must(used <= total, f"{who}: {name} is {total}, {used} are in use")
        must(not known.slots or len(known.held) <= known.slots, f"{who}: no slot is free")
        asked.holder = start.worker_id
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


class FakeWorker:
    """A worker process, its link, and its character."""

    def __init__(self, sim: Simulation, name: str, character: str) -> None:
        self.sim = sim
        self.worker_id = name
        self.character = character
        self.properties = sim.machine_properties()
        self.slots = sim.random.choice((0, 0, 1, 2, 4))
        self.resumes = sim.random.random() < 0.5
        self.alive = True
        #: Counts connections, so that what belongs to an older one is dropped.
        self.connection = 0
        self.connected = False
        self.silent = False
        self.running: dict[str, int] = {}
        self.undelivered: list[events.Event] = []
        self.tries = 0

    def connect(self) -> None:
        """Join, or join again."""
        if not self.alive or self.connected:
            return
        known = self.sim.machine.has_worker(self.worker_id)
        if not known and self.connection:
            self.sim.renames += 1
            self.worker_id = f"{self.worker_id.split('~')[0]}~{self.sim.renames}"
            # What it has belongs to a worker that nobody knows.
        self.connection += 1
        self.connected = True
        self.silent = False
        running = tuple(dict.fromkeys([*self.running, *(e.operation_id for e in self._results())]))
        self.sim.handle(
            events.WorkerJoined(
                self.worker_id, self.properties, self.slots, running, self.resumes, "10.0.0.1"
            )
        )
        late, self.undelivered = self.undelivered, []
        for event in late:
            self.say(self._as_mine(event))
        self._keep_alive(self.connection)

    def _results(self) -> list[events.ExecutionFinished]:
        return [each for each in self.undelivered if isinstance(each, events.ExecutionFinished)]

    def _as_mine(self, event: events.Event) -> events.Event:
        match event:
            case events.ExecutionFinished():
                return events.ExecutionFinished(
                    self.worker_id, event.operation_id, event.response, event.exit_code
                )
            case events.ExecutionFailed():
                return events.ExecutionFailed(self.worker_id, event.operation_id, event.failure)
            case events.ProcessEnded():
                return events.ProcessEnded(self.worker_id, event.operation_id)
            case _:
                return event

    def _keep_alive(self, connection: int) -> None:
        if self.connected and connection == self.connection and self.alive:
            if not self.silent:
                self.sim.handle(events.WorkerSeen(self.worker_id))
            self.sim.later(self.sim.policy.worker_timeout_s * 0.8, self._keep_alive, connection)

    def say(self, event: events.Event) -> None:
        """Send something up, now."""
        if not self.alive:
            return
        if self.connected and not self.silent:
            self.sim.handle(event)
        elif self.resumes or self.silent:
            self.undelivered.append(event)

    def receive(self, connection: int, effect: effects.Effect) -> None:
        """An order came down."""
        if not self.alive or not self.connected or connection != self.connection:
            return
        rng = self.sim.random
        match effect:
            case effects.StartExecution():
                if effect.operation_id in self.running:
                    return  # delivered twice
                self.tries += 1
                self.running[effect.operation_id] = self.tries
                slow = 8.0 if self.character == "slow" else 1.0
                self.sim.later(
                    rng.uniform(0.05, 4.0) * slow, self._end, effect.operation_id, self.tries
                )
            case effects.KillExecution():
                if effect.operation_id in self.running and self.character != "stubborn":
                    self.sim.later(rng.uniform(0, 0.5), self._killed, effect.operation_id)
                elif effect.operation_id not in self.running:
                    # It answers, so that the scheduler knows that it has it no more.
                    self.say(self._failed(effect.operation_id, Code.CANCELLED, "not running"))
            case _:
                pass

    def _failed(self, operation_id: str, code: Code, message: str) -> events.ExecutionFailed:
        missing = (Digest("0" * 63 + "1", 1),) if code is Code.NOT_FOUND else ()
        return events.ExecutionFailed(self.worker_id, operation_id, Failure(code, message, missing))

    def _killed(self, operation_id: str) -> None:
        if self.running.pop(operation_id, None) is not None:
            self.say(self._failed(operation_id, Code.ABORTED, "killed by scheduler"))

    def _end(self, operation_id: str, number: int) -> None:
        if not self.alive or self.running.get(operation_id) != number:
            return
        rng = self.sim.random
        if rng.random() < 0.5:
            self.say(events.ProcessEnded(self.worker_id, operation_id))
        if self.running.pop(operation_id, None) is None:
            return
        roll = rng.random()
        if roll < self.sim.failure_rate:
            code = rng.choice(
                (
                    Code.INTERNAL, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DATA_LOSS,
                    Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION,
                )
            )  # fmt: skip
            self.say(self._failed(operation_id, code, "could not"))
        else:
            self.sim.results += 1
            self.say(
                events.ExecutionFinished(
                    self.worker_id, operation_id, b"result %d" % self.sim.results
                )
            )
            if self.character == "liar":
                self.sim.results += 1
                self.say(
                    events.ExecutionFinished(
                        self.worker_id, operation_id, b"again %d" % self.sim.results
                    )
                )

    def lie(self) -> None:
        """Say something about an operation that is not its own, or that it does not run."""
        sim = self.sim
        if not sim.oracle.operations:
            return
        operation_id = sim.random.choice(list(sim.oracle.operations))
        if operation_id in self.running:
            return
        known = sim.oracle.workers.get(self.worker_id)
        if known is not None and operation_id in known.held:
            return
        sim.results += 1
        self.say(
            sim.random.choice(
                (
                    events.ExecutionFinished(self.worker_id, operation_id, b"lie %d" % sim.results),
                    events.ProcessEnded(self.worker_id, operation_id),
                    self._failed(operation_id, Code.INTERNAL, "a lie"),
                )
            )
        )

    def break_connection(self) -> None:
        """The connection breaks, and the scheduler notices."""
        if self.connected and self.alive:
            self.connected = False
            if not self.resumes:
                self.running.clear()
                self.undelivered.clear()
            self.sim.handle(events.WorkerLost(self.worker_id))
            self.sim.later(self.sim.random.uniform(0.1, 12.0), self.connect)

    def fall_silent(self) -> None:
        """Nothing comes through, and nobody notices; after a while it connects anew."""
        if self.connected and self.alive and not self.silent:
            self.silent = True
            self.sim.later(self.sim.random.uniform(0.5, 12.0), self._notice, self.connection)

    def _notice(self, connection: int) -> None:
        if self.connected and connection == self.connection:
            self.connected = False
            if not self.resumes:
                self.running.clear()
                self.undelivered.clear()
            self.connect()

    def evicted(self) -> None:
        """The scheduler ended the connection."""
        self.connected = False
        if not self.resumes:
            self.running.clear()
            self.undelivered.clear()
        self.sim.later(self.sim.random.uniform(0.1, 3.0), self.connect)

    def die(self, *, noticed: bool) -> None:
        """The process is gone."""
        if self.alive:
            self.alive = False
            if self.connected and noticed:
                self.sim.handle(events.WorkerLost(self.worker_id))
            self.connected = False

    def leave(self) -> None:
        """It goes away in order."""
        if self.alive and self.connected:
            self.alive = False
            self.connected = False
            self.sim.handle(events.WorkerLeft(self.worker_id))


class Simulation:
    """One schedule.

    Args:
        seed: decides everything.
        size: about how many operations are asked for.
        check: whether the machine's own invariants are looked at after every event.
    """

    def __init__(self, seed: int, *, size: int = 12, check: bool = True) -> None:
        self.random = rng = random.Random(seed)
        self.policy = Policy(
            supported_properties=SUPPORTED,
            allocation=rng.choice(list(Allocation)),
            max_job_retries=rng.choice((0, 1, 3)),
            max_worker_deaths=rng.choice((2, 3, 5)),
            worker_timeout_s=5,
            client_action_timeout_s=rng.choice((3, 20)),
            max_action_executing_timeout_s=rng.choice((0, 0, 6)),
            kill_revoked=rng.random() < 0.9,
            kill_interval_s=2,
            unacknowledged_kill_timeout_s=10,
            retain_completed_for_s=rng.choice((5, 1000)),
            unschedulable_timeout_s=rng.choice((0, 15)),
            backpressure_pause_s=1,
            ageing_s=5,
            reservation_after_s=rng.choice((1, 30)),
        )
        self.machine = Machine(self.policy)
        self.oracle = Oracle(self.policy, self.machine)
        self.check = check
        self.now = START
        self.failure_rate = rng.choice((0.0, 0.1, 0.4))
        self.results = 0
        self.renames = 0
        self.names = 0
        self.history: list[tuple[float, events.Event]] = []
        self.workers: list[FakeWorker] = []
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._serial = 0
        self._due: float | None = None
        self._size = size
        self._healed = False
        #: Seen after every event; a test may compare two machines here.
        self.on_handled: Callable[[events.Event, float, list[effects.Effect]], None] | None = None

    # -- what there is --------------------------------------------------------------------------

    def machine_properties(self) -> tuple[tuple[str, str], ...]:
        """What a worker offers."""
        rng = self.random
        offered = [("cpu_count", str(rng.choice((1, 2, 4))))]
        if rng.random() < 0.5:
            offered.append(("memory_kb", str(rng.choice((4, 8)))))
        offered += [("OSFamily", name) for name in ("linux", "mac") if rng.random() < 0.6]
        if rng.random() < 0.5:
            offered.append(("tool", "any"))
        if rng.random() < 0.3:
            offered.append(("pool", rng.choice("ab")))
        return tuple(sorted(offered))

    def _action(self) -> ActionInfo:
        rng = self.random
        asked: list[tuple[str, str]] = []
        if rng.random() < 0.8:
            asked.append(("cpu_count", str(rng.choice((0, 1, 1, 2, 4)))))
        if rng.random() < 0.2:
            asked.append(("memory_kb", str(rng.choice((1, 3, 8)))))
        if rng.random() < 0.5:
            asked.append(("OSFamily", rng.choice(("linux", "linux", "mac"))))
        if rng.random() < 0.1:
            asked.append(("tool", "this"))
        if rng.random() < 0.1:
            asked.append(("comment", str(rng.random())))
        if rng.random() < 0.15:
            asked.append(("pool", rng.choice("abc")))
        number = rng.randrange(6) if rng.random() < 0.3 else rng.randrange(10**6)
        return ActionInfo(
            ActionKey("main", DigestFunction.SHA256, Digest(f"{number:064x}", 1)),
            tuple(sorted(asked)),
            priority=rng.choice((0, 0, 0, 1, 5, -3)),
            skip_cache_lookup=rng.random() < 0.05,
            do_not_cache=rng.random() < 0.05,
        )

    # -- time -----------------------------------------------------------------------------------

    def later(self, delay: float, do: Callable[..., None], *arguments: object) -> None:
        """Do something after some seconds."""
        self._serial += 1
        heappush(self._agenda, (self.now + delay, self._serial, do, arguments))

    def handle(self, event: events.Event) -> None:
        """Let the machine handle an event, and carry out what it wants done."""
        self.history.append((self.now, event))
        self.oracle.expect(event, self.now)
        found = self.machine.handle(event, self.now)
        self.oracle.judge(event, found, self.now)
        if self.check and not isinstance(event, events.WorkerSeen):
            self.machine.check_invariants()
        if self.on_handled is not None:
            self.on_handled(event, self.now, found)
        evicted: list[FakeWorker] = []
        for effect in found:
            match effect:
                case effects.StartExecution() | effects.KillExecution():
                    self._send(effect.worker_id, effect)
                case effects.WorkerEvicted():
                    evicted += [each for each in self.workers if each.worker_id == effect.worker_id]
                case _:
                    pass
        for worker in evicted:
            worker.evicted()
        self._arm()

    def _send(self, worker_id: str, effect: effects.Effect) -> None:
        for worker in self.workers:
            if worker.worker_id == worker_id:
                for _ in range(2 if self.random.random() < 0.05 else 1):
                    self.later(
                        self.random.uniform(0, 0.2), worker.receive, worker.connection, effect
                    )

    def _arm(self) -> None:
        due = self.machine.next_deadline()
        if due is not None and (self._due is None or due < self._due):
            self._due = due
            self.later(max(0.0, due - self.now), self._tick, due)

    def _tick(self, due: float) -> None:
        if due == self._due:
            self._due = None
            self.handle(events.Tick())

    # -- what happens ---------------------------------------------------------------------------

    def run(self) -> None:
        """From the beginning to the end.

        Raises:
            BrokenPromiseError: a promise was broken.
        """
        rng = self.random
        for _ in range(rng.randint(0, 3)):
            self._hire()
        for _ in range(self._size):
            self.later(rng.uniform(0, 8), self._ask)
        for _ in range(rng.randint(0, 16)):
            self.later(rng.uniform(0, 12), self._mischief)
        self.later(13, self._heal)
        self._play(until=START + 13)
        self._play(until=START + 400)
        must(self._healed, "the simulation did not come to its end")
        self.oracle.judge_the_end()

    def _play(self, *, until: float) -> None:
        while self._agenda and self._agenda[0][0] <= until:
            if self._healed and self._settled():
                return
            at, _, do, arguments = heappop(self._agenda)
            self.now = max(self.now, at)
            do(*arguments)

    def _settled(self) -> bool:
        """Whether nothing is left to do, so that the rest is keep-alives."""
        return (
            all(asked.done for asked in self.oracle.operations.values())
            and not any(worker.running for worker in self.workers if worker.alive)
            and not any(worker.running for worker in self.machine.workers())
        )

    def _hire(self) -> None:
        character = self.random.choice(("honest", "honest", "honest", "slow", "stubborn", "liar"))
        worker = FakeWorker(self, f"worker-{len(self.workers)}", character)
        self.workers.append(worker)
        worker.connect()

    def _ask(self) -> None:
        rng = self.random
        self.names += 1
        name = f"main/{self.names}"
        self.handle(events.ExecuteRequested(name, f"operation-{self.names}", self._action()))
        if rng.random() < 0.15:
            self.later(rng.uniform(0, 6), self._disconnect, name)
        if rng.random() < 0.1:
            self.later(rng.uniform(0, 6), self._cancel, name)

    def _disconnect(self, name: str) -> None:
        if self.oracle.streams.get(name, 0) > 0:
            self.handle(events.ClientDetached(name))
            if self.random.random() < 0.5:
                self.later(self.random.uniform(0, 6), self._come_back, name)

    def _come_back(self, name: str) -> None:
        if name in self.oracle.streams:
            self.handle(events.ClientAttached(name))

    def _cancel(self, name: str) -> None:
        self.handle(events.CancelRequested(name))
        if self.random.random() < 0.3:
            self.handle(events.DeleteRequested(name))

    def _mischief(self) -> None:
        rng = self.random
        if not self.workers or rng.random() < 0.25:
            self._hire()
            return
        worker = rng.choice(self.workers)
        match rng.randrange(9):
            case 0:
                worker.die(noticed=True)
            case 1:
                worker.die(noticed=False)
            case 2:
                worker.leave()
            case 3 | 4:
                worker.break_connection()
            case 5:
                worker.fall_silent()
            case 6:
                self.handle(events.DrainRequested(worker.worker_id, draining=rng.random() < 0.6))
            case 7:
                if worker.character == "liar":
                    worker.lie()
            case _:
                self.handle(events.OperationRead(f"main/{rng.randint(1, self.names + 1)}"))

    def _heal(self) -> None:
        """Nobody misbehaves from now on, and somebody can run everything."""
        self._healed = True
        self.failure_rate = 0.0
        for worker in self.workers:
            if worker.character in ("stubborn", "liar"):
                worker.leave()
            worker.character = "honest"
            if worker.connected:
                self.handle(events.DrainRequested(worker.worker_id, draining=False))
        for properties in (
            (("OSFamily", "linux"), ("OSFamily", "mac"), ("cpu_count", "4"), ("memory_kb", "8"),
             ("pool", "a"), ("pool", "b"), ("tool", "any")),
            (("OSFamily", "linux"), ("OSFamily", "mac"), ("cpu_count", "4"), ("memory_kb", "8"),
             ("tool", "any")),
        ):  # fmt: skip
            worker = FakeWorker(self, f"worker-{len(self.workers)}", "honest")
            worker.properties = properties
            worker.slots = 0
            self.workers.append(worker)
            worker.connect()
