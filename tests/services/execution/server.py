"""The Execution service over a scheduler in which nothing happens by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.proto.nativelink.v1.execution_progress_pb2 import ExecutionProgress
from nativelink.services.execution import ExecutionInstance, ExecutionService
from nativelink.stores.store import write_bytes
from nativelink.testing.calls import Caller, FakeMessageSink, digest_message
from nativelink.testing.fakes import DictStore, FakeClock, wait_until
from tests.services.scheduling import FakeScheduler

SHA256, BLAKE3 = DigestFunction.SHA256, DigestFunction.BLAKE3
ROOT = b""

COMMAND = pb.Command(arguments=["/bin/true"])


class Call:
    """One streamed call under way."""

    def __init__(self, task: asyncio.Task[Any], sink: FakeMessageSink) -> None:
        self.task = task
        self._sink = sink

    @property
    def operations(self) -> list[operations_pb2.Operation]:
        return [operations_pb2.Operation.FromString(each) for each in self._sink.messages]

    async def states(self, count: int) -> list[operations_pb2.Operation]:
        await wait_until(lambda: len(self._sink.messages) >= count or self.task.done())
        if self.task.done():
            await self.task
        return self.operations

    async def end(self) -> list[operations_pb2.Operation]:
        await self.task
        return self.operations


class Server:
    """A service over a scheduler in which nothing happens by itself."""

    def __init__(self, tasks: asyncio.TaskGroup, **settings: Any) -> None:
        self.cas = DictStore()
        self.scheduler = FakeScheduler()
        self.clock = FakeClock()
        self.calls: list[Call] = []
        self._tasks = tasks
        self.service = ExecutionService(
            {"a/b": ExecutionInstance(self.cas, self.scheduler)}, clock=self.clock, **settings
        )

    async def put(self, data: bytes | Any, function: DigestFunction = SHA256) -> Digest:
        data = data if isinstance(data, bytes) else data.SerializeToString()
        digest = function.digest_of(data)
        await write_bytes(self.cas, digest, data)
        return digest

    async def action(self, command: Any = COMMAND, root: bytes = ROOT, **fields: Any) -> Digest:
        return await self.put(
            pb.Action(
                command_digest=digest_message(await self.put(command)),
                input_root_digest=digest_message(await self.put(root)),
                **fields,
            )
        )

    def call(
        self,
        name: str,
        request: Any,
        metadata: list[tuple[bytes, bytes]] | None = None,
    ) -> Call:
        sink = FakeMessageSink()
        caller = Caller(self.service.methods(), metadata or [])
        call = Call(
            self._tasks.create_task(
                caller.server_stream(name, request, operations_pb2.Operation, sink)
            ),
            sink,
        )
        self.calls.append(call)
        return call

    def execute(self, digest: Digest, metadata: Any = None, **fields: Any) -> Call:
        request = pb.ExecuteRequest(
            instance_name="a/b", action_digest=digest_message(digest), **fields
        )
        return self.call("Execute", request, metadata)

    async def refused(self, digest: Digest, **fields: Any) -> NativeLinkError:
        """The error of an Execute that is not let in."""
        request = pb.ExecuteRequest(
            **{"instance_name": "a/b", "action_digest": digest_message(digest), **fields}
        )
        caller = Caller(self.service.methods())
        with pytest.raises(NativeLinkError) as raised:
            await caller.server_stream("Execute", request, operations_pb2.Operation)
        assert not self.scheduler.views
        return raised.value


def metadata_of(operation: operations_pb2.Operation) -> pb.ExecuteOperationMetadata:
    assert operation.metadata.type_url.endswith(
        "/" + pb.ExecuteOperationMetadata.DESCRIPTOR.full_name
    )
    return pb.ExecuteOperationMetadata.FromString(operation.metadata.value)


def progress_of(operation: operations_pb2.Operation) -> ExecutionProgress:
    (own,) = metadata_of(operation).partial_execution_metadata.auxiliary_metadata
    assert own.type_url == "type.googleapis.com/nativelink.v1.ExecutionProgress"
    return ExecutionProgress.FromString(own.value)
