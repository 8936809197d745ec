"""Executions, workers and queues counted: the recorder that schedulers tell what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from nativelink.core.clock import Clock
from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.scheduler.operation import ExecutionStage, OperationView
from nativelink.scheduler.recorder import PlatformStatistics, SchedulerStatistics
from nativelink.telemetry import execution_metrics as metrics
from nativelink.telemetry.meter import (
    Definition,
    Observation,
    Registry,
)

__all__ = ["ExecutionRecorder", "FarmMetrics", "ReportingScheduler"]

#: Platforms that a client makes up must not become a label each; the longest queues keep theirs.
_MAX_PLATFORMS: Final = 100
_OTHER_PLATFORMS: Final = "others"
#: A worker that says more is wrong (NativeLink's limit, 1 PiB).
_MAX_MEMORY_BYTES: Final = 2**50
_STAGES: Final = {stage: stage.name.lower() for stage in ExecutionStage}
_STATUS_RESULTS: Final = {
    int(Code.DEADLINE_EXCEEDED): "timeout",
    int(Code.CANCELLED): "cancelled",
}


class ReportingScheduler(Protocol):
    """A scheduler that can be asked for its figures."""

    def statistics(self) -> SchedulerStatistics: ...


class ExecutionRecorder:
    """A `Recorder` (`scheduler/recorder.py`) for all schedulers of a process.

    Durations on the worker come from its own clock, by its response's metadata; those in which
    the scheduler has a part come from the scheduler's, so that no skew of clocks falsifies them.
    """

    def __init__(self, registry: Registry) -> None:
        self._stage_duration = registry.histogram(metrics.EXECUTION_STAGE_DURATION)
        self._total_duration = registry.histogram(metrics.EXECUTION_TOTAL_DURATION)
        self._queue_time = registry.histogram(metrics.EXECUTION_QUEUE_TIME)
        self._completed = registry.counter(metrics.EXECUTION_COMPLETED)
        self._transitions = registry.counter(metrics.EXECUTION_STAGE_TRANSITIONS)
        self._cpu_time = registry.histogram(metrics.EXECUTION_CPU_TIME)
        self._peak_memory = registry.histogram(metrics.EXECUTION_PEAK_MEMORY)
        self._output_size = registry.histogram(metrics.EXECUTION_OUTPUT_SIZE)
        self._retries = registry.counter(metrics.EXECUTION_RETRIES)
        self._handed_back = registry.counter(metrics.EXECUTION_HANDED_BACK)
        self._failures = registry.counter(metrics.WORKER_EXECUTION_FAILURES).bind()
        self._connected = registry.counter(metrics.WORKER_CONNECTED).bind()
        self._connections = registry.counter(metrics.WORKER_CONNECTIONS).bind()
        self._disconnections = registry.counter(metrics.WORKER_DISCONNECTIONS)
        self._keepalives = registry.counter(metrics.WORKER_KEEPALIVES).bind()
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
            self._transitions.bind(*_where(operation), _STAGES[after]).add(1)
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
            self._retries.bind(*_where(operation)).add(1)

    def unschedulable(self, operation: OperationView, reason: str) -> None:
        """How many there are is observed (`FarmMetrics`)."""

    def worker_connected(self, worker_id: str, *, resumed: bool) -> None:
        del worker_id, resumed
        self._connected.add(1)
        self._connections.add(1)

    def worker_disconnected(self, worker_id: str, reason: str) -> None:
        del worker_id
        self._connected.add(-1)
        self._disconnections.bind(reason).add(1)

    def worker_seen(self, worker_id: str) -> None:
        del worker_id
        self._keepalives.add(1)

    def handled(self, seconds: float) -> None:
        self._matching.record(seconds)
        self._passes.add(1)

    def _finished(self, operation: OperationView) -> None:
        where = _where(operation)
        response = pb.ExecuteResponse()
        if operation.response is not None:
            try:
                response.ParseFromString(operation.response)
            except DecodeError:
                # A worker of another kind; what it says is its client's business.
                response.status.code = Code.UNKNOWN
        result = _result_of(operation, response)
        self._completed.bind(*where, _STAGES[operation.stage], result).add(1)
        finished_at = operation.finished_at
        if operation.cached or finished_at is None:
            return
        self._total_duration.bind(*where).record(max(0.0, finished_at - operation.queued_at))
        if operation.started_at is not None:
            waited_s = max(0.0, operation.started_at - operation.queued_at)
            self._queue_time.bind(*where).record(waited_s)
        if response.HasField("result"):
            self._output_size.bind(*where).record(_output_size(response.result))
            if response.result.HasField("execution_metadata"):
                self._worker_stages(where, response.result.execution_metadata)

    def _worker_stages(
        self, where: tuple[str, str, int], metadata: pb.ExecutedActionMetadata
    ) -> None:
        for stage, begin, end in (
            ("input_fetch", "input_fetch_start", "input_fetch_completed"),
            ("execution", "execution_start", "execution_completed"),
            ("output_upload", "output_upload_start", "output_upload_completed"),
        ):
            begin, end = f"{begin}_timestamp", f"{end}_timestamp"
            if metadata.HasField(begin) and metadata.HasField(end):
                first, last = getattr(metadata, begin), getattr(metadata, end)
                seconds = last.seconds - first.seconds + (last.nanos - first.nanos) / 1e9
                self._stage_duration.bind(*where, stage).record(max(0.0, seconds))


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
                yield (name, _OTHER_PLATFORMS), sum(each.queued for each in others)

    def _ages(self) -> Iterable[Observation]:
        for name, scheduler in self._schedulers.items():
            for platform in _longest_first(scheduler)[:_MAX_PLATFORMS]:
                age_s = self._clock.time() - platform.oldest_queued_at
                yield (name, platform.properties), max(0.0, age_s)

    def _states(self) -> Iterable[Observation]:
        found = [scheduler.statistics() for scheduler in self._schedulers.values()]
        yield ("draining",), sum(each.draining for each in found)
        yield ("paused",), sum(each.paused for each in found)

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


def _where(operation: OperationView) -> tuple[str, str, int]:
    return operation.action.key.instance_name, operation.worker_id, operation.priority


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
