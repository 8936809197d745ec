from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.protobuf import timestamp_pb2
from nativelink.proto.google.rpc import status_pb2
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.operation import ExecutionStage, Failure, OperationView
from nativelink.scheduler.recorder import PlatformStatistics, Recorder, SchedulerStatistics
from nativelink.telemetry.execution import ExecutionRecorder, FarmMetrics
from nativelink.telemetry.meter import HistogramPoint, Registry
from nativelink.testing.fakes import FakeClock

UNKNOWN, QUEUED, EXECUTING, COMPLETED = (
    ExecutionStage.UNKNOWN,
    ExecutionStage.QUEUED,
    ExecutionStage.EXECUTING,
    ExecutionStage.COMPLETED,
)
KEY = ActionKey("main", DigestFunction.SHA256, DigestFunction.SHA256.digest_of(b"x"))
VIEW = OperationView("main/1", "op", ActionInfo(KEY), QUEUED, 3, 100.0)
WHERE = {
    "execution.instance": "main",
    "execution.worker_id": "w1",
    "execution.priority": 3,
}


def response(**fields: Any) -> bytes:
    return pb.ExecuteResponse(**fields).SerializeToString()


def finished(**fields: Any) -> OperationView:
    """VIEW after it ran on a worker from 101 to 103.5."""
    return replace(
        VIEW,
        **{
            "stage": COMPLETED,
            "worker_id": "w1",
            "started_at": 101.0,
            "finished_at": 103.5,
            "response": None if "failure" in fields else b"",
            **fields,
        },
    )


class Meter:
    def __init__(self) -> None:
        self.registry = Registry()
        self.recorder = ExecutionRecorder(self.registry)
        recorder: Recorder = self.recorder
        assert recorder is not None

    def finish(self, **fields: Any) -> None:
        self.recorder.stage_changed(finished(**fields), EXECUTING, COMPLETED)

    def points(self, name: str) -> list[tuple[dict[str, Any], float]]:
        """Attributes and values of an instrument; of histograms the sum."""
        return [
            (
                dict(point.attributes),
                point.sum if isinstance(point, HistogramPoint) else point.value,
            )
            for series in self.registry.collect()
            if series.definition.name == name
            for point in series.points
        ]

    def nonzero(self, name: str) -> list[tuple[dict[str, Any], float]]:
        return [point for point in self.points(name) if point[1]]


@pytest.fixture
def meter() -> Meter:
    return Meter()


def test_executions_are_counted_by_stage(meter: Meter) -> None:
    recorder = meter.recorder
    recorder.stage_changed(VIEW, UNKNOWN, QUEUED)
    assert meter.nonzero("execution.active.count") == [({"execution.stage": "queued"}, 1)]
    recorder.stage_changed(replace(VIEW, stage=EXECUTING, worker_id="w1"), QUEUED, EXECUTING)
    assert meter.nonzero("execution.active.count") == [({"execution.stage": "executing"}, 1)]
    meter.finish()
    assert meter.nonzero("execution.active.count") == [({"execution.stage": "completed"}, 1)]
    recorder.stage_changed(finished(), COMPLETED, UNKNOWN)
    assert meter.nonzero("execution.active.count") == []
    assert meter.points("execution.stage.transitions") == [
        ({**WHERE, "execution.worker_id": "", "execution.stage": "queued"}, 1),
        ({**WHERE, "execution.stage": "executing"}, 1),
        ({**WHERE, "execution.stage": "completed"}, 1),
    ]


def test_priorities_that_a_client_makes_up_are_no_label_each(meter: Meter) -> None:
    for priority in (*range(30), 7, 29):
        meter.finish(priority=priority)
    counts = {
        attributes["execution.priority"]: count
        for attributes, count in meter.points("execution.completed.count")
    }
    assert counts == {**dict.fromkeys(range(20), 1), 7: 2, "others": 11}


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"response": response(result=pb.ActionResult())}, "success"),
        ({"response": response(result=pb.ActionResult(exit_code=1))}, "failure"),
        ({"response": response(status=status_pb2.Status(code=4))}, "timeout"),
        ({"response": response(status=status_pb2.Status(code=1))}, "cancelled"),
        ({"response": response(status=status_pb2.Status(code=13))}, "failure"),
        ({"response": b"\xff\xff"}, "failure"),
        ({"response": b"", "cached": True}, "cache_hit"),
        ({"failure": Failure(Code.CANCELLED, "")}, "cancelled"),
        ({"failure": Failure(Code.DEADLINE_EXCEEDED, "")}, "timeout"),
        ({"failure": Failure(Code.INTERNAL, "")}, "failure"),
    ],
)
def test_results_are_told_apart(meter: Meter, fields: dict[str, Any], result: str) -> None:
    meter.finish(**fields)
    attributes = {**WHERE, "execution.stage": "completed", "execution.result": result}
    assert meter.points("execution.completed.count") == [(attributes, 1)]


