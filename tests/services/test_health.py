from __future__ import annotations

import asyncio

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.grpc.health.v1 import health_pb2 as pb
from nativelink.services.health import HealthService
from nativelink.testing.calls import Caller, FakeMessageSink

SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING
UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN
CAS = "build.bazel.remote.execution.v2.ContentAddressableStorage"


class Client:
    def __init__(self, service: HealthService) -> None:
        self.caller = Caller(service.methods())

    async def check(self, name: str) -> int:
        request = pb.HealthCheckRequest(service=name)
        return (await self.caller.unary("Check", request, pb.HealthCheckResponse)).status

    def watch(self, name: str, sink: FakeMessageSink) -> asyncio.Task[object]:
        request = pb.HealthCheckRequest(service=name)
        return asyncio.create_task(
            self.caller.server_stream("Watch", request, pb.HealthCheckResponse, sink)
        )


async def seen(sink: FakeMessageSink) -> list[int]:
    for _ in range(5):
        await asyncio.sleep(0)
    return [pb.HealthCheckResponse.FromString(message).status for message in sink.messages]


async def test_every_service_and_the_server_itself_serve_at_first() -> None:
    client = Client(HealthService([CAS]))
    assert [await client.check(name) for name in ("", CAS)] == [SERVING, SERVING]


async def test_an_unknown_service_is_not_found() -> None:
    with pytest.raises(NativeLinkError, match=f"services: {CAS}") as raised:
        await Client(HealthService([CAS])).check("x")
    assert raised.value.code is Code.NOT_FOUND


async def test_list_has_them_all() -> None:
    service = HealthService([CAS])
    service.set_serving(CAS, serving=False)
    answer = await Client(service).caller.unary(
        "List", pb.HealthListRequest(), pb.HealthListResponse
    )
    statuses = {name: response.status for name, response in answer.statuses.items()}
    assert statuses == {"": SERVING, CAS: NOT_SERVING}


async def test_every_watcher_is_told_every_change_once() -> None:
    service = HealthService([CAS])
    client = Client(service)
    sinks = [FakeMessageSink() for _ in range(3)]
    tasks = [client.watch(CAS, sink) for sink in sinks]
    assert await seen(sinks[0]) == [SERVING]
    tasks[0].cancel()
    service.set_serving("", serving=False)
    service.set_serving(CAS, serving=False)
    await seen(sinks[1])
    service.set_serving(CAS, serving=True)
    assert [await seen(sink) for sink in sinks] == [
        [SERVING],
        [SERVING, NOT_SERVING, SERVING],
        [SERVING, NOT_SERVING, SERVING],
    ]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_service_that_appears_later_is_watched_from_the_start() -> None:
    service = HealthService([])
    sink = FakeMessageSink()
    task = Client(service).watch("later", sink)
    assert await seen(sink) == [UNKNOWN]
    service.set_serving("later", serving=True)
    assert await seen(sink) == [UNKNOWN, SERVING]
    task.cancel()
    await asyncio.wait([task])


async def test_a_drain_is_told_and_ends_every_watch() -> None:
    service = HealthService([CAS])
    client = Client(service)
    sink = FakeMessageSink()
    task = client.watch(CAS, sink)
    assert await seen(sink) == [SERVING]
    service.drain()
    service.set_serving(CAS, serving=True)
    with pytest.raises(NativeLinkError, match="draining") as raised:
        await task
    assert raised.value.code is Code.UNAVAILABLE
    assert await seen(sink) == [SERVING, NOT_SERVING]
    assert await client.check("") == NOT_SERVING
