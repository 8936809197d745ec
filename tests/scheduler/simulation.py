"""A farm in virtual time: clients, workers and networks that do whatever they can, from a seed.

The machine is driven as its real driver drives it: what it wants sent reaches a worker
(`fake_worker.py`) after a while, or twice, or never. Workers die, fall silent, are cut off and come
back. Clients share operations, leave, cancel, delete. Then all is healed, and every operation must
end.

`oracle.py` holds the machine to its promises; `Simulation.history` says how it came to break one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush

from nativelink.core.digest import Digest, DigestFunction
from nativelink.scheduler import effects, events
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.policy import Allocation, Policy
from tests.scheduler.fake_worker import FakeWorker
from tests.scheduler.farm import SUPPORTED
from tests.scheduler.oracle import Oracle, must

START = 1_700_000_000.0


class Simulation:
    """One schedule.

    Args:
        seed: decides everything.
        size: about how many operations are asked for.
        check: whether the machine's own invariants are looked at after every event.
    """

    def __init__(self, seed: int, *, size: int = 12, check: bool = True) -> None:
        self.random = rng = random.Random(seed)
        #: Whether there are workers that fail whatever they are given.
        self.some_are_broken = seed % 7 == 3
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
            unschedulable_timeout_s=rng.choice((0, 4, 15)),
            backpressure_pause_s=1,
            longest_pause_s=3,
            quarantine_after=2 if self.some_are_broken else 0,
            quarantine_s=1,
            longest_quarantine_s=4,
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
        character = self.random.choice(
            ("honest", "honest", "honest", "slow", "stubborn", "liar", "full")
        )
        if self.some_are_broken and len(self.workers) % 2:
            character = "broken"
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
