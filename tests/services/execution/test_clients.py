"""Clients that come, leave, come back, and wait for what others began."""

from __future__ import annotations

import asyncio

import pytest

from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.testing.calls import Caller, digest_message
from nativelink.testing.fakes import wait_until
from tests.services.execution.server import Server


class TestComingAndGoing:
    async def test_a_client_that_leaves_only_stops_watching(self, server: Server) -> None:
        call = server.execute(await server.action())
        await call.states(1)
        call.task.cancel()
        await wait_until(call.task.done)
        assert server.scheduler.watches[0].closed
        assert not server.scheduler.cancelled
        assert list(server.scheduler.views) == ["a/b/1"]

    async def test_a_client_that_comes_back_goes_on_where_the_operation_is(
        self, server: Server
    ) -> None:
        call = server.execute(await server.action())
        await call.states(1)
        again = server.call("WaitExecution", pb.WaitExecutionRequest(name="a/b/1"))
        await again.states(1)
        server.scheduler.finish(b"")
        assert (await again.end())[-1] == (await call.end())[-1]
        late = server.call("WaitExecution", pb.WaitExecutionRequest(name="a/b/1"))
        (only,) = await late.end()
        assert only.done

    @pytest.mark.parametrize("name", ["a/b/9", "c/1", "", "no-slash", "/1"])
    async def test_an_unknown_operation_is_not_found(self, server: Server, name: str) -> None:
        caller = Caller(server.service.methods())
        with pytest.raises(NativeLinkError) as raised:
            await caller.server_stream(
                "WaitExecution", pb.WaitExecutionRequest(name=name), operations_pb2.Operation
            )
        assert raised.value.code is Code.NOT_FOUND

    async def test_a_scheduler_that_stops_ends_the_stream(self, server: Server) -> None:
        request = pb.ExecuteRequest(
            instance_name="a/b", action_digest=digest_message(await server.action())
        )
        caller = Caller(server.service.methods())

        async def stopped() -> Code:
            with pytest.raises(NativeLinkError) as raised:
                await caller.server_stream("Execute", request, operations_pb2.Operation)
            return raised.value.code

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(stopped())
            await wait_until(lambda: bool(server.scheduler.views))
            server.scheduler.stop(unavailable("the scheduler stops"))
        assert task.result() is Code.UNAVAILABLE
        assert server.scheduler.watches[0].closed
