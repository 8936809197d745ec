"""The life of operations: asked for, queued, started, ended, forgotten."""

from __future__ import annotations

from nativelink.core.errors import Code
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.effects import (
    OperationForgotten,
    OperationUpdated,
    StartExecution,
    Unschedulable,
)
from nativelink.scheduler.journal import IllegalEventError, Journal
from nativelink.scheduler.matching import Matching
from nativelink.scheduler.operation import ExecutionStage, Failure, OperationView
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.queue import Lane
from nativelink.scheduler.records import Name, Operation
from nativelink.scheduler.timers import Due, Timer, TimerKind
from nativelink.scheduler.tournament import Key
from nativelink.scheduler.transitions import Matched
from nativelink.scheduler.workers import Lease, Worker

__all__ = ["Lifecycle"]


class Lifecycle:
    """All operations, and how they go from stage to stage.

    Attributes:
        operations: by id.
        names: all names that mean an operation.
        joinable: unfinished operations that further requests may share, by what is executed.
        blocked: of an operation, the workers that still have an earlier try of it: they must not
            get it again before that has ended.
        touches: how often a worker was used, for who was used last.
    """

    def __init__(self, policy: Policy, matching: Matching, due: Due, journal: Journal) -> None:
        self.operations: dict[str, Operation] = {}
        self.names: dict[str, Name] = {}
        self.joinable: dict[ActionKey, Operation] = {}
        self.blocked: dict[str, tuple[str, ...]] = {}
        self.touches = 0
        self.numbers = 0
        self._policy = policy
        self._matching = matching
        self._due = due
        self._journal = journal

    # -- those who ask --------------------------------------------------------------------------

    def request(self, name: str, operation_id: str, action: ActionInfo) -> None:
        """Somebody asks for an execution."""
        if name in self.names:
            raise IllegalEventError(f"the name {name!r} is taken")
        shared = self.joinable.get(action.key) if action.joinable else None
        if shared is not None:
            self._share(shared, name, action.priority)
            return
        if operation_id in self.operations:
            raise IllegalEventError(f"there is an operation {operation_id!r} already")
        lane = self._matching.lane(action.properties)
        journal = self._journal
        self.numbers += 1
        operation = Operation(
            operation_id,
            self.numbers,
            action,
            action.priority,
            journal.now,
            lane,
            self.key(journal.now, action.priority, self.numbers),
        )
        self.operations[operation_id] = operation
        if action.joinable:
            self.joinable[action.key] = operation
        self._name(operation, name)
        self._matching.join(operation, lane)
        journal.move(operation, ExecutionStage.QUEUED)
        journal.tell(operation, "asked for")
        self.place(operation)

    def _share(self, operation: Operation, name: str, priority: int) -> None:
        journal = self._journal
        self._name(operation, name)
        journal.tell(operation, f"asked for once more, by {len(operation.names)} now")
        if priority > operation.priority:
            operation.priority = priority
            operation.key = self.key(operation.queued_at, priority, operation.number)
            if operation.entry:
                self._matching.advance(operation)
            journal.tell(operation, f"priority raised to {priority}")
        # The others see its new place when they look: thousands may share it, each more urgent.
        journal.effects.append(OperationUpdated(operation.operation_id, (name,)))

    def _name(self, operation: Operation, name: str) -> None:
        record = Name(name, operation, 1, self._journal.now)
        self.names[name] = record
        operation.add(record)

    def key(self, queued_at: float, priority: int, number: int) -> Key:
        """An operation's place in the queue, see `Policy.ageing_s`."""
        return (queued_at - priority * self._policy.ageing_s, number)

    def attach(self, name: Name) -> None:
        """One more stream follows."""
        if not name.clients and name.cancelled_at is None:
            name.operation.followed += 1
        name.clients += 1
        name.accessed_at = self._journal.now

    def detach(self, name: Name) -> None:
        """One stream less follows."""
        if not name.clients:
            raise IllegalEventError(f"nobody follows {name.name!r}, so nobody can cease to")
        name.clients -= 1
        name.accessed_at = self._journal.now
        self._arm_retention(name)
        operation = name.operation
        if not name.clients and name.cancelled_at is None:
            operation.followed -= 1
        # The last one to leave only puts off what is armed: not every name is to be looked at
        # whenever one of thousands who share an operation leaves.
        if self._due.armed(Timer(TimerKind.CLIENTS, operation.operation_id)) is None:
            self._arm_clients(operation)

    def read(self, name: Name) -> None:
        """Somebody looked, perhaps one who asks now and then instead of following."""
        name.accessed_at = self._journal.now

    @staticmethod
    def is_over(name: Name) -> bool:
        """Whether nothing will change any more for whoever asked under this name."""
        return name.operation.stage is ExecutionStage.COMPLETED or name.cancelled_at is not None

    def withdraw(self, name: Name) -> bool:
        """Whoever asked under this name does not want it any more.

        Returns:
            whether nobody else does either.
        """
        journal = self._journal
        operation = name.operation
        operation.wanted -= 1
        operation.followed -= name.clients > 0
        name.cancelled_at = name.accessed_at = journal.now
        self._arm_retention(name)
        if not operation.wanted:
            return True
        journal.tell(operation, "cancelled by one of those who asked for it")
        journal.effects.append(OperationUpdated(operation.operation_id, (name.name,)))
        self._arm_clients(operation)
        return False

    # -- waiting and running --------------------------------------------------------------------

    def place(self, operation: Operation) -> None:
        """Start a QUEUED operation if a worker has room, else let it wait."""
        lane = operation.lane
        # If others wait in its lane, no worker has room for it.
        if not lane.waiting:
            worker = self._matching.worker_for(operation)
            if worker is not None:
                self.start(operation, worker)
                self._matching.publish(worker)
                return
            lane.told = ""
        journal = self._journal
        operation.waiting_since = journal.now
        self._matching.enqueue(operation)
        journal.effects.append(OperationUpdated(operation.operation_id, operation.all_names()))
        if not lane.capable:
            # If it is to be reassessed, `settle` will tell this operation and all others in it.
            if not lane.told and lane not in self._matching.reassessed:
                lane.stranded_since = journal.now
                lane.told = self._matching.reason(lane)
            if lane.told:
                self._strand(operation, lane.told)

    def start(self, operation: Operation, worker: Worker) -> None:
        """Give a QUEUED operation to a worker that has room; `Matching.publish` must follow."""
        journal = self._journal
        if operation.entry:
            self._matching.dequeue(operation)
        self.touches += 1
        worker.touched = self.touches
        operation.worker_id = worker.worker_id
        operation.started_at = journal.now
        operation.epoch += 1
        journal.move(operation, ExecutionStage.EXECUTING, Matched)
        worker.start(Lease(operation.operation_id, operation.lane.usage))
        journal.tell(operation, f"given to {worker.worker_id}")
        journal.effects.append(
            StartExecution(
                worker.worker_id,
                operation.operation_id,
                operation.epoch,
                operation.action,
                operation.queued_at,
            )
        )
        journal.effects.append(OperationUpdated(operation.operation_id, operation.all_names()))
        if self._policy.max_action_executing_timeout_s:
            self._due.arm(
                Timer(TimerKind.EXECUTING, operation.operation_id),
                journal.now + self._policy.max_action_executing_timeout_s,
            )

    def queue_again(self, operation: Operation, why: str) -> None:
        """An EXECUTING operation goes back to its place in the queue; `place` must follow."""
        journal = self._journal
        journal.move(operation, ExecutionStage.QUEUED)
        journal.tell(operation, f"queued again: {why}")
        operation.waiting_since = journal.now
        self.choose_lane(operation)

    def choose_lane(self, operation: Operation) -> None:
        """The lane follows from where the operation failed, and who still has it."""
        matching = self._matching
        lane = operation.lane
        blocked = self.blocked.get(operation.operation_id, ())
        wanted = matching.lane_avoiding(lane, operation.failed_on, blocked)
        if wanted is not lane:
            matching.leave(operation)
            matching.join(operation, wanted)

    def block(self, operation_id: str, worker_id: str) -> None:
        """A worker has an operation that is not, or not any more, its own."""
        self.blocked[operation_id] = (*self.blocked.get(operation_id, ()), worker_id)
        self._wait_elsewhere(operation_id)

    def unblock(self, operation_id: str, worker_id: str) -> None:
        """It does not have it any more."""
        left = tuple(each for each in self.blocked[operation_id] if each != worker_id)
        if left:
            self.blocked[operation_id] = left
        else:
            del self.blocked[operation_id]
        self._wait_elsewhere(operation_id)

    def _wait_elsewhere(self, operation_id: str) -> None:
        """It changed which workers may get an operation that waits."""
        operation = self.operations.get(operation_id)
        if operation is not None and operation.entry:
            self._matching.dequeue(operation)
            self.choose_lane(operation)
            self.place(operation)

    def complete(
        self,
        operation: Operation,
        why: str,
        *,
        response: bytes | None = None,
        failure: Failure | None = None,
    ) -> None:
        """An operation ends."""
        journal = self._journal
        if operation.entry:
            self._matching.dequeue(operation)
        journal.move(operation, ExecutionStage.COMPLETED)
        operation.finished_at = journal.now
        operation.response = response
        operation.failure = failure
        if self.joinable.get(operation.action.key) is operation:
            del self.joinable[operation.action.key]
        self._matching.leave(operation)
        if self._policy.max_action_executing_timeout_s:
            # It may be hours, and thousands of operations end in a second.
            self._due.disarm(Timer(TimerKind.EXECUTING, operation.operation_id))
        journal.tell(operation, why)
        journal.effects.append(OperationUpdated(operation.operation_id, operation.all_names()))
        for name in operation.names:
            name.accessed_at = journal.now
            self._arm_retention(name)

    def forget(self, name: Name) -> None:
        """A name means nothing any more, and its operation is gone with the last one."""
        journal = self._journal
        operation = name.operation
        del self.names[name.name]
        operation.remove(name)
        journal.effects.append(OperationForgotten(operation.operation_id, (name.name,)))
        if not operation.names:
            journal.move(operation, ExecutionStage.UNKNOWN)
            del self.operations[operation.operation_id]

    # -- work that no worker could run ----------------------------------------------------------

    def settle(self, lane: Lane) -> None:
        """A lane's prospects changed: whether a worker could run it, which ones, or why none."""
        journal = self._journal
        reason = self._matching.reason(lane)
        if reason != lane.told:
            if not lane.told:
                lane.stranded_since = journal.now
            lane.told = reason
            for operation in sorted(lane.waiting.values(), key=lambda each: each.key):
                journal.effects.append(
                    OperationUpdated(operation.operation_id, operation.all_names())
                )
                if reason:
                    self._strand(operation, reason)
                else:
                    journal.tell(operation, "a worker that could run it is connected now")
        if not lane.capable or not lane.is_picky:
            return
        # It may have ceased to avoid workers that have room.
        while (first := lane.first()) is not None:
            worker = self._matching.worker_for(first)
            if worker is None:
                return
            self.start(first, worker)
            self._matching.publish(worker)

    def _strand(self, operation: Operation, reason: str) -> None:
        journal = self._journal
        journal.tell(operation, f"no worker could run it: {reason}")
        journal.effects.append(Unschedulable(operation.operation_id, reason))
        due = self.unschedulable_at(operation)
        if due is not None:
            self._due.arm(Timer(TimerKind.UNSCHEDULABLE, operation.operation_id), due)

    def fail_unschedulable(self, operation: Operation) -> None:
        """It waited long enough for a worker that could run it."""
        reason = self._matching.reason(operation.lane)
        self.complete(
            operation,
            "given up: no worker could run it",
            failure=Failure(
                Code.FAILED_PRECONDITION,
                f"no connected worker could run this action for "
                f"{self._policy.unschedulable_timeout_s:g} s: {reason}",
            ),
        )

    # -- when what is due -----------------------------------------------------------------------

    def retention_at(self, name: Name) -> float | None:
        """When a name is to be forgotten."""
        if name.clients or not self.is_over(name):
            return None
        return name.accessed_at + self._policy.retain_completed_for_s

    def clients_at(self, operation: Operation) -> float | None:
        """When an operation is to be given up because nobody follows it."""
        if operation.stage is ExecutionStage.COMPLETED or operation.followed:
            return None
        last = max(
            (name.accessed_at for name in operation.names if name.cancelled_at is None), default=0.0
        )
        return last + self._policy.client_action_timeout_s

    def executing_at(self, operation: Operation) -> float | None:
        """When a worker has had an operation for too long."""
        limit = self._policy.max_action_executing_timeout_s
        if operation.stage is not ExecutionStage.EXECUTING or not limit:
            return None
        assert operation.started_at is not None
        return operation.started_at + limit

    def unschedulable_at(self, operation: Operation) -> float | None:
        """When a queued operation is to fail because no worker could ever run it."""
        limit = self._policy.unschedulable_timeout_s
        if not operation.entry or operation.lane.capable or not limit:
            return None
        return max(operation.lane.stranded_since, operation.waiting_since) + limit

    def _arm_retention(self, name: Name) -> None:
        due = self.retention_at(name)
        if due is not None:
            self._due.arm(Timer(TimerKind.RETENTION, name.name), due)

    def _arm_clients(self, operation: Operation) -> None:
        due = self.clients_at(operation)
        if due is not None:
            self._due.arm(Timer(TimerKind.CLIENTS, operation.operation_id), due)

    # -- to be looked at ------------------------------------------------------------------------

    def view(self, name: Name) -> OperationView:
        """An operation as one of those who asked for it sees it."""
        operation = name.operation
        if name.cancelled_at is not None:
            # Whatever becomes of it for others, for this one it ended.
            return OperationView(
                name=name.name,
                operation_id=operation.operation_id,
                action=operation.action,
                stage=ExecutionStage.COMPLETED,
                priority=operation.action.priority,
                queued_at=operation.queued_at,
                finished_at=name.cancelled_at,
                failure=Failure(Code.CANCELLED, "cancelled by the client"),
            )
        if operation.stage is not ExecutionStage.QUEUED:
            return operation.view(name, None, "")
        return operation.view(name, self._matching.queue_position(operation), self._note(operation))

    def _note(self, operation: Operation) -> str:
        """Why it waits, where there is more to say than that others are before it."""
        reason = self._matching.reason(operation.lane)
        if reason:
            return reason
        if operation.failures:
            return f"tried before, {operation.failures[-1]}"
        return ""
