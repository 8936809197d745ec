"""Build events as they are kept: keys, values, and the way back (NativeLink v1.6.6).

Every event is an object of its own, so that whoever processes events, NativeLink's tools or
somebody's own, finds them where NativeLink puts them:

- `BepEvent:le:{build_id}:{invocation_id}:{sequence_number}`, a PublishLifecycleEventRequest;
- `BepEvent:be:{build_id}:{invocation_id}:{sequence_number}`, a PublishBuildToolEventStreamRequest.

The value is a BepEvent around the very bytes that were sent. The component of a stream is no part
of NativeLink's keys; streams of other components than the tool's have it in front of the sequence
number, because they would overwrite the tool's events otherwise.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from nativelink.core.digest import StoreKey
from nativelink.core.eager import run_all
from nativelink.core.errors import invalid_argument
from nativelink.core.streams import Chunk
from nativelink.core.varint import varint
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution.events_pb2 import (
    BepEvent,
)
from nativelink.proto.google.devtools.build.v1.build_events_pb2 import StreamId
from nativelink.proto.google.devtools.build.v1.publish_build_event_pb2 import (
    OrderedBuildEvent,
    PublishBuildToolEventStreamRequest,
)
from nativelink.stores.store import Store, read_bytes

__all__ = [
    "BATCH",
    "StreamName",
    "checked_name",
    "keys_of",
    "lifecycle_key",
    "lifecycle_value",
    "stored_events",
    "tool_event_value",
]

#: Events that are asked for, or read, at a time.
BATCH: Final = 64
_BATCH_BYTES: Final = 1 << 20
#: UUIDs, as a rule. A colon would make two builds of one, a slash is no part of a file's name.
_ID: Final = re.compile(r"[^\s/:\x00-\x1f\x7f]{1,100}")
_OWN_COMPONENTS: Final = (StreamId.TOOL, StreamId.UNKNOWN_COMPONENT)
# Field numbers of BepEvent, shifted, with wire type 2 (protobuf encoding).
_IDENTITY: Final = b"\x12"
_LIFECYCLE_EVENT: Final = b"\x1a"
_BUILD_TOOL_EVENT: Final = b"\x22"


class StreamName(NamedTuple):
    """A stream of events: that of a build tool's invocation, or of another part of a build."""

    build_id: str
    invocation_id: str
    component: int = StreamId.TOOL

    @property
    def is_tools(self) -> bool:
        """Whether it is what a build tool tells of itself."""
        return self.component in _OWN_COMPONENTS

    def key(self, sequence_number: int) -> str:
        """Where an event of it is kept."""
        part = "" if self.is_tools else f"{StreamId.BuildComponent.Name(self.component)}:"
        return f"BepEvent:be:{self.build_id}:{self.invocation_id}:{part}{sequence_number}"


def checked_name(event: OrderedBuildEvent) -> StreamName:
    """The stream of an event of a build tool.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for names under which nothing can be kept.
    """
    stream = event.stream_id
    _check_id("build_id", stream.build_id)
    _check_id("invocation_id", stream.invocation_id)
    if stream.component not in StreamId.BuildComponent.values():
        raise invalid_argument(f"stream_id.component {stream.component} is unknown")
    return StreamName(stream.build_id, stream.invocation_id, stream.component)


def keys_of(name: StreamName, first: int, count: int) -> list[StoreKey]:
    """Where the events from number `first` on are kept."""
    return [name.key(number) for number in range(first, first + count)]


def lifecycle_key(event: OrderedBuildEvent) -> str:
    """Where an event of a build's life is kept; those of the whole build have no invocation.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for names under which nothing can be kept.
    """
    stream = event.stream_id
    _check_id("build_id", stream.build_id)
    if stream.invocation_id:
        _check_id("invocation_id", stream.invocation_id)
    return f"BepEvent:le:{stream.build_id}:{stream.invocation_id}:{event.sequence_number}"


def lifecycle_value(identity: str, request: Chunk) -> bytes:
    """A BepEvent around a PublishLifecycleEventRequest."""
    return _value(identity, _LIFECYCLE_EVENT, request)


def tool_event_value(identity: str, request: Chunk) -> bytes:
    """A BepEvent around a PublishBuildToolEventStreamRequest."""
    return _value(identity, _BUILD_TOOL_EVENT, request)


async def stored_events(
    store: Store, name: StreamName, first: int
) -> AsyncIterator[tuple[PublishBuildToolEventStreamRequest, str]]:
    """The events of a stream from number `first` up to the first that is missing.

    Yields:
        Each as it was sent, and who sent it. A megabyte is read at a time, or one event.

    Raises:
        NativeLinkError: what the store raises.
    """
    missing = False
    while not missing:
        keys = keys_of(name, first, BATCH)
        sizes = await store.has(keys)
        there = sizes.index(None) if None in sizes else BATCH
        missing = there < BATCH
        begin = 0
        while begin < there:
            end = begin + _batch([size or 0 for size in sizes[begin:there]])
            for value in await run_all(read_bytes(store, key) for key in keys[begin:end]):
                yield _parsed(value)
            begin = end
        first += BATCH


def _batch(sizes: Sequence[int]) -> int:
    """How many of the next values may be in memory together; one at least."""
    room = _BATCH_BYTES
    for number, size in enumerate(sizes):
        room -= size
        if room < 0:
            return max(1, number)
    return len(sizes)


def _parsed(value: bytes) -> tuple[PublishBuildToolEventStreamRequest, str]:
    try:
        event = BepEvent.FromString(value)
    except DecodeError:
        # Somebody else's object under our key; the stream goes on behind it.
        event = BepEvent()
    return event.build_tool_event, event.identity


def _value(identity: str, field: bytes, request: Chunk) -> bytes:
    name = identity.encode()
    head = _IDENTITY + varint(len(name)) + name if name else b""
    return b"".join((head, field, varint(len(request)), request))


def _check_id(what: str, value: str) -> None:
    if not _ID.fullmatch(value):
        raise invalid_argument(
            f"stream_id.{what} {value[:120]!r}: 1 to 100 characters are allowed, no spaces, "
            "slashes or colons"
        )
