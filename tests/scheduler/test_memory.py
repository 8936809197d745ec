"""What a scheduler remembers does not grow with what it has done."""

from __future__ import annotations

import gc
from types import FunctionType, ModuleType

import pytest

from nativelink.core.errors import Code
from nativelink.scheduler import events
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.operation import Failure
from nativelink.scheduler.policy import Allocation, Policy
from tests.scheduler.farm import SUPPORTED, action


def size(root: object) -> int:
    """How many objects something consists of."""
    seen = {id(root)}
    found = [root]
    for each in found:
        for part in gc.get_referents(each):
            if id(part) not in seen and not isinstance(part, type | ModuleType | FunctionType):
                seen.add(id(part))
                found.append(part)
    return len(found)


class Day:
    """A farm that does the same all day; nothing of it is remembered for more than a minute."""

    def __init__(self, policy: Policy) -> None:
        self.machine = Machine(policy)
        self.now = 1000.0
        self.number = 0
        for worker in range(4):
            self.handle(
                events.WorkerJoined(f"w{worker}", (("cpu_count", "4"),), max_inflight_tasks=3)
            )

    def handle(self, event: events.Event) -> None:
        self.machine.handle(event, self.now)

    def work(self, actions: int) -> None:
        """Execute so many; every tenth fails once, where it comes first."""
        for _ in range(actions):
            self.number += 1
            self.now += 1
            for worker in range(4):
                self.handle(events.WorkerSeen(f"w{worker}"))
            name = f"op-{self.number}"
            self.handle(
                events.ExecuteRequested(
                    name, name, action(self.number, cpu_count="1", priority=self.number % 3)
                )
            )
            if not self.number % 10:
                failure = Failure(Code.INTERNAL, "broken")
                self.handle(events.ExecutionFailed(self.where(name), name, failure))
            self.handle(events.ExecutionFinished(self.where(name), name, b"done"))
            self.handle(events.ClientDetached(name))
            self.handle(events.Tick())

    def where(self, operation_id: str) -> str:
        view = self.machine.operation(operation_id)
        assert view is not None
        return view.worker_id


@pytest.mark.parametrize("allocation", Allocation)
def test_finished_operations_leave_nothing_behind(allocation: Allocation) -> None:
    day = Day(
        Policy(
            supported_properties=SUPPORTED,
            allocation=allocation,
            max_action_executing_timeout_s=36_000,
        )
    )
    day.work(200)
    before = size(day.machine)
    day.work(400)
    assert size(day.machine) < before * 1.25