def test_times_and_sizes_are_measured(meter: Meter) -> None:
    def at(seconds: int, nanos: int = 0) -> timestamp_pb2.Timestamp:
        return timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos)

    metadata = pb.ExecutedActionMetadata(
        input_fetch_start_timestamp=at(10),
        input_fetch_completed_timestamp=at(10, 500_000_000),
        execution_start_timestamp=at(10, 500_000_000),
        execution_completed_timestamp=at(12),
        # A clock was set back.
        output_upload_start_timestamp=at(12),
        output_upload_completed_timestamp=at(11),
    )
    result = pb.ActionResult(
        output_files=[pb.OutputFile(digest=pb.Digest(size_bytes=100))] * 2,
        stdout_digest=pb.Digest(size_bytes=30),
        stderr_digest=pb.Digest(size_bytes=4),
        execution_metadata=metadata,
    )
    meter.finish(response=response(result=result))
    assert meter.points("execution.stage.duration") == [
        ({**WHERE, "execution.stage": "input_fetch"}, 0.5),
        ({**WHERE, "execution.stage": "execution"}, 1.5),
        ({**WHERE, "execution.stage": "output_upload"}, 0.0),
    ]
    assert meter.points("execution.total.duration") == [(WHERE, 3.5)]
    assert meter.points("execution.queue.time") == [(WHERE, 1.0)]
    assert meter.points("execution.output.size") == [(WHERE, 234)]


def test_what_was_cached_took_no_time(meter: Meter) -> None:
    meter.finish(response=response(result=pb.ActionResult()), cached=True)
    for name in ("total.duration", "queue.time", "output.size", "stage.duration"):
        assert meter.points(f"execution.{name}") == []


def test_resources_are_measured_where_they_are_known(meter: Meter) -> None:
    meter.recorder.resources_used(VIEW, peak_memory_kb=0, cpu_time_ms=0)
    assert meter.points("execution.cpu.time") == meter.points("execution.peak.memory") == []
    meter.recorder.resources_used(VIEW, peak_memory_kb=2, cpu_time_ms=1500)
    meter.recorder.resources_used(VIEW, peak_memory_kb=2**63, cpu_time_ms=0)
    assert meter.points("execution.cpu.time") == [({"execution.instance": "main"}, 1.5)]
    assert meter.points("execution.peak.memory") == [({"execution.instance": "main"}, 2048 + 2**50)]


def test_only_failures_of_the_action_are_retries(meter: Meter) -> None:
    view = replace(VIEW, worker_id="w1")
    meter.recorder.attempt_ended(view, "w1", "lost", counted=False)
    assert meter.points("execution.retry.count") == []
    assert meter.nonzero("worker.execution.failures") == []
    assert meter.points("execution.handed_back.count") == [({"execution.instance": "main"}, 1)]
    meter.recorder.attempt_ended(view, "w1", "broken", counted=True)
    # The last one is not tried again.
    meter.recorder.attempt_ended(finished(), "w1", "broken", counted=True)
    assert meter.points("execution.retry.count") == [(WHERE, 1)]
    assert meter.points("worker.execution.failures") == [({}, 2)]


def test_workers_come_and_go(meter: Meter) -> None:
    recorder = meter.recorder
    recorder.worker_connected("w1", resumed=False)
    recorder.worker_connected("w2", resumed=True)
    recorder.worker_seen("w1")
    recorder.worker_disconnected("w1", "evicted")
    assert meter.points("worker.connected.count") == [({}, 1)]
    assert meter.points("worker.connections") == [({}, 2)]
    assert meter.points("worker.keepalives") == [({}, 1)]
    assert meter.points("worker.disconnections") == [({"worker.disconnect.reason": "evicted"}, 1)]


