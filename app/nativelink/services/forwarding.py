"""A scheduler that is somewhere else: executions are passed on over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError, Message

from nativelink.core.channel import Channel, Metadata
from nativelink.core.eager import begin
from nativelink.core.errors import Code, NativeLinkError, internal, unavailable
from nativelink.core.retry import Retry
from nativelink.core.rpc import current_call
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.proto.google.protobuf import empty_pb2
from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.operation import OperationView
from nativelink.scheduler.scheduler import Watch
from nativelink.services.capabilities import NODE_PROPERTIES
from nativelink.services.operation_views import view_of
from nativelink.services.request_metadata import HEADER, decoded_header, metadata_of
from nativelink.stores.remote.messages import digest_message

__all__ = ["ForwardingScheduler"]

_EXECUTION: Final = "/build.bazel.remote.execution.v2.Execution/"
_EXECUTE: Final = _EXECUTION + "Execute"
_WAIT_EXECUTION: Final = _EXECUTION + "WaitExecution"
_OPERATIONS: Final = "/google.longrunning.Operations/"
_GET_CAPABILITIES: Final = "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities"
_BAGGAGE: Final = b"baggage"
#: As many operations as one message takes: for each page the other scheduler looks at all of them.
_PAGE_SIZE: Final = 10_000

M = TypeVar("M", bound=Message)


class ForwardingScheduler:
    """Passes executions on to another scheduler, whose names of operations it keeps.

    A name that a wrapper chose before is given up: clients see the other scheduler's as soon as
    there is one. An async context manager; leaving it ends what it does in the background.

    Args:
        channel: to the other scheduler.
        retry: of requests that fail. A stream that breaks after it gave news is taken up again by
            WaitExecution at once, and only what fails then counts as a failure. An operation
            that is not known there any more is asked for again.
        max_concurrent_requests: requests that wait for their (first) answer at the same time;
            further ones wait for their turn. 0 is no limit.
    """

    def __init__(
        self, channel: Channel, *, retry: Retry | None = None, max_concurrent_requests: int = 0
    ) -> None:
        self._channel = channel
        self._retry = Retry() if retry is None else retry
        self._slots = (
            asyncio.Semaphore(max_concurrent_requests) if max_concurrent_requests else None
        )
        #: Instances that something was executed for.
        self._used: set[str] = set()
        self._properties: dict[str, frozenset[str]] = {}
        self._background: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> ForwardingScheduler:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)

    # -- Scheduler -----------------------------------------------------------------------------

    async def execute(self, action: ActionInfo, *, name: str = "") -> Watch:
        del name
        key = action.key
        request = pb.ExecuteRequest(
            instance_name=key.instance_name,
            skip_cache_lookup=action.skip_cache_lookup,
            action_digest=digest_message(key.digest),
            digest_function=key.digest_function.name,
        )
        if action.priority:
            request.execution_policy.priority = action.priority
        watch = _ForwardedWatch(self, request.SerializeToString(), action, _metadata(action))
        await watch.begin()
        self._used.add(key.instance_name)
        if key.instance_name not in self._properties:
            self._properties[key.instance_name] = frozenset()
            self.in_background(self._learn(key.instance_name))
        return watch

    async def watch(self, name: str) -> Watch:
        watch = _ForwardedWatch(self, None, None, _metadata(None), name)
        await watch.begin()
        return watch

    async def get(self, name: str) -> OperationView:
        request = operations_pb2.GetOperationRequest(name=name)
        path = _OPERATIONS + "GetOperation"
        return view_of(await self._unary(path, request, operations_pb2.Operation))

    async def operations(self, *, since: float = 0.0) -> Iterable[OperationView]:
        """Those of the instances that something was executed for since the start."""
        found: list[OperationView] = []
        for instance in sorted(self._used):
            token = ""
            while True:
                request = operations_pb2.ListOperationsRequest(
                    name=instance, page_size=_PAGE_SIZE, page_token=token
                )
                page = await self._unary(
                    _OPERATIONS + "ListOperations", request, operations_pb2.ListOperationsResponse
                )
                views = map(view_of, page.operations)
                found += (view for view in views if view.queued_at >= since)
                token = page.next_page_token
                if not token:
                    break
        found.sort(key=lambda view: view.queued_at)
        return found

    async def cancel(self, name: str) -> None:
        request = operations_pb2.CancelOperationRequest(name=name)
        await self._unary(_OPERATIONS + "CancelOperation", request, empty_pb2.Empty)

    async def delete(self, name: str) -> None:
        request = operations_pb2.DeleteOperationRequest(name=name)
        await self._unary(_OPERATIONS + "DeleteOperation", request, empty_pb2.Empty)

    def known_properties(self) -> Sequence[str]:
        """What the other scheduler said when something was executed first; none before."""
        return sorted(frozenset().union(*self._properties.values()))

    # -- calls ---------------------------------------------------------------------------------

    @property
    def retry(self) -> Retry:
        """How failures are tried again."""
        return self._retry

    async def open(self, path: str, request: bytes, metadata: Metadata) -> _Stream:
        """Begin a streamed call and wait for its first message.

        Raises:
            NativeLinkError: what it was answered with instead.
        """
        stream = _Stream(self, self._channel.server_stream(path, request, metadata=metadata))
        async with AsyncExitStack() as stack:
            if self._slots is not None:
                await stack.enter_async_context(self._slots)
            await stream.receive()
        return stream

    def in_background(self, coro: Coroutine[Any, Any, None]) -> None:
        """Let a coroutine run beside, until this scheduler is closed."""
        begun = begin(coro, asyncio.get_running_loop())
        if not isinstance(begun, tuple):
            self._background.add(begun)
            begun.add_done_callback(self._background.discard)

    async def _unary(self, path: str, request: Message, reply: type[M]) -> M:
        data = request.SerializeToString()

        async def attempt() -> bytes:
            async with AsyncExitStack() as stack:
                if self._slots is not None:
                    await stack.enter_async_context(self._slots)
                return await self._channel.unary(path, data, metadata=_metadata(None))

        return _parsed(reply.FromString, await self._retry.run(attempt), path)

    async def _learn(self, instance: str) -> None:
        """Ask what properties are known there. Nobody waits for it, so its failure is nobody's."""
        try:
            answer = await self._unary(
                _GET_CAPABILITIES,
                pb.GetCapabilitiesRequest(instance_name=instance),
                pb.ServerCapabilities,
            )
        except NativeLinkError:
            self._properties.pop(instance, None)
            return
        known = answer.execution_capabilities.supported_node_properties
        self._properties[instance] = frozenset(known) - frozenset(NODE_PROPERTIES)


