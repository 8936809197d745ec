"""What a scheduler does, as origin events.

NativeLink v1.6.6 publishes two kinds: that an action is given to a worker, and what it used there.
"""

from __future__ import annotations

from typing import Final

from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    events_pb2,
    worker_api_pb2,
)
from nativelink.scheduler.operation import ExecutionStage, OperationView
from nativelink.scheduler.recorder import Recorder
from nativelink.services.origin.ids import EventIds, Group
from nativelink.services.origin.publisher import OriginEventPublisher
from nativelink.services.request_metadata import metadata_of
from nativelink.services.worker_messages import start_message

__all__ = ["OriginRecorder"]

_START: Final = events_pb2.RequestEvent.SCHEDULER_START_EXECUTE_FIELD_NUMBER
_USAGE: Final = events_pb2.ResponseEvent.ACTION_RESOURCE_USAGE_FIELD_NUMBER


class OriginRecorder:
    """A `Recorder` that publishes origin events, and tells another one all that it is told.

    Args:
        inner: the other one.
        publisher: takes the events.
        ids: names them.
    """

    def __init__(self, inner: Recorder, publisher: OriginEventPublisher, ids: EventIds) -> None:
        self._publisher = publisher
        self._ids = ids
        #: The event of the start of each operation that runs, as the parent of what it used.
        self._starts: dict[str, str] = {}
        self._inner_stage_changed = inner.stage_changed
        self._inner_resources_used = inner.resources_used
        # What is no event goes straight there.
        self.attempt_ended = inner.attempt_ended
        self.worker_connected = inner.worker_connected
        self.worker_disconnected = inner.worker_disconnected
        self.worker_seen = inner.worker_seen
        self.handled = inner.handled

    def stage_changed(
        self, operation: OperationView, before: ExecutionStage, after: ExecutionStage
    ) -> None:
        self._inner_stage_changed(operation, before, after)
        if after is ExecutionStage.EXECUTING:
            name = self._ids.new(Group.REQUEST, _START)
            self._starts[operation.operation_id] = name
            self._publisher.put(lambda: _started(name, operation))
        elif before is ExecutionStage.EXECUTING:
            self._starts.pop(operation.operation_id, None)

    def resources_used(
        self, operation: OperationView, *, peak_memory_kb: int, cpu_time_ms: int
    ) -> None:
        self._inner_resources_used(
            operation, peak_memory_kb=peak_memory_kb, cpu_time_ms=cpu_time_ms
        )
        if peak_memory_kb or cpu_time_ms:
            name = self._ids.new(Group.RESPONSE, _USAGE)
            parent = self._starts.get(operation.operation_id, "")
            self._publisher.put(lambda: _used(name, parent, operation, peak_memory_kb, cpu_time_ms))


def _started(name: str, operation: OperationView) -> events_pb2.OriginEvent:
    start = start_message(
        operation.operation_id, operation.action, operation.queued_at, operation.worker_id
    )
    request = events_pb2.RequestEvent(scheduler_start_execute=start)
    return _event(name, "", operation, events_pb2.Event(request=request))


def _used(
    name: str, parent: str, operation: OperationView, peak_memory_kb: int, cpu_time_ms: int
) -> events_pb2.OriginEvent:
    usage = worker_api_pb2.ActionResourceUsage(
        # What is more than the field holds is a worker's mistake.
        peak_memory_kb=min(max(peak_memory_kb, 0), 2**64 - 1),
        cpu_time_ms=min(max(cpu_time_ms, 0), 2**64 - 1),
        operation_id=operation.operation_id,
        worker_id=operation.worker_id,
    )
    response = events_pb2.ResponseEvent(action_resource_usage=usage)
    return _event(name, parent, operation, events_pb2.Event(response=response))


def _event(
    name: str, parent: str, operation: OperationView, event: events_pb2.Event
) -> events_pb2.OriginEvent:
    origin = operation.action.origin
    return events_pb2.OriginEvent(
        event_id=name,
        parent_event_id=parent,
        bazel_request_metadata=metadata_of(origin),
        identity=origin.identity,
        event=event,
    )
