"""Builds whose events a server took: listed, summed up, and what they printed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from google.protobuf.message import Message

from nativelink.client.digests import parse_digest
from nativelink.client.remote import Remote
from nativelink.core.errors import NativeLinkError
from nativelink.proto.google.protobuf.duration_pb2 import Duration
from nativelink.proto.google.protobuf.timestamp_pb2 import Timestamp
from nativelink.proto.nativelink.v1 import builds_pb2 as pb
from nativelink.services.builds.live import HEARTBEAT_S
from nativelink.stores.store import read_bytes

__all__ = [
    "BuildState",
    "CacheFigures",
    "cache_figures",
    "document_of",
    "end_of_blob",
    "get_build",
    "list_builds",
    "read_build_log",
    "seconds_of",
    "state_of",
]

_SERVICE: Final = "/nativelink.v1.Builds/"
_MAX_PAGE_SIZE: Final = 1000
#: A build whose server has heard nothing for so many heartbeats has lost its client.
_LOST_AFTER: Final = 3
#: Actions that Bazel does by itself, as making a symbolic link; no cache could know them.
_INTERNAL: Final = "internal"


class BuildState(StrEnum):
    """How a build stands."""

    UNKNOWN = "UNKNOWN"
    RUNNING = "RUNNING"
    #: It began, and nothing has been heard of it for minutes.
    LOST = "LOST"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """How many of the actions that Bazel did not do by itself came out of a cache.

    Attributes:
        hits: results of the remote cache or of a disk cache.
        actions: all of them.
    """

    hits: int
    actions: int

    @property
    def rate(self) -> float:
        """From 0.0 to 1.0."""
        return self.hits / self.actions


async def list_builds(
    remote: Remote, *, filter_: str = "", days: int = 0, limit: int = 0
) -> tuple[list[pb.Build], bool]:
    """The latest builds, the last one first, without their targets, tests and failures.

    Args:
        remote: who is asked.
        filter_: terms `field=value` joined by AND.
        days: how far to look back; 0 leaves it to the server.
        limit: give no more than these; 0: as many as a server gives at a time, 1000.

    Returns:
        The builds, and whether there are more.
    """
    request = pb.ListBuildsRequest(
        page_size=min(limit or _MAX_PAGE_SIZE, _MAX_PAGE_SIZE), filter=filter_, days=days
    )
    answer = await remote.call(f"{_SERVICE}ListBuilds", request, pb.ListBuildsResponse)
    return list(answer.builds), answer.more


async def get_build(remote: Remote, name: str = "", *, build_id: str = "") -> pb.Build:
    """One build; the latest if it is not named.

    Raises:
        NativeLinkError: NOT_FOUND; INVALID_ARGUMENT if several names begin so.
    """
    request = pb.GetBuildRequest(invocation_id=name, build_id=build_id)
    return await remote.call(f"{_SERVICE}GetBuild", request, pb.Build)


@asynccontextmanager
async def read_build_log(
    remote: Remote, name: str = "", *, build_id: str = ""
) -> AsyncIterator[AsyncIterator[pb.ReadBuildLogResponse]]:
    """What a build printed, piece by piece.

    Raises:
        NativeLinkError: as `get_build`.
    """
    request = pb.ReadBuildLogRequest(invocation_id=name, build_id=build_id)
    path = f"{_SERVICE}ReadBuildLog"
    async with remote.stream(path, request, pb.ReadBuildLogResponse) as answers:
        yield answers


def state_of(build: pb.Build, now: float) -> BuildState:
    """How a build stands at a time."""
    if build.state == pb.Build.RUNNING:
        silent_s = now - seconds_of(build.seen_time)
        return BuildState.LOST if silent_s > _LOST_AFTER * HEARTBEAT_S else BuildState.RUNNING
    name = pb.Build.State.Name(build.state) if build.state in pb.Build.State.values() else ""
    return BuildState(name) if name in BuildState.__members__ else BuildState.UNKNOWN


def cache_figures(build: pb.Build) -> CacheFigures | None:
    """What came out of a cache; None if Bazel has not told, or nothing was to do."""
    actions = sum(each.count for each in build.runners if each.name != _INTERNAL)
    hits = sum(each.count for each in build.runners if "cache hit" in each.name)
    return CacheFigures(hits, actions) if actions else None


def seconds_of(time: Timestamp | Duration) -> float:
    """A time, or a span of time, in seconds."""
    return time.seconds + time.nanos / 1e9


async def end_of_blob(remote: Remote, uri: str, size: int) -> str | None:
    """The end of a file that Bazel put into the CAS; None if it is not there, or elsewhere.

    Args:
        remote: the server.
        uri: as Bazel tells it, `bytestream://HOST/INSTANCE/blobs/HASH/SIZE`.
        size: bytes at its end.
    """
    parts = urlsplit(uri)
    if parts.scheme != "bytestream":
        return None
    instance = unquote(parts.path).partition("/blobs/")[0].strip("/")
    try:
        digest = parse_digest(uri)
        async with remote.blobs_of(instance) as cas:
            data = await read_bytes(cas, digest, offset=max(0, digest.size_bytes - size))
    except NativeLinkError:
        return None
    return data.decode("utf-8", "replace")


def document_of(build: pb.Build, now: float) -> dict[str, object]:
    """A build as JSON has it: times and spans in seconds, null for what is not known."""
    document = _document(build)
    figures = cache_figures(build)
    document["state"] = state_of(build, now)
    document["cache"] = None
    if figures is not None:
        document["cache"] = {"hits": figures.hits, "actions": figures.actions, "rate": figures.rate}
    return document


def _document(message: Message) -> dict[str, object]:
    document: dict[str, object] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            document[field.name] = dict(value)
        elif field.is_repeated:
            document[field.name] = [_plain(field, each) for each in value]
        elif field.has_presence and not message.HasField(field.name):
            document[field.name] = None
        else:
            document[field.name] = _plain(field, value)
    return document


def _plain(field: Any, value: Any) -> object:
    if isinstance(value, Timestamp | Duration):
        return seconds_of(value)
    if isinstance(value, Message):
        return _document(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        # A server may be newer than this program.
        return value if known is None else known.name
    return value
