"""A machine and a clock, with short ways to say what happens to it."""

from __future__ import annotations

from typing import TypeVar

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code
from nativelink.scheduler import events
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.effects import Effect, KillExecution, StartExecution
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.operation import ExecutionStage, Failure, OperationView
from nativelink.scheduler.policy import Policy, PropertyKind

SUPPORTED = {
    "cpu_count": PropertyKind.MINIMUM,
    "memory_kb": PropertyKind.MINIMUM,
    "OSFamily": PropertyKind.EXACT,
    "tool": PropertyKind.PRIORITY,
    "comment": PropertyKind.IGNORE,
}

QUEUED = ExecutionStage.QUEUED
EXECUTING = ExecutionStage.EXECUTING
COMPLETED = ExecutionStage.COMPLETED

E = TypeVar("E")


def action(number: int, *, priority: int = 0, cached: bool = True, **asked: str) -> ActionInfo:
    """An action that asks for these properties."""
    return ActionInfo(
        ActionKey("main", DigestFunction.SHA256, Digest(f"{number:064x}", 1)),
        tuple(sorted(asked.items())),
        priority=priority,
        do_not_cache=not cached,
    )


class Farm:
    """Names and operation ids of action n are `n` and `op-n`; every event is checked."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.machine = Machine(policy or Policy(supported_properties=SUPPORTED))
        self.now = 1000.0
        self.effects: list[Effect] = []
        self._asked = 0

    def handle(self, event: events.Event) -> list[Effect]:
        """The effects of an event, now."""
        self.effects = self.machine.handle(event, self.now)
        self.machine.check_invariants()
        return self.effects

    def some(self, kind: type[E]) -> list[E]:
        """The effects of this kind, of the last event."""
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def started(self) -> list[tuple[str, str]]:
        """What the last event started: `(worker, operation)`."""
        return [(each.worker_id, each.operation_id) for each in self.some(StartExecution)]

    def killed(self) -> list[tuple[str, str]]:
        """What the last event had stopped: `(worker, operation)`."""
        return [(each.worker_id, each.operation_id) for each in self.some(KillExecution)]

    def pass_time(self, seconds: float, *alive: str) -> None:
        """Let time pass, with Ticks as the machine wants them; these workers stay in touch."""
        end = self.now + seconds
        collected: list[Effect] = []
        while True:
            due = self.machine.next_deadline()
            next_seen = self.now + 2.0
            at = min(end, next_seen, end if due is None else max(due, self.now))
            self.now = at
            for worker_id in alive:
                collected += self.handle(events.WorkerSeen(worker_id))
            collected += self.handle(events.Tick())
            if self.now >= end:
                break
        self.effects = collected

    def join(
        self,
        worker_id: str,
        *more: tuple[str, str],
        slots: int = 0,
        running: tuple[str, ...] = (),
        can_resume: bool = False,
        **offered: str,
    ) -> list[tuple[str, str]]:
        """A worker joins; what it is given."""
        properties = tuple(sorted((*offered.items(), *more)))
        self.handle(events.WorkerJoined(worker_id, properties, slots, running, can_resume))
        return self.started()

    def ask(self, wanted: ActionInfo | int, *, name: str = "") -> str:
        """Somebody asks for an action; the operation's id if it is a new one."""
        if isinstance(wanted, int):
            wanted = action(wanted)
        self._asked += 1
        number = int(wanted.key.digest.hash, 16)
        operation_id = f"op-{number}"
        if operation_id in {view.operation_id for view in self.machine.views()}:
            operation_id = f"op-{number}-{self._asked}"
        self.handle(events.ExecuteRequested(name or str(number), operation_id, wanted))
        return operation_id

    def finish(self, worker_id: str, operation_id: str, response: bytes = b"done") -> None:
        """A worker brings a result."""
        self.handle(events.ExecutionFinished(worker_id, operation_id, response))

    def fail(
        self, worker_id: str, operation_id: str, code: Code = Code.INTERNAL, text: str = "broken"
    ) -> None:
        """A worker could not execute something."""
        self.handle(events.ExecutionFailed(worker_id, operation_id, Failure(code, text)))

    def view(self, name: str | int) -> OperationView:
        """An operation, which must be known."""
        view = self.machine.view(str(name))
        assert view is not None
        return view

    def stage(self, name: str | int) -> ExecutionStage:
        """Its stage."""
        return self.view(name).stage

    def failure(self, name: str | int) -> Failure:
        """Why it failed; it must have."""
        view = self.view(name)
        assert view.stage is ExecutionStage.COMPLETED
        assert view.failure is not None
        return view.failure
