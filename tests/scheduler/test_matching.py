"""Who gets what, compared with a matcher that looks at everything."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nativelink.scheduler import events
from nativelink.scheduler.effects import StartExecution
from nativelink.scheduler.policy import Allocation, Policy
from nativelink.scheduler.tournament import Tournament
from tests.scheduler.farm import SUPPORTED, Farm, action
from tests.scheduler.oracle import amount, suits

Properties = tuple[tuple[str, str], ...]
AMOUNTS = ("cpu_count", "memory_kb")


@dataclass
class Worker:
    """A worker as the naive matcher knows it."""

    properties: Properties
    slots: int
    used_last: int
    draining: bool = False
    running: dict[str, Properties] = field(default_factory=dict)

    def fits(self, asked: Properties) -> bool:
        """Whether it has room for such an action now."""
        if self.draining or (self.slots and len(self.running) >= self.slots):
            return False
        if not suits(asked, self.properties):
            return False
        for name in AMOUNTS:
            used = sum(max(0, amount(each, name)) for each in self.running.values())
            if max(0, amount(asked, name)) > 0 and used + amount(asked, name) > amount(
                self.properties, name
            ):
                return False
        return True


class Naive:
    """Looks at all workers and all that waits."""

    def __init__(self, allocation: Allocation, ageing_s: float) -> None:
        self.workers: dict[str, Worker] = {}
        self.waiting: dict[str, tuple[tuple[float, int], Properties]] = {}
        self.sign = 1 if allocation is Allocation.LEAST_RECENTLY_USED else -1
        self.ageing_s = ageing_s
        self.uses = 0
        self.count = 0

    def _start(self, worker_id: str, operation_id: str) -> tuple[str, str]:
        _, asked = self.waiting.pop(operation_id)
        worker = self.workers[worker_id]
        worker.running[operation_id] = asked
        self.uses += 1
        worker.used_last = self.uses
        return worker_id, operation_id

    def ask(
        self, operation_id: str, asked: Properties, priority: int, now: float
    ) -> list[tuple[str, str]]:
        self.count += 1
        self.waiting[operation_id] = ((now - priority * self.ageing_s, self.count), asked)
        able = [
            (self.sign * worker.used_last, worker_id)
            for worker_id, worker in self.workers.items()
            if worker.fits(asked)
        ]
        return [self._start(min(able)[1], operation_id)] if able else []

    def feed(self, worker_id: str) -> list[tuple[str, str]]:
        started = []
        while True:
            worker = self.workers[worker_id]
            able = [
                (key, operation_id)
                for operation_id, (key, asked) in self.waiting.items()
                if worker.fits(asked)
            ]
            if not able:
                return started
            started.append(self._start(worker_id, min(able)[1]))

    def join(self, worker_id: str, properties: Properties, slots: int) -> list[tuple[str, str]]:
        self.uses += 1
        self.workers[worker_id] = Worker(properties, slots, self.uses)
        return self.feed(worker_id)


offers = st.builds(
    lambda amounts, systems, more: tuple(sorted((*amounts.items(), *systems, *more))),
    st.fixed_dictionaries(
        {"cpu_count": st.sampled_from("124")}, optional={"memory_kb": st.sampled_from("28")}
    ),
    st.sets(st.sampled_from([("OSFamily", "linux"), ("OSFamily", "mac")])),
    st.sets(st.sampled_from([("pool", "a"), ("pool", "b"), ("tool", "x"), ("host", "h")])),
)
demands = st.fixed_dictionaries(
    {},
    optional={
        "cpu_count": st.sampled_from("0124"),
        "memory_kb": st.sampled_from("148"),
        "OSFamily": st.sampled_from(["linux", "mac"]),
        "pool": st.sampled_from("abc"),
        "host": st.sampled_from("hi"),
        "tool": st.just("anything"),
        "comment": st.sampled_from("pq"),
    },
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("join"), offers, st.sampled_from([0, 0, 1, 2])),
        st.tuples(st.just("ask"), demands, st.integers(-2, 2)),
        st.tuples(st.just("ask"), demands, st.integers(-2, 2)),
        st.tuples(st.just("end"), st.none(), st.integers(0, 99)),
        st.tuples(st.just("drain"), st.none(), st.integers(0, 99)),
    ),
    max_size=40,
)


@pytest.mark.slow
@settings(max_examples=300)
@given(steps, st.sampled_from(Allocation))
def test_it_decides_as_one_who_looks_at_everything(
    history: list[tuple[str, object, int]], allocation: Allocation
) -> None:
    policy = Policy(
        supported_properties=SUPPORTED,
        allocation=allocation,
        ageing_s=1.5,
        reservation_after_s=1e9,
        worker_timeout_s=1e9,
    )
    farm = Farm(policy)
    naive = Naive(allocation, policy.ageing_s)
    for number, (what, argument, choice) in enumerate(history):
        farm.now += 1
        wanted: list[tuple[str, str]] = []
        match what, argument:
            case "join", tuple() as properties:
                wanted = naive.join(f"w{number:02}", properties, choice)
                farm.handle(events.WorkerJoined(f"w{number:02}", properties, choice))
            case "ask", dict() as asked:
                info = action(number, priority=choice, **asked)
                wanted = naive.ask(f"op-{number}", info.properties, choice, farm.now)
                farm.ask(info)
            case "end", _:
                running = [
                    (worker_id, operation_id)
                    for worker_id, worker in naive.workers.items()
                    for operation_id in worker.running
                ]
                if running:
                    worker_id, operation_id = running[choice % len(running)]
                    del naive.workers[worker_id].running[operation_id]
                    wanted = naive.feed(worker_id)
                    farm.finish(worker_id, operation_id)
                else:
                    farm.effects = []
            case _:
                if naive.workers:
                    worker_id = sorted(naive.workers)[choice % len(naive.workers)]
                    worker = naive.workers[worker_id]
                    worker.draining = not worker.draining
                    wanted = naive.feed(worker_id)
                    farm.handle(events.DrainRequested(worker_id, worker.draining))
                else:
                    farm.effects = []
        assert farm.started() == wanted


def test_a_worker_with_several_values_of_a_property_matches_any_of_them() -> None:
    farm = Farm()
    farm.join("w", ("OSFamily", "linux"), ("OSFamily", "mac"))
    farm.ask(action(1, OSFamily="linux"))
    assert farm.started() == [("w", "op-1")]
    farm.ask(action(2, OSFamily="mac"))
    assert farm.started() == [("w", "op-2")]
    farm.ask(action(3, OSFamily="windows"))
    assert farm.started() == []


def test_an_undeclared_property_excludes_only_workers_that_offer_another_value() -> None:
    farm = Farm()
    farm.ask(action(1, host="h"))
    assert farm.join("other", host="i") == []
    assert farm.join("without") == [("without", "op-1")]
    farm.join("h", host="h")
    farm.handle(events.DrainRequested("without", draining=True))
    farm.ask(action(2, host="h"))
    assert farm.started() == [("h", "op-2")]


@pytest.mark.slow
def test_many_properties_that_nobody_asks_for_again_leave_nothing_behind() -> None:
    farm = Farm()
    farm.join("w", host="h")
    for number in range(3000):
        farm.machine.handle(
            events.ExecuteRequested(
                str(number), f"op-{number}", action(number, host="h", **{f"x{number}": "1"})
            ),
            farm.now,
        )
        farm.machine.handle(events.ExecutionFinished("w", f"op-{number}", b""), farm.now)
    farm.machine.check_invariants()
    assert len(list(farm.machine.matching.lanes())) <= 1025


@pytest.mark.slow
@pytest.mark.parametrize("queued", [100, 10_000])
def test_a_decision_looks_at_few_entries_however_long_the_queue(
    queued: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: changes of and searches in trees, per operation that is started."""
    farm = Farm(Policy(supported_properties=SUPPORTED, client_action_timeout_s=1e9))
    for number in range(20):
        farm.machine.handle(
            events.WorkerJoined(f"w{number}", (("OSFamily", "linux"), ("cpu_count", "4"))), farm.now
        )
    running: list[tuple[str, str]] = []
    for number in range(queued):
        found = farm.machine.handle(
            events.ExecuteRequested(
                str(number),
                f"op-{number}",
                action(number, OSFamily="linux", cpu_count=str(1 + number % 4)),
            ),
            farm.now,
        )
        running += [
            (each.worker_id, each.operation_id)
            for each in found
            if isinstance(each, StartExecution)
        ]
    touched = 0
    search, change = Tournament.best, Tournament.set

    def best(self: Tournament[object], *arguments: object) -> object:
        nonlocal touched
        touched += 1
        return search(self, *arguments)

    def set_(self: Tournament[object], *arguments: object) -> None:
        nonlocal touched
        touched += 1
        change(self, *arguments)

    monkeypatch.setattr(Tournament, "best", best)
    monkeypatch.setattr(Tournament, "set", set_)
    decisions = 0
    while decisions < 50:
        worker_id, operation_id = running.pop(0)
        found = farm.machine.handle(
            events.ExecutionFinished(worker_id, operation_id, b""), farm.now
        )
        started = [each for each in found if isinstance(each, StartExecution)]
        running += [(each.worker_id, each.operation_id) for each in started]
        decisions += len(started)
    assert touched / decisions < 8
