"""A machine's whole state as one record, and a machine made of it.

The indexes of matching, timers and counts follow from it and are made anew. A restored machine
answers every further event as the first one would have: so a log of events may begin with a
snapshot. Only the positions in the queue that clients are shown are estimated anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.machine import Machine
from nativelink.scheduler.operation import ExecutionStage, Failure, StoryEntry
from nativelink.scheduler.policy import Policy
from nativelink.scheduler.properties import Amounts, Properties
from nativelink.scheduler.records import Fault, Name, Operation
from nativelink.scheduler.workers import Lease, Worker

__all__ = ["MachineState", "restore", "take"]


@dataclass(frozen=True, slots=True)
class NameState:
    """See `records.Name`."""

    name: str
    clients: int
    accessed_at: float
    cancelled_at: float | None = None


@dataclass(frozen=True, slots=True)
class OperationState:
    """See `records.Operation`. `told` and `stranded_since` are its lane's, while it waits."""

    operation_id: str
    number: int
    action: ActionInfo
    priority: int
    queued_at: float
    stage: ExecutionStage
    names: tuple[NameState, ...]
    waiting_since: float
    worker_id: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    epoch: int = 0
    attempts: int = 0
    failures: tuple[str, ...] = ()
    failed_on: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    refusals: int = 0
    refused_since: float | None = None
    deaths: tuple[str, ...] = ()
    response: bytes | None = None
    failure: Failure | None = None
    story: tuple[StoryEntry, ...] = ()
    told: str = ""
    stranded_since: float = 0.0


@dataclass(frozen=True, slots=True)
class LeaseState:
    """See `workers.Lease`."""

    operation_id: str
    usage: Amounts
    process_ended: bool = False
    revoked_at: float | None = None
    killed_at: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerState:
    """See `workers.Worker`. `reserved_for` is an operation that waits in the lane."""

    worker_id: str
    number: int
    properties: Properties
    touched: int
    connected_at: float
    last_seen_at: float
    max_inflight_tasks: int = 0
    can_resume: bool = False
    address: str = ""
    lost_at: float | None = None
    draining: bool = False
    paused: bool = False
    paused_until: float | None = None
    pauses: int = 0
    results: int = 0
    faults: int = 0
    quarantined: bool = False
    quarantined_until: float | None = None
    quarantines: int = 0
    probe: str = ""
    leases: tuple[LeaseState, ...] = ()
    reserved_for: str = ""


@dataclass(frozen=True, slots=True)
class MachineState:
    """Everything that a machine's answers depend on, besides its policy.

    Attributes:
        now: the time of the last event.
        operations: in the order in which they were asked for.
        workers: in the order in which they joined.
        operation_numbers, worker_numbers, touches: how far the counts are.
        reservations_at: when a worker may be reserved again.
    """

    now: float
    operations: tuple[OperationState, ...]
    workers: tuple[WorkerState, ...]
    operation_numbers: int
    worker_numbers: int
    touches: int
    reservations_at: float


def take(machine: Machine) -> MachineState:
    """The state of a machine between two events."""
    return MachineState(
        now=machine.journal.now,
        operations=tuple(map(_operation_state, machine.lifecycle.operations.values())),
        workers=tuple(map(_worker_state, machine.fleet.workers.values())),
        operation_numbers=machine.lifecycle.numbers,
        worker_numbers=machine.fleet.numbers,
        touches=machine.lifecycle.touches,
        reservations_at=machine.fleet.reservations_at,
    )


def _operation_state(operation: Operation) -> OperationState:
    waits = bool(operation.entry)
    return OperationState(
        operation_id=operation.operation_id,
        number=operation.number,
        action=operation.action,
        priority=operation.priority,
        queued_at=operation.queued_at,
        stage=operation.stage,
        names=tuple(
            [
                NameState(name.name, name.clients, name.accessed_at, name.cancelled_at)
                for name in operation.names
            ]
        ),
        waiting_since=operation.waiting_since,
        worker_id=operation.worker_id,
        started_at=operation.started_at,
        finished_at=operation.finished_at,
        epoch=operation.epoch,
        attempts=operation.attempts,
        failures=operation.failures,
        failed_on=operation.failed_on,
        faults=operation.faults,
        refusals=operation.refusals,
        refused_since=operation.refused_since,
        deaths=operation.deaths,
        response=operation.response,
        failure=operation.failure,
        story=tuple([StoryEntry(*entry) for entry in operation.story]),
        told=operation.lane.told if waits else "",
        stranded_since=operation.lane.stranded_since if waits else 0.0,
    )