class _Stream:
    """One streamed call, with a message that was received and not taken."""

    def __init__(
        self, scheduler: ForwardingScheduler, messages: AsyncGenerator[bytes, None]
    ) -> None:
        self._scheduler = scheduler
        self._messages = messages
        self._next: bytes | None = None

    async def receive(self) -> bytes:
        """The next message; it stays the next one until it is taken.

        Raises:
            NativeLinkError: what the call ended with; UNAVAILABLE for an end without an error.
        """
        if self._next is None:
            try:
                self._next = await anext(self._messages)
            except StopAsyncIteration:
                raise unavailable("the other scheduler ended the stream too early") from None
        return self._next

    def take(self) -> None:
        """The message that was received is done with."""
        self._next = None

    def close(self) -> None:
        """End the call."""
        self._scheduler.in_background(self._end())

    async def _end(self) -> None:
        await self._messages.aclose()


class _ForwardedWatch:
    """Follows an operation of the other scheduler over as many streams as that takes.

    Args:
        scheduler: makes the calls.
        request: an encoded ExecuteRequest; None to follow an operation that is there.
        action: what is executed, as far as it is known.
        metadata: headers of every call.
        name: of the operation, if it is known.
    """

    def __init__(
        self,
        scheduler: ForwardingScheduler,
        request: bytes | None,
        action: ActionInfo | None,
        metadata: Metadata,
        name: str = "",
    ) -> None:
        self._scheduler = scheduler
        self._request = request
        self._action = action
        self._metadata = metadata
        self._name = name
        self._stream: _Stream | None = None
        self._tries = scheduler.retry.tries()
        self._done = False

    async def begin(self) -> None:
        """Return when there is a first state.

        Raises:
            NativeLinkError: what the request was refused with.
        """
        while self._stream is None:
            try:
                self._stream = await self._open()
            except NativeLinkError as error:
                await self._tries.after(error)

    async def next(self) -> OperationView | None:
        if self._done:
            return None
        while True:
            await self.begin()
            stream = self._stream
            assert stream is not None
            try:
                message = await stream.receive()
            except NativeLinkError as error:
                if error.code not in self._scheduler.retry.codes:
                    raise
                # It had news before it broke, so it is taken up again at once.
                self._stream = None
                continue
            stream.take()
            self._tries.renew()
            operation = _parsed(operations_pb2.Operation.FromString, message, _EXECUTE)
            view = view_of(operation, self._action)
            self._name = view.name
            self._done = view.done
            return view

    def look(self) -> None:
        """The other scheduler tells by itself, now and then, how things are."""

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    async def _open(self) -> _Stream:
        if self._name:
            request = pb.WaitExecutionRequest(name=self._name).SerializeToString()
            try:
                return await self._scheduler.open(_WAIT_EXECUTION, request, self._metadata)
            except NativeLinkError as error:
                if error.code is not Code.NOT_FOUND or self._request is None:
                    raise
        assert self._request is not None
        return await self._scheduler.open(_EXECUTE, self._request, self._metadata)


def _metadata(action: ActionInfo | None) -> Metadata:
    """What is passed on of the client's headers: who it is, and what it builds."""
    call = current_call.get()
    found: list[tuple[str, str | bytes]] = []
    if call is not None:
        for name, value in call.metadata:
            if name == HEADER and (decoded := decoded_header(value)) is not None:
                found.append((name.decode(), decoded))
            elif name == _BAGGAGE and value.isascii() and (text := value.decode()).isprintable():
                # Other octets may come in, but gRPC sends none: the call would fail.
                found.append((name.decode(), text))
    elif action is not None:
        found.append((HEADER.decode(), metadata_of(action.origin).SerializeToString()))
    return found


def _parsed(parse: Callable[[bytes], M], data: bytes, path: str) -> M:
    try:
        return parse(data)
    except DecodeError as error:
        raise internal(f"the other scheduler's answer to {path} is malformed: {error}") from error
