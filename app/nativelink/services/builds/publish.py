"""google.devtools.build.v1.PublishBuildEvent: build events, acknowledged once they are kept.

What a client may rely on:

- An event is acknowledged when the store has it for good, and in the order of the stream.
- A client whose connection broke goes on with the first event that was not acknowledged, here or
  at another server with the same store. What is there already is acknowledged and not stored again.
- A gap is refused: FAILED_PRECONDITION where events before the first one are not in the store, and
  INVALID_ARGUMENT within a stream. Bazel repeats neither, and says so; it repeats everything else.
- A slow store slows the client down: what is not stored yet is bounded by `_MAX_PENDING_BYTES`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from nativelink.core.clock import Clock
from nativelink.core.eager import ended
from nativelink.core.errors import (
    Code,
    NativeLinkError,
    failed_precondition,
    invalid_argument,
    unavailable,
)
from nativelink.core.retry import RETRIED_BY_DEFAULT
from nativelink.core.rpc import CallContext, MessageSink, MessageSource, Method
from nativelink.core.streams import Chunk
from nativelink.proto.google.devtools.build.v1 import publish_build_event_pb2 as pb
from nativelink.services.builds.events import (
    BATCH,
    StreamName,
    checked_name,
    keys_of,
    lifecycle_key,
    lifecycle_value,
    tool_event_value,
)
from nativelink.services.builds.history import BuildHistory
from nativelink.services.builds.live import LiveBuild
from nativelink.services.identity import identity
from nativelink.services.methods import method, service
from nativelink.stores.store import Store, write_bytes

__all__ = ["PublishBuildEventService"]

_SERVICE: Final = service(pb.DESCRIPTOR, "PublishBuildEvent")
#: Events of one stream on their way into the store. Whatever a stream has there is found again by
#: who resumes it, because `BATCH` events are looked for at a time.
_MAX_PENDING: Final = BATCH
#: Their bytes, or one event, whose length the listener limits.
_MAX_PENDING_BYTES: Final = 1 << 20
#: Tries of a write, and the base of the pauses between them (NativeLink v1.6.6).
_TRIES: Final = 5
_PAUSE_S: Final = 0.1
#: A summary is not worth more when a stream ends, perhaps because the store is gone.
_LAST_SAVE_S: Final = 5.0
#: Bazel sends command lines and names of test cases whole; 4 MiB, the usual limit, is not enough
#: for large builds, and Bazel gives the whole upload up if one event is refused.
_MAX_EVENT_BYTES: Final = 16 << 20


class PublishBuildEventService:
    """Takes build events into a store.

    Args:
        store: keeps events and summaries.
        history: of the builds of that store.
        clock: the time.
        pause_s: before the second try of a failed write; before the third, twice that, and so on.
    """

    def __init__(
        self, store: Store, history: BuildHistory, *, clock: Clock, pause_s: float = _PAUSE_S
    ) -> None:
        self._store = store
        self._history = history
        self._clock = clock
        self._pause_s = pause_s
        self._open: dict[StreamName, asyncio.Task[None]] = {}
        self._ending = False

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [
            method(_SERVICE, "PublishLifecycleEvent", self._publish_lifecycle, parse=bytes),
            method(
                _SERVICE,
                "PublishBuildToolEventStream",
                self._publish_stream,
                min_message_bytes=_MAX_EVENT_BYTES,
            ),
        ]

    @property
    def streams(self) -> int:
        """Connections over which events are coming."""
        return len(self._open)

    def end_streams(self) -> None:
        """End them with UNAVAILABLE: their clients go on over others."""
        self._ending = True
        for task in self._open.values():
            task.cancel()

    async def put(self, key: str, value: bytes) -> None:
        """Store an event, trying again what may succeed later.

        Raises:
            NativeLinkError: of the last try.
        """
        for attempt in range(1, _TRIES):
            try:
                await write_bytes(self._store, key, value)
                return
            except NativeLinkError as error:
                if error.code not in RETRIED_BY_DEFAULT:
                    raise
            await asyncio.sleep(self._pause_s * attempt)
        await write_bytes(self._store, key, value)

    async def _publish_lifecycle(self, message: bytes, call: CallContext) -> bytes:
        try:
            request = pb.PublishLifecycleEventRequest.FromString(message)
        except DecodeError as error:
            raise invalid_argument(f"malformed PublishLifecycleEventRequest: {error}") from error
        key = lifecycle_key(request.build_event)
        await self.put(key, lifecycle_value(_sender(call), message))
        return b""

    async def _publish_stream(
        self, source: MessageSource, call: CallContext, sink: MessageSink
    ) -> None:
        message = await source.read()
        if message is None:
            return
        first = _parsed(message)
        name = checked_name(first.ordered_build_event)
        # A client that came back knows better than we do that its old connection is dead.
        while (older := self._open.pop(name, None)) is not None:
            older.cancel()
            await ended([older])
        who = _sender(call)
        live = None
        if name.is_tools:
            live = LiveBuild(self._store, self._history, name, who, clock=self._clock)
        stream = _Stream(self, self._store, name, who, live, sink)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(stream.run(first, message, source))
            self._open[name] = task
            task.add_done_callback(lambda done: self._closed(name, done))
        if task.cancelled():
            if self._ending:
                raise unavailable("the server stops; the stream goes on over another connection")
            raise NativeLinkError(Code.ABORTED, "the stream goes on over another connection")

    def _closed(self, name: StreamName, task: asyncio.Task[None]) -> None:
        if self._open.get(name) is task:
            del self._open[name]


class _Pending(NamedTuple):
    """An event that came in and is not acknowledged.

    Attributes:
        request: the event.
        size: its bytes.
        stored: ends when it is stored; None if it was already.
    """

    request: pb.PublishBuildToolEventStreamRequest
    size: int
    stored: asyncio.Task[None] | None


class _Stream:
    """One connection's share of a stream of events."""

    def __init__(
        self,
        service: PublishBuildEventService,
        store: Store,
        name: StreamName,
        who: str,
        live: LiveBuild | None,
        sink: MessageSink,
    ) -> None:
        self._service = service
        self._store = store
        self._name = name
        self._who = who
        self._live = live
        self._sink = sink
        self._pending: asyncio.Queue[_Pending | None] = asyncio.Queue(_MAX_PENDING)
        self._pending_bytes = 0
        self._room: asyncio.Future[None] | None = None
        self._next = 0
        #: Events of earlier connections that are in the store, as far as was looked.
        self._present: frozenset[int] = frozenset()
        #: The first number that was not looked for; None once there can be no more.
        self._unknown_from: int | None = None

    async def run(
        self, first: pb.PublishBuildToolEventStreamRequest, message: Chunk, source: MessageSource
    ) -> None:
        """Store and acknowledge events until the client has no more."""
        await self._resume(first.ordered_build_event.sequence_number)
        broken = True
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = None if self._live is None else tasks.create_task(self._live.keep())
                acknowledging = tasks.create_task(self._acknowledge())
                await self._take(first, message, tasks)
                # What was parsed once is not held as long as the stream lasts.
                del first, message
                while (each := await source.read()) is not None:
                    await self._take(_parsed(each), each, tasks)
                await self._pending.put(None)
                await acknowledging
                if keeping is not None:
                    keeping.cancel()
            broken = False
        finally:
            if self._live is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_SAVE_S):
                        await self._live.end(broken=broken)

    async def _resume(self, number: int) -> None:
        """Find out what there is of the stream.

        Raises:
            NativeLinkError: FAILED_PRECONDITION if events before `number` are missing,
                INVALID_ARGUMENT for a number that no stream begins with.
        """
        if number < 1:
            raise invalid_argument(f"sequence_number {number}: the first event of a stream is 1")
        self._next = number
        self._unknown_from = number
        if number > 1:
            [before] = await self._store.has(keys_of(self._name, number - 1, 1))
            if before is None:
                raise failed_precondition(
                    f"the stream goes on with event {number}, and event {number - 1} is not in "
                    "the store; send all events from the first that was not acknowledged"
                )
        await self._look(number)
        if self._live is not None and (number > 1 or self._present):
            await self._live.resume(number)

    async def _look(self, number: int) -> None:
        """See which of the next events are in the store.

        They are the last of earlier connections: at most `_MAX_PENDING` were on their way when
        one ended, and all before those were acknowledged. So `BATCH` absent ones are the end.
        """
        sizes = await self._store.has(keys_of(self._name, number, BATCH))
        self._present = frozenset(
            number + place for place, size in enumerate(sizes) if size is not None
        )
        self._unknown_from = number + BATCH if self._present else None

    async def _take(
        self,
        request: pb.PublishBuildToolEventStreamRequest,
        message: Chunk,
        tasks: asyncio.TaskGroup,
    ) -> None:
        event = request.ordered_build_event
        number, size = event.sequence_number, len(message)
        stream = event.stream_id
        if StreamName(stream.build_id, stream.invocation_id, stream.component) != self._name:
            raise invalid_argument(
                f"event {number} is of another stream than the one that this call began with"
            )
        if number > self._next or number < 1:
            raise invalid_argument(f"event {number} follows event {self._next - 1}")
        await self._wait_for_room(size)
        stored = None
        if number == self._next:
            self._next += 1
            if number == self._unknown_from:
                await self._look(number)
            if number not in self._present:
                value = tool_event_value(self._who, message)
                stored = tasks.create_task(self._service.put(self._name.key(number), value))
        await self._pending.put(_Pending(request, size, stored))

    async def _wait_for_room(self, size: int) -> None:
        while self._pending_bytes and self._pending_bytes + size > _MAX_PENDING_BYTES:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        self._pending_bytes += size

    async def _acknowledge(self) -> None:
        """Answer the events in their order, each when it is stored."""
        while (pending := await self._pending.get()) is not None:
            if pending.stored is not None:
                await pending.stored
            if self._live is not None:
                self._live.add(pending.request)
            event = pending.request.ordered_build_event
            answer = pb.PublishBuildToolEventStreamResponse(
                stream_id=event.stream_id, sequence_number=event.sequence_number
            )
            self._pending_bytes -= pending.size
            if self._room is not None and not self._room.done():
                self._room.set_result(None)
            await self._sink.write(answer.SerializeToString())


def _parsed(message: Chunk) -> pb.PublishBuildToolEventStreamRequest:
    try:
        return pb.PublishBuildToolEventStreamRequest.FromString(bytes(message))
    except DecodeError as error:
        raise invalid_argument(f"malformed PublishBuildToolEventStreamRequest: {error}") from error


def _sender(call: CallContext) -> str:
    """Who publishes: whom the client names, or whom its certificate names."""
    return identity(call) or call.peer.subject
