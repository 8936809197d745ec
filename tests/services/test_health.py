"""Whether a server serves, as load balancers ask."""

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

    async def list(self) -> dict[str, int]:
        answer = await self.caller.unary("List", pb.HealthListRequest(), pb.HealthListResponse)
        return {name: response.status for name, response in answer.statuses.items()}

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
    client = Client(service)
    assert await client.list() == {"": SERVING, CAS: SERVING}
    service.drain()
    assert await client.list() == {"": NOT_SERVING, CAS: NOT_SERVING}


async def test_a_drain_is_told_to_every_watcher_and_ends_every_watch() -> None:
    service = HealthService([CAS])
    client = Client(service)
    sinks = [FakeMessageSink() for _ in range(3)]
    tasks = [client.watch(CAS, sink) for sink in sinks]
    assert [await seen(sink) for sink in sinks] == [[SERVING]] * 3
    tasks[0].cancel()
    service.drain()
    for task in tasks[1:]:
        with pytest.raises(NativeLinkError, match="draining") as raised:
            await task
        assert raised.value.code is Code.UNAVAILABLE
    assert tasks[0].cancelled()
    assert [await seen(sink) for sink in sinks] == [
        [SERVING],
        [SERVING, NOT_SERVING],
        [SERVING, NOT_SERVING],
    ]
    assert await client.check("") == NOT_SERVING


@pytest.mark.parametrize(("name", "status"), [("later", UNKNOWN), (CAS, NOT_SERVING)])
async def test_who_begins_to_watch_while_it_drains_is_told_once(name: str, status: int) -> None:
    service = HealthService([CAS])
    sink = FakeMessageSink()
    service.drain()
    with pytest.raises(NativeLinkError, match="draining"):
        await Client(service).watch(name, sink)
    assert await seen(sink) == [status]


async def test_an_unknown_service_is_watched_until_the_drain() -> None:
    service = HealthService([CAS])
    sink = FakeMessageSink()
    task = Client(service).watch("x", sink)
    assert await seen(sink) == [UNKNOWN]
    service.drain()
    with pytest.raises(NativeLinkError, match="draining"):
        await task
    assert await seen(sink) == [UNKNOWN]
