"""A worker of a simulated farm, and its character.

It is honest, or slow, or stubborn (it ignores orders to stop), or a liar, or its disk is full, or
it is broken: whatever it is given fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nativelink.core.digest import Digest
from nativelink.core.errors import Code
from nativelink.scheduler import effects, events
from nativelink.scheduler.operation import Failure

if TYPE_CHECKING:
    from tests.scheduler.simulation import Simulation


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
                if self.character == "full":
                    self.say(self._failed(effect.operation_id, Code.RESOURCE_EXHAUSTED, "full"))
                    return
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
        if self.character == "broken":
            self.say(self._failed(operation_id, Code.INTERNAL, "broken"))
        elif roll < self.sim.failure_rate:
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
