"""Remote execution: REAPI's Execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from google.protobuf.message import DecodeError

from nativelink.core.clock import Clock
from nativelink.core.digest import DigestFunction, digest_function
from nativelink.core.rpc import CallContext, MessageSink, Method
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.scheduler.operation import OperationView
from nativelink.scheduler.scheduler import Scheduler, Watch
from nativelink.services.actions import read_action
from nativelink.services.digest_functions import use_digest_function
from nativelink.services.inlining import InlineWishes, inline_outputs, wishes_any
from nativelink.services.instances import Instances
from nativelink.services.limits import MAX_BATCH_TOTAL_SIZE_BYTES
from nativelink.services.methods import method, service
from nativelink.services.operation_stream import REPEAT_INTERVAL_S, OperationStream
from nativelink.stores.recent import RecentMessages
from nativelink.stores.store import Store

__all__ = ["ExecutionInstance", "ExecutionService", "instance_of"]

_SERVICE: Final = service(pb.DESCRIPTOR, "Execution")


@dataclass(frozen=True, slots=True)
class ExecutionInstance:
    """One instance.

    Attributes:
        cas: where actions, commands, inputs and outputs are.
        scheduler: executes.
    """

    cas: Store
    scheduler: Scheduler


def instance_of(name: str) -> str:
    """The instance in an operation's name `{instance}/{id}`; instances may contain slashes."""
    return name.rpartition("/")[0]


class ExecutionService:
    """Executes actions for clients, and lets them follow.

    A client that goes away ends nothing: it may come back with WaitExecution, and others may
    share the execution. An execution in which nobody is interested any more is the scheduler's
    business.

    Args:
        instances: by name.
        clock: for the pauses of streams.
        default_function: the digest function of requests that name none.
        max_inlined_bytes: a response is filled up with inlined blobs to this size at most.
        repeat_interval_s: seconds without a change until a stream repeats the last state.
        recent: gets the messages that it reads, for workers of this process.
    """

    def __init__(
        self,
        instances: Mapping[str, ExecutionInstance],
        *,
        clock: Clock,
        default_function: DigestFunction = DigestFunction.SHA256,
        max_inlined_bytes: int = MAX_BATCH_TOTAL_SIZE_BYTES,
        repeat_interval_s: float = REPEAT_INTERVAL_S,
        recent: RecentMessages | None = None,
    ) -> None:
        self._instances = Instances("execution service", instances)
        self._clock = clock
        self._default_function = default_function
        self._max_inlined_bytes = max_inlined_bytes
        self._repeat_interval_s = repeat_interval_s
        self._recent = RecentMessages() if recent is None else recent

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [
            method(_SERVICE, "Execute", self._execute),
            method(_SERVICE, "WaitExecution", self._wait_execution),
        ]

    async def _execute(
        self, request: pb.ExecuteRequest, call: CallContext, sink: MessageSink
    ) -> None:
        instance = self._instances.get(request.instance_name)
        use_digest_function(request.digest_function, self._default_function)
        function = digest_function.get() or self._default_function
        action = await read_action(request, function, instance.cas, call, self._recent)
        watch = await instance.scheduler.execute(action)
        await self._follow(watch, sink, instance.cas, request if wishes_any(request) else None)

    async def _wait_execution(
        self, request: pb.WaitExecutionRequest, _call: CallContext, sink: MessageSink
    ) -> None:
        instance = self._instances.get(instance_of(request.name))
        watch = await instance.scheduler.watch(request.name)
        await self._follow(watch, sink, instance.cas, None)

    async def _follow(
        self, watch: Watch, sink: MessageSink, cas: Store, wishes: InlineWishes | None
    ) -> None:
        """Send every state until the last one. The watch is closed whatever happens."""
        try:
            with OperationStream(
                sink, self._clock, look=watch.look, repeat_interval_s=self._repeat_interval_s
            ) as stream:
                while (view := await watch.next()) is not None:
                    if wishes is not None and view.response is not None:
                        view = await self._inlined(view, view.response, cas, wishes)
                    await stream.send(view)
                    if view.done:
                        return
        finally:
            watch.close()

    async def _inlined(
        self, view: OperationView, data: bytes, cas: Store, wishes: InlineWishes
    ) -> OperationView:
        """The view with what the client would like to have inlined in its response."""
        try:
            response = pb.ExecuteResponse.FromString(data)
        except DecodeError:
            # Not ours, then, but a newer scheduler's somewhere else: the client may know better.
            return view
        room = self._max_inlined_bytes - len(data)
        if not await inline_outputs(response.result, wishes, cas, room):
            return view
        return replace(view, response=response.SerializeToString())
