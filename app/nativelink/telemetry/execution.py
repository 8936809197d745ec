"""Executions, workers and queues counted: the recorder that schedulers tell what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Final, Protocol, TypeAlias

from google.protobuf.message import DecodeError

from nativelink.core.clock import Clock
from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.scheduler.operation import ExecutionStage, OperationView
from nativelink.scheduler.recorder import PlatformStatistics, SchedulerStatistics
from nativelink.telemetry import execution_metrics as metrics
from nativelink.telemetry.meter import (
    CARDINALITY_LIMIT,
    CounterCell,
    Definition,
    Observation,
    Registry,
)

__all__ = ["ExecutionRecorder", "FarmMetrics", "ReportingScheduler"]

#: Platforms that a client makes up must not become a label each; the longest queues keep theirs.
_MAX_PLATFORMS: Final = 100
#: Priorities, too, are any number that a client says.
_MAX_PRIORITIES: Final = 20
_OTHERS: Final = "others"
_WORKER_ID: Final = "execution.worker_id"
#: Workers that are gone whose cells are kept, half of them for a while yet: a collector is to see
#: their last numbers. Where machines come and go, instruments would be full of them in a few days,
#: and have no room for those that are there.
_MAX_GONE: Final = 200
#: A worker that says more is wrong (NativeLink's limit, 1 PiB).
_MAX_MEMORY_BYTES: Final = 2**50
_STAGES: Final = {stage: stage.name.lower() for stage in ExecutionStage}
#: What a worker does one after the other, and the fields of ExecutedActionMetadata that tell when.
_WORKER_STAGES: Final = {
    "input_fetch": ("input_fetch_start_timestamp", "input_fetch_completed_timestamp"),
    "execution": ("execution_start_timestamp", "execution_completed_timestamp"),
    "output_upload": ("output_upload_start_timestamp", "output_upload_completed_timestamp"),
}
_STATUS_RESULTS: Final = {
    int(Code.DEADLINE_EXCEEDED): "timeout",
    int(Code.CANCELLED): "cancelled",
}


#: Instance, worker and priority.
_Where: TypeAlias = tuple[str, str, int | str]


class ReportingScheduler(Protocol):
    """A scheduler that can be asked for its figures."""

    def statistics(self) -> SchedulerStatistics: ...


class ExecutionRecorder:
    """A `Recorder` (`scheduler/recorder.py`) for all schedulers of a process.

    Durations on the worker come from its own clock, by its response's metadata; those in which
    the scheduler has a part come from the scheduler's, so that no skew of clocks falsifies them.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._places: dict[_Where, _PlaceCells] = {}
        #: Those that have labels of their own: the first that there were.
        self._priorities: set[int] = set()
        self._completed = registry.counter(metrics.EXECUTION_COMPLETED)
        self._cpu_time = registry.histogram(metrics.EXECUTION_CPU_TIME)
        self._peak_memory = registry.histogram(metrics.EXECUTION_PEAK_MEMORY)
        self._retries = registry.counter(metrics.EXECUTION_RETRIES)
        self._handed_back = registry.counter(metrics.EXECUTION_HANDED_BACK)
        self._failures = registry.counter(metrics.WORKER_EXECUTION_FAILURES).bind()
        self._connected = registry.counter(metrics.WORKER_CONNECTED).bind()
        self._connections = registry.counter(metrics.WORKER_CONNECTIONS).bind()
        self._disconnections = registry.counter(metrics.WORKER_DISCONNECTIONS)
        self._keepalives = registry.counter(metrics.WORKER_KEEPALIVES).bind()
        #: In the order in which they left.
        self._gone: dict[str, None] = {}
        self._of_workers = (
            self._completed,
            self._retries,
            registry.counter(metrics.EXECUTION_STAGE_TRANSITIONS),
            registry.histogram(metrics.EXECUTION_OUTPUT_SIZE),
            registry.histogram(metrics.EXECUTION_QUEUE_TIME),
            registry.histogram(metrics.EXECUTION_TOTAL_DURATION),
            registry.histogram(metrics.EXECUTION_STAGE_DURATION),
        )
        self._matching = registry.histogram(metrics.SCHEDULER_MATCHING_DURATION).bind()
        self._passes = registry.counter(metrics.SCHEDULER_MATCHING_PASSES).bind("ok")
        active = registry.counter(metrics.EXECUTION_ACTIVE)
        self._active = {
            stage: active.bind(name)
            for stage, name in _STAGES.items()
            if stage is not ExecutionStage.UNKNOWN
        }

    def stage_changed(
        self, operation: OperationView, before: ExecutionStage, after: ExecutionStage
    ) -> None:
        if before in self._active:
            self._active[before].add(-1)
        if after in self._active:
            self._active[after].add(1)
            self._place(operation).reached(after).add(1)
        if after is ExecutionStage.COMPLETED:
            self._finished(operation)

    def resources_used(
        self, operation: OperationView, *, peak_memory_kb: int, cpu_time_ms: int
    ) -> None:
        instance = operation.action.key.instance_name
        if cpu_time_ms > 0:
            self._cpu_time.bind(instance).record(cpu_time_ms / 1000)
        if peak_memory_kb > 0:
            size = min(peak_memory_kb * 1024, _MAX_MEMORY_BYTES)
            self._peak_memory.bind(instance).record(size)

    def attempt_ended(
        self, operation: OperationView, worker_id: str, reason: str, *, counted: bool
    ) -> None:
        del worker_id, reason
        if not counted:
            self._handed_back.bind(operation.action.key.instance_name).add(1)
            return
        self._failures.add(1)
        if not operation.done:
            self._retries.bind(*self._where(operation)).add(1)

    def worker_connected(self, worker_id: str, *, resumed: bool) -> None:
        del resumed
        self._gone.pop(worker_id, None)
        self._connected.add(1)
        self._connections.add(1)

    def worker_disconnected(self, worker_id: str, reason: str) -> None:
        self._connected.add(-1)
        self._disconnections.bind(reason).add(1)
        self._gone[worker_id] = None
        if len(self._gone) >= _MAX_GONE:
            self._forget_the_gone()

    def worker_seen(self, worker_id: str) -> None:
        del worker_id
        self._keepalives.add(1)

    def handled(self, seconds: float) -> None:
        self._matching.record(seconds)
        self._passes.add(1)

    def _forget_the_gone(self) -> None:
        gone = frozenset(islice(self._gone, _MAX_GONE // 2))
        for worker_id in gone:
            del self._gone[worker_id]
        for instrument in self._of_workers:
            instrument.forget(_WORKER_ID, gone)
        self._places = {
            where: cells for where, cells in self._places.items() if where[1] not in gone
        }

    def _finished(self, operation: OperationView) -> None:
        response = pb.ExecuteResponse()
        if operation.response is not None:
            try:
                response.ParseFromString(operation.response)
            except DecodeError:
                # A worker of another kind; what it says is its client's business.
                response.status.code = Code.UNKNOWN
        result = _result_of(operation, response)
        place = self._place(operation)
        place.completed(result).add(1)
        finished_at = operation.finished_at
        if operation.cached or finished_at is None:
            return
        queued_at = operation.queued_at
        place.total_duration.record(max(0.0, finished_at - queued_at))
        if operation.started_at is not None:
            place.queue_time.record(max(0.0, operation.started_at - queued_at))
        if response.HasField("result"):
            outcome = response.result
            place.output_size.record(_output_size(outcome))
            if outcome.HasField("execution_metadata"):
                place.stages_done(outcome.execution_metadata)

    def _place(self, operation: OperationView) -> _PlaceCells:
        where = self._where(operation)
        place = self._places.get(where)
        if place is None:
            if len(self._places) >= CARDINALITY_LIMIT:
                # Workers come and go; the cells of those that are there are found again.
                self._places.clear()
            place = self._places[where] = _PlaceCells(self._registry, where)
        return place

    def _where(self, operation: OperationView) -> _Where:
        priority = operation.priority
        known = self._priorities
        if priority not in known and len(known) < _MAX_PRIORITIES:
            known.add(priority)
        label = priority if priority in known else _OTHERS
        return operation.action.key.instance_name, operation.worker_id, label


class _PlaceCells:
    """The cells of one instance, worker and priority: to find each by itself takes too long."""

    __slots__ = (
        "_completed",
        "_results",
        "_stages",
        "_transitions",
        "_where",
        "output_size",
        "queue_time",
        "stage_durations",
        "total_duration",
    )

    def __init__(self, registry: Registry, where: _Where) -> None:
        durations = registry.histogram(metrics.EXECUTION_STAGE_DURATION)
        self._where = where
        self._completed = registry.counter(metrics.EXECUTION_COMPLETED)
        self._transitions = registry.counter(metrics.EXECUTION_STAGE_TRANSITIONS)
        # A counter is shown from the moment when it is bound, so these are bound when they count.
        self._results: dict[str, CounterCell] = {}
        self._stages: dict[ExecutionStage, CounterCell] = {}
        self.output_size = registry.histogram(metrics.EXECUTION_OUTPUT_SIZE).bind(*where)
        self.queue_time = registry.histogram(metrics.EXECUTION_QUEUE_TIME).bind(*where)
        self.total_duration = registry.histogram(metrics.EXECUTION_TOTAL_DURATION).bind(*where)
        self.stage_durations = tuple(durations.bind(*where, stage) for stage in _WORKER_STAGES)

    def completed(self, result: str) -> CounterCell:
        """Executions that ended so."""
        cell = self._results.get(result)
        if cell is None:
            stage = _STAGES[ExecutionStage.COMPLETED]
            cell = self._results[result] = self._completed.bind(*self._where, stage, result)
        return cell

    def reached(self, stage: ExecutionStage) -> CounterCell:
        """Executions that came to a stage."""
        cell = self._stages.get(stage)
        if cell is None:
            cell = self._stages[stage] = self._transitions.bind(*self._where, _STAGES[stage])
        return cell

    def stages_done(self, metadata: pb.ExecutedActionMetadata) -> None:
        """What the worker did, by its own clock."""
        for cell, (begin, end) in zip(self.stage_durations, _WORKER_STAGES.values(), strict=True):
            if metadata.HasField(begin) and metadata.HasField(end):
                first, last = getattr(metadata, begin), getattr(metadata, end)
                seconds = last.seconds - first.seconds + (last.nanos - first.nanos) / 1e9
                cell.record(max(0.0, seconds))


class FarmMetrics:
    """Shows queues and workers of schedulers whenever somebody looks at the metrics.

    Args:
        registry: where they are shown.
        clock: the schedulers'.
    """

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._schedulers: dict[str, ReportingScheduler] = {}
        self._clock = clock
        registry.observe(metrics.QUEUE_LENGTH, self._lengths)
        registry.observe(metrics.QUEUE_OLDEST_AGE, self._ages)
        registry.observe(metrics.WORKER_STATE, self._states)
        for definition, read in _FIGURES:
            registry.observe(definition, partial(self._figures, read))

    def add(self, name: str, scheduler: ReportingScheduler) -> None:
        """Show a scheduler too, under its name in the configuration."""
        self._schedulers[name] = scheduler

    def _lengths(self) -> Iterable[Observation]:
        for name, scheduler in self._schedulers.items():
            platforms = _longest_first(scheduler)
            if not platforms:
                # So that the metric is there before anything ever waits.
                yield (name, ""), 0
            for platform in platforms[:_MAX_PLATFORMS]:
                yield (name, platform.properties), platform.queued
            if others := platforms[_MAX_PLATFORMS:]:
                yield (name, _OTHERS), sum(each.queued for each in others)

    def _ages(self) -> Iterable[Observation]:
        for name, scheduler in self._schedulers.items():
            for platform in _longest_first(scheduler)[:_MAX_PLATFORMS]:
                age_s = self._clock.time() - platform.oldest_queued_at
                yield (name, platform.properties), max(0.0, age_s)

    def _states(self) -> Iterable[Observation]:
        found = [scheduler.statistics() for scheduler in self._schedulers.values()]
        yield ("draining",), sum(each.draining for each in found)
        yield ("paused",), sum(each.paused for each in found)
        yield ("quarantined",), sum(each.quarantined for each in found)

    def _figures(self, read: Callable[[SchedulerStatistics], int]) -> Iterable[Observation]:
        for name, scheduler in self._schedulers.items():
            yield (name,), read(scheduler.statistics())


#: One number of each scheduler.
_FIGURES: Final[Sequence[tuple[Definition, Callable[[SchedulerStatistics], int]]]] = (
    (metrics.QUEUE_UNSCHEDULABLE, lambda found: found.unschedulable),
    (metrics.WORKER_ACTIVE, lambda found: found.connected - found.draining),
    (metrics.WORKER_BUSY, lambda found: found.active),
)


def _longest_first(scheduler: ReportingScheduler) -> list[PlatformStatistics]:
    return sorted(scheduler.statistics().platforms, key=lambda each: -each.queued)


def _result_of(operation: OperationView, response: pb.ExecuteResponse) -> str:
    if operation.cached:
        return "cache_hit"
    if operation.failure is not None:
        return _STATUS_RESULTS.get(int(operation.failure.code), "failure")
    code = response.status.code
    if code:
        return _STATUS_RESULTS.get(code, "failure")
    return "failure" if response.result.exit_code else "success"


def _output_size(result: pb.ActionResult) -> int:
    return (
        sum(file.digest.size_bytes for file in result.output_files)
        + result.stdout_digest.size_bytes
        + result.stderr_digest.size_bytes
    )
