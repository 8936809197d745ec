"""Origin events are NativeLink's, in batches, and nobody waits for them but who brings new work."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from nativelink.core.digest import DigestFunction, StoreKey
from nativelink.core.errors import unavailable
from nativelink.core.streams import Source
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import events_pb2
from nativelink.scheduler.action import ActionInfo, ActionKey, Origin
from nativelink.scheduler.operation import ExecutionStage, OperationView
from nativelink.scheduler.recorder import NO_RECORDER
from nativelink.services.origin.ids import EventIds, Group
from nativelink.services.origin.publisher import OriginEventPublisher
from nativelink.services.origin.recorder import OriginRecorder
from nativelink.testing.fakes import DictStore, FakeClock, wait_until

DIGEST = DigestFunction.SHA256.digest_of(b"an action")
ACTION = ActionInfo(
    ActionKey("main", DigestFunction.SHA256, DIGEST),
    (("cpu", "1"), ("os", "linux")),
    origin=Origin("build-1", "//app:lib", "CppCompile", "ada"),
)


def view(operation: str = "operation-1", **fields: Any) -> OperationView:
    stage = fields.pop("stage", ExecutionStage.EXECUTING)
    return OperationView(
        f"main/{operation}", operation, ACTION, stage, 0, 1_700_000_000.5, worker_id="w", **fields
    )


def batches(store: DictStore) -> list[events_pb2.OriginEvents]:
    return [
        events_pb2.OriginEvents.FromString(store.blobs[key])
        for key in sorted(map(str, store.blobs))
    ]


def publisher(store: DictStore, **limits: Any) -> OriginEventPublisher:
    limits = {"max_queue_size": 65_536, "pause_s": 0, "linger_s": 0, **limits}
    return OriginEventPublisher(store, EventIds(FakeClock()), **limits)


class TestIds:
    def test_they_are_uuids_of_version_6_that_tell_time_and_kind(self) -> None:
        clock = FakeClock()
        found = UUID(EventIds(clock).new(Group.REQUEST, 13))
        assert found.version == 6
        node = found.node.to_bytes(6, "big")
        assert node[0] & 0x0F == 1
        assert node[1] == 13
        high, middle, low = found.int >> 96, found.int >> 80 & 0xFFFF, found.int >> 64 & 0xFFF
        time = high << 28 | middle << 12 | low
        assert (time - 0x01B21DD213814000) / 10_000_000 == clock.time()

    def test_each_is_larger_than_the_one_before_even_where_time_stands_still(self) -> None:
        ids = EventIds(FakeClock())
        made = [ids.new(Group.RESPONSE, 12) for _ in range(1000)]
        assert made == sorted(set(made))

    def test_the_rest_of_the_node_is_the_process_own(self) -> None:
        ids, others = EventIds(FakeClock()), EventIds(FakeClock())
        nodes = {UUID(ids.new(group, 1)).node & 0xF000FFFFFFFF for group in Group}
        assert len(nodes) == 1
        assert nodes != {UUID(others.new()).node & 0xF000FFFFFFFF}


class TestRecorder:
    async def test_a_start_and_what_was_used_are_two_events_that_know_each_other(self) -> None:
        store = DictStore()
        async with publisher(store) as publishing:
            recorder = OriginRecorder(NO_RECORDER, publishing, EventIds(FakeClock()))
            recorder.stage_changed(view(), ExecutionStage.QUEUED, ExecutionStage.EXECUTING)
            recorder.resources_used(view(), peak_memory_kb=2048, cpu_time_ms=1500)
            recorder.stage_changed(view(), ExecutionStage.EXECUTING, ExecutionStage.COMPLETED)
        start, used = [event for batch in batches(store) for event in batch.events]

        assert start.event.request.scheduler_start_execute.operation_id == "operation-1"
        execute = start.event.request.scheduler_start_execute.execute_request
        assert (execute.instance_name, execute.action_digest.hash) == ("main", DIGEST.hash)
        assert start.event.request.scheduler_start_execute.worker_id == "w"
        assert start.event.request.scheduler_start_execute.queued_timestamp.nanos == 500_000_000
        assert [
            each.name for each in start.event.request.scheduler_start_execute.platform.properties
        ] == ["cpu", "os"]
        assert start.version == 0
        assert start.identity == "ada"
        metadata = start.bazel_request_metadata
        assert (metadata.tool_invocation_id, metadata.target_id) == ("build-1", "//app:lib")

        usage = used.event.response.action_resource_usage
        assert (usage.peak_memory_kb, usage.cpu_time_ms) == (2048, 1500)
        assert (usage.operation_id, usage.worker_id) == ("operation-1", "w")
        assert used.parent_event_id == start.event_id
        assert UUID(start.event_id).node.to_bytes(6, "big")[1] == 13
        assert UUID(used.event_id).node.to_bytes(6, "big")[1] == 12

    async def test_what_is_no_event_goes_to_the_other_recorder_alone(self) -> None:
        class Heard:
            def __init__(self) -> None:
                self.calls: list[str] = []

            def __getattr__(self, name: str) -> Any:
                return lambda *_, **__: self.calls.append(name)

        store, heard = DictStore(), Heard()
        async with publisher(store) as publishing:
            recorder = OriginRecorder(heard, publishing, EventIds(FakeClock()))
            recorder.stage_changed(view(), ExecutionStage.UNKNOWN, ExecutionStage.QUEUED)
            recorder.resources_used(view(), peak_memory_kb=0, cpu_time_ms=0)
            recorder.worker_seen("w")
            recorder.handled(0.1)
        assert heard.calls == ["stage_changed", "resources_used", "worker_seen", "handled"]
        assert not store.blobs


class TestPublisher:
    async def test_events_are_written_in_batches_of_1024(self) -> None:
        store = DictStore()
        async with publisher(store) as publishing:
            for number in range(2500):
                publishing.put(partial(events_pb2.OriginEvent, event_id=str(number)))
        assert [len(batch.events) for batch in batches(store)] == [1024, 1024, 452]
        assert [event.event_id for batch in batches(store) for event in batch.events] == [
            str(number) for number in range(2500)
        ]
        assert all(UUID(str(key).removeprefix("OriginEvents:")).version == 6 for key in store.blobs)
        assert publishing.published == 2500

    async def test_events_that_come_one_after_the_other_share_an_object(self) -> None:
        store = DictStore()
        async with publisher(store, linger_s=60) as publishing:
            for _ in range(5):
                publishing.put(events_pb2.OriginEvent)
                await asyncio.sleep(0)
        assert [len(batch.events) for batch in batches(store)] == [5]

    async def test_leaving_writes_what_waits(self) -> None:
        store = DictStore()
        async with publisher(store, linger_s=60) as publishing:
            publishing.put(events_pb2.OriginEvent)
        assert len(batches(store)) == 1

    async def test_a_full_queue_makes_new_work_wait_and_nobody_else(self) -> None:
        class Slow(DictStore):
            gate = asyncio.Event()

            async def put(self, key: StoreKey, source: Source) -> int:
                await self.gate.wait()
                return await super().put(key, source)

        store = Slow()
        store.gate = asyncio.Event()
        async with publisher(store, max_queue_size=2) as publishing:
            for _ in range(2):
                publishing.put(events_pb2.OriginEvent)
            await wait_until(lambda: len(publishing) == 0)
            for _ in range(3):
                publishing.put(events_pb2.OriginEvent)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await publishing.wait_for_room()
            store.gate.set()
            await publishing.wait_for_room()
        assert publishing.published == 5

    async def test_a_store_that_is_gone_at_the_end_is_waited_for_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Gone(DictStore):
            tries = 0

            async def put(self, key: StoreKey, source: Source) -> int:
                self.tries += 1
                raise unavailable("down")

        store = Gone()
        async with publisher(store, max_queue_size=100_000, linger_s=60) as publishing:
            for _ in range(10 * 1024):
                publishing.put(events_pb2.OriginEvent)
        assert store.tries == 5
        assert (publishing.published, publishing.lost) == (0, 10 * 1024)
        assert "9216 origin events are lost" in caplog.text

    async def test_a_batch_is_tried_five_times_and_then_lost_with_a_word(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Failing(DictStore):
            failures = 0

            async def put(self, key: StoreKey, source: Source) -> int:
                if self.failures:
                    self.failures -= 1
                    raise unavailable("down")
                return await super().put(key, source)

        for failures, published, lost in ((4, 1, 0), (5, 0, 1)):
            store = Failing()
            store.failures = failures
            async with publisher(store) as publishing:
                publishing.put(events_pb2.OriginEvent)
            assert (publishing.published, publishing.lost) == (published, lost)
        assert "1 origin events are lost: down" in caplog.text
