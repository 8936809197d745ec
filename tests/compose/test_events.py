"""Build events and origin events, as a configuration asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import json5
import pytest

from nativelink.compose.environment import Environment
from nativelink.compose.origin import open_origin_events
from nativelink.compose.stores import StoreBuilder
from nativelink.config import Config
from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import events_pb2
from nativelink.proto.google.devtools.build.v1 import publish_build_event_pb2
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.proto.nativelink.v1 import builds_pb2
from nativelink.scheduler.scheduler import WorkerHello
from nativelink.testing.calls import digest_message
from tests import plain_http
from tests.compose.test_execution import upload
from tests.compose.test_system import config, opened, server
from tests.services.builds.tool import Request, Tool, finish, start

Ack = publish_build_event_pb2.PublishBuildToolEventStreamResponse


def publishing(channel: grpc.aio.Channel) -> Any:
    return channel.stream_stream(
        "/google.devtools.build.v1.PublishBuildEvent/PublishBuildToolEventStream",
        request_serializer=Request.SerializeToString,
        response_deserializer=Ack.FromString,
    )


async def test_events_go_into_the_store_that_is_named_and_come_back_as_builds(
    tmp_path: Path,
) -> None:
    stores = f"""{{ stores: [{{ name: "BUILDS", filesystem: {{
        content_path: "{tmp_path}/content", temp_path: "{tmp_path}/temp" }} }}],
        servers: [{server('experimental_bep: { store: "BUILDS" }')}] }}"""
    tool = Tool()
    start(tool)
    finish(tool)
    tool.end()
    async with opened(Config.model_validate(json5.loads(stores))) as system:
        assert system.listeners[0].services == ("experimental_bep",)
        async with grpc.aio.insecure_channel(system.listeners[0].address) as channel:
            call = publishing(channel)(iter(tool.events))
            assert [ack.sequence_number async for ack in call] == [1, 2, 3]
            get = channel.unary_unary(
                "/nativelink.v1.Builds/GetBuild",
                request_serializer=builds_pb2.GetBuildRequest.SerializeToString,
                response_deserializer=builds_pb2.Build.FromString,
            )
            build = await get(builds_pb2.GetBuildRequest(invocation_id=tool.invocation))
            assert build.state == builds_pb2.Build.SUCCEEDED
    kept = {path.name for path in (tmp_path / "content/s").iterdir()}
    assert {f"BepEvent:be:build-1:invocation-1:{number}" for number in (1, 2, 3)} < kept


async def test_an_event_may_be_longer_than_other_messages() -> None:
    tool = Tool()
    tool.say(progress={"stderr": "x" * (6 << 20)})
    async with (
        opened(config(server('experimental_bep: { store: "CAS" }'))) as system,
        grpc.aio.insecure_channel(system.listeners[0].address) as channel,
    ):
        call = publishing(channel)(iter(tool.events))
        assert [ack.sequence_number async for ack in call] == [1]


async def test_a_process_that_stops_does_not_wait_for_builds_to_end() -> None:
    tool = Tool()
    start(tool)
    ended = asyncio.Event()

    async def events() -> AsyncIterator[Request]:
        yield tool.events[0]
        await ended.wait()

    async with (
        opened(config(server('experimental_bep: { store: "CAS" }'))) as system,
        grpc.aio.insecure_channel(system.listeners[0].address) as channel,
    ):
        call = publishing(channel)(events())
        assert (await call.read()).sequence_number == 1
        assert await system.drain(30)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        ended.set()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (config(server('experimental_bep: { store: "B" }')), "services/experimental_bep"),
        (
            config(more='experimental_origin_events: { publisher: { store: "B" } }'),
            "experimental_origin_events/publisher",
        ),
    ],
    ids=["build events", "origin events"],
)
async def test_a_store_that_is_not_there_is_named(text: Config, path: str) -> None:
    with pytest.raises(NativeLinkError, match="there is no store 'B'") as error:
        async with opened(text):
            pass
    assert error.value.code is Code.INVALID_ARGUMENT
    assert path in error.value.message


async def test_origin_events_tell_of_each_execution(tmp_path: Path) -> None:
    digest_of = DigestFunction.SHA256.digest_of
    command = pb.Command(arguments=["true"]).SerializeToString()
    action = pb.Action(
        command_digest=digest_message(digest_of(command)),
        input_root_digest=digest_message(digest_of(b"")),
    ).SerializeToString()
    text = f"""{{
      stores: [{{ name: "CAS", memory: {{}} }}, {{ name: "EVENTS", filesystem: {{
        content_path: "{tmp_path}/content", temp_path: "{tmp_path}/temp" }} }}],
      schedulers: [{{ name: "MAIN", simple: {{ worker_timeout_s: 600 }} }}],
      servers: [{
        server('''cas: [{ instance_name: "a", cas_store: "CAS" }],
        execution: [{ instance_name: "a", cas_store: "CAS", scheduler: "MAIN" }], health: {}''')
    }],
      experimental_origin_events: {{ publisher: {{ store: "EVENTS" }}, max_event_queue_size: 1 }},
    }}"""
    async with opened(Config.model_validate(json5.loads(text))) as system:
        address = system.listeners[0].address
        link = system.schedulers[0].connect(
            WorkerHello(prefix="w", properties=(), max_inflight_tasks=1)
        )
        async with grpc.aio.insecure_channel(address) as channel:
            await upload(channel, command, action)
            execute = channel.unary_stream(
                "/build.bazel.remote.execution.v2.Execution/Execute",
                request_serializer=pb.ExecuteRequest.SerializeToString,
                response_deserializer=operations_pb2.Operation.FromString,
            )
            metadata = pb.RequestMetadata(tool_invocation_id="build-1", target_id="//app:lib")
            header = "build.bazel.remote.execution.v2.requestmetadata-bin"
            call = execute(
                pb.ExecuteRequest(
                    instance_name="a", action_digest=digest_message(digest_of(action))
                ),
                metadata=[
                    (header, metadata.SerializeToString()),
                    ("baggage", "enduser.id=ada"),
                ],
            )
            [order] = await link.next_orders()
            response = pb.ExecuteResponse(result=pb.ActionResult())
            link.result(
                order.operation_id,
                response.SerializeToString(),
                exit_code=0,
                peak_memory_kb=2048,
                cpu_time_ms=1500,
            )
            assert [each.done async for each in call][-1]
        async with plain_http.async_client(base_url=f"http://{address}") as client:
            assert "nativelink_origin_events_lost_total{} 0" in (await client.get("/metrics")).text
    events = [
        event
        for path in sorted((tmp_path / "content/s").glob("OriginEvents:*"))
        for event in events_pb2.OriginEvents.FromString(path.read_bytes()).events
    ]
    begun, used = events
    assert begun.event.request.scheduler_start_execute.worker_id == link.worker_id
    assert used.event.response.action_resource_usage.peak_memory_kb == 2048
    assert used.parent_event_id == begun.event_id
    assert {each.identity for each in events} == {"ada"}
    assert {each.bazel_request_metadata.target_id for each in events} == {"//app:lib"}


async def test_as_many_events_wait_as_the_configuration_allows(environment: Environment) -> None:
    text = """{ stores: [{ name: "EVENTS", memory: {} }], servers: [],
      experimental_origin_events: { publisher: { store: "EVENTS" }, max_event_queue_size: 3 } }"""
    spec = Config.model_validate(json5.loads(text))
    stores = StoreBuilder(spec.stores, environment)
    node = await open_origin_events(spec.experimental_origin_events, stores, environment)
    assert node is not None
    for _ in range(2):
        node.publisher.put(events_pb2.OriginEvent)
    await node.publisher.wait_for_room()
    node.publisher.put(events_pb2.OriginEvent)
    waits = node.publisher.wait_for_room()
    waits.send(None)
    waits.close()