def _worker_state(worker: Worker) -> WorkerState:
    return WorkerState(
        worker_id=worker.worker_id,
        number=worker.number,
        properties=worker.properties,
        touched=worker.touched,
        connected_at=worker.connected_at,
        last_seen_at=worker.last_seen_at,
        max_inflight_tasks=worker.max_inflight_tasks,
        can_resume=worker.can_resume,
        address=worker.address,
        lost_at=worker.lost_at,
        draining=worker.draining,
        paused=worker.paused,
        paused_until=worker.paused_until,
        pauses=worker.pauses,
        results=worker.results,
        faults=worker.faults,
        quarantined=worker.quarantined,
        quarantined_until=worker.quarantined_until,
        quarantines=worker.quarantines,
        probe=worker.probe,
        leases=tuple(
            [
                LeaseState(
                    lease.operation_id,
                    lease.usage,
                    lease.process_ended,
                    lease.revoked_at,
                    lease.killed_at,
                )
                for lease in worker.leases.values()
            ]
        ),
        reserved_for=next(iter(worker.reserved_for.waiting)) if worker.reserved_for else "",
    )


def restore(policy: Policy, state: MachineState) -> Machine:
    """A machine that goes on where another one was when the state was taken.

    Raises:
        NativeLinkError: INVALID_ARGUMENT if the policy's properties do not fit the state's.
    """
    machine = Machine(policy)
    machine.journal.now = state.now
    machine.lifecycle.numbers = state.operation_numbers
    machine.lifecycle.touches = state.touches
    machine.fleet.numbers = state.worker_numbers
    machine.fleet.reservations_at = state.reservations_at
    for saved_worker in state.workers:
        _restore_worker(machine, saved_worker)
    for saved in state.operations:
        _restore_operation(machine, saved)
    operations = machine.lifecycle.operations
    waiting = [each for each in operations.values() if each.stage is ExecutionStage.QUEUED]
    for operation in sorted(waiting, key=lambda each: each.key):
        machine.matching.enqueue(operation)
    for saved in state.operations:
        if saved.told:
            lane = operations[saved.operation_id].lane
            lane.told, lane.stranded_since = saved.told, saved.stranded_since
    for saved_worker in state.workers:
        worker = machine.fleet.workers[saved_worker.worker_id]
        if saved_worker.reserved_for:
            machine.matching.reserve(worker, operations[saved_worker.reserved_for].lane)
        machine.matching.publish(worker)
    machine.matching.reassessed.clear()
    machine.arm_everything()
    return machine


def _restore_worker(machine: Machine, state: WorkerState) -> None:
    offer = machine.matching.rules.offer(state.properties)
    worker = Worker(
        worker_id=state.worker_id,
        number=state.number,
        properties=state.properties,
        values=offer.values,
        totals=offer.totals,
        max_inflight_tasks=state.max_inflight_tasks,
        can_resume=state.can_resume,
        address=state.address,
        connected_at=state.connected_at,
        last_seen_at=state.last_seen_at,
        touched=state.touched,
        lost_at=state.lost_at,
        draining=state.draining,
        paused=state.paused,
        paused_until=state.paused_until,
        pauses=state.pauses,
        results=state.results,
        faults=state.faults,
        quarantined=state.quarantined,
        quarantined_until=state.quarantined_until,
        quarantines=state.quarantines,
        probe=state.probe,
    )
    for lease in state.leases:
        worker.leases[lease.operation_id] = Lease(
            lease.operation_id,
            lease.usage,
            lease.process_ended,
            lease.revoked_at,
            lease.killed_at,
        )
        if lease.revoked_at is not None:
            blocked = machine.lifecycle.blocked
            earlier = blocked.get(lease.operation_id, ())
            blocked[lease.operation_id] = (*earlier, state.worker_id)
    worker.recount()
    machine.fleet.workers[state.worker_id] = worker
    machine.matching.add_worker(worker)


def _restore_operation(machine: Machine, state: OperationState) -> None:
    lifecycle = machine.lifecycle
    operation = Operation(
        operation_id=state.operation_id,
        number=state.number,
        action=state.action,
        priority=state.priority,
        queued_at=state.queued_at,
        lane=machine.matching.lane(state.action.properties),
        key=lifecycle.key(state.queued_at, state.priority, state.number),
        stage=state.stage,
        waiting_since=state.waiting_since,
        worker_id=state.worker_id,
        started_at=state.started_at,
        finished_at=state.finished_at,
        epoch=state.epoch,
        attempts=state.attempts,
        failures=state.failures,
        failed_on=state.failed_on,
        faults=state.faults,
        refusals=state.refusals,
        refused_since=state.refused_since,
        deaths=state.deaths,
        response=state.response,
        failure=state.failure,
        story=[(at, cause, text) for at, cause, text in state.story],
    )
    for saved in state.names:
        name = Name(saved.name, operation, saved.clients, saved.accessed_at, saved.cancelled_at)
        operation.add(name)
        lifecycle.names[saved.name] = name
    lifecycle.operations[state.operation_id] = operation
    machine.journal.counts[state.stage] += 1
    if state.stage is not ExecutionStage.COMPLETED:
        machine.matching.join(operation, operation.lane)
        lifecycle.choose_lane(operation)
        if state.action.joinable:
            lifecycle.joinable[state.action.key] = operation