def test_workers_that_left_long_ago_make_room_for_others(meter: Meter) -> None:
    """Machines come and go: there are many more names of workers than an instrument keeps."""
    for number in range(500):
        worker_id = f"w{number}"
        meter.recorder.worker_connected(worker_id, resumed=False)
        meter.finish(worker_id=worker_id, response=response(result=pb.ActionResult(exit_code=0)))
        meter.recorder.worker_disconnected(worker_id, "disconnected")
    meter.recorder.worker_connected("w490", resumed=True)
    meter.finish(worker_id="w490", response=response(result=pb.ActionResult(exit_code=0)))
    shown = {
        attributes["execution.worker_id"]: value
        for attributes, value in meter.points("execution.completed.count")
    }
    assert 100 <= len(shown) <= 200
    assert shown["w499"] == 1
    assert shown["w490"] == 2
    for name in ("execution.queue.time", "execution.stage.transitions"):
        points = meter.points(name)
        assert points
        assert all("execution.worker_id" in attributes for attributes, _ in points)


def test_the_schedulers_own_time_is_measured(meter: Meter) -> None:
    meter.recorder.handled(0.25)
    assert meter.points("scheduler.matching.duration") == [({}, 0.25)]
    assert meter.points("scheduler.matching.passes") == [({"scheduler.match.result": "ok"}, 1)]


class Farm:
    def __init__(self, *platforms: PlatformStatistics) -> None:
        self.platforms = platforms

    def statistics(self) -> SchedulerStatistics:
        return SchedulerStatistics(
            platforms=self.platforms,
            queued=5,
            executing=6,
            completed=7,
            unschedulable=1,
            workers=10,
            connected=9,
            draining=2,
            paused=3,
            quarantined=1,
            active=4,
        )


def test_queues_and_workers_are_shown_when_somebody_looks(meter: Meter) -> None:
    clock = FakeClock(time=1000.0)
    farm = Farm(
        PlatformStatistics("os=linux", 4, 990.0, ""),
        PlatformStatistics("os=mac", 1, 1001.0, "no worker has os=mac"),
        PlatformStatistics("", 0, 999.5, ""),
    )
    FarmMetrics(meter.registry, clock).add("MAIN", farm)
    name = {"scheduler.name": "MAIN"}
    linux, mac, any_ = ({**name, "scheduler.platform": text} for text in ("os=linux", "os=mac", ""))
    assert meter.points("scheduler.queue.length") == [(linux, 4), (mac, 1), (any_, 0)]
    assert meter.points("scheduler.queue.oldest.age") == [
        (linux, 10.0),
        (mac, 0.0),
        (any_, 0.5),
    ]
    assert meter.points("scheduler.queue.unschedulable") == [(name, 1)]
    assert meter.points("worker.active.count") == [(name, 7)]
    assert meter.points("worker.busy.count") == [(name, 4)]
    assert meter.points("worker.state.count") == [
        ({"worker.state": "draining"}, 2),
        ({"worker.state": "paused"}, 3),
        ({"worker.state": "quarantined"}, 1),
    ]


def test_schedulers_share_what_is_not_told_apart(meter: Meter) -> None:
    farms = FarmMetrics(meter.registry, FakeClock())
    for name in ("ONE", "TWO"):
        farms.add(name, Farm())
    assert meter.points("worker.state.count") == [
        ({"worker.state": "draining"}, 4),
        ({"worker.state": "paused"}, 6),
        ({"worker.state": "quarantined"}, 2),
    ]
    assert [attributes for attributes, _ in meter.points("worker.active.count")] == [
        {"scheduler.name": "ONE"},
        {"scheduler.name": "TWO"},
    ]


def test_an_empty_queue_is_0(meter: Meter) -> None:
    FarmMetrics(meter.registry, FakeClock()).add("MAIN", Farm())
    assert [value for _, value in meter.points("scheduler.queue.length")] == [0]


def test_what_clients_make_up_does_not_become_a_label_each(meter: Meter) -> None:
    farm = Farm(*(PlatformStatistics(f"p={n}", n, 1.0, "") for n in range(1, 151)))
    FarmMetrics(meter.registry, FakeClock()).add("MAIN", farm)
    points = meter.points("scheduler.queue.length")
    assert len(points) == 101
    assert points[0][1] == 150
    assert points[-1][0]["scheduler.platform"] == "others"
    assert sum(value for _, value in points) == sum(range(1, 151))
    assert len(meter.points("scheduler.queue.oldest.age")) == 100
