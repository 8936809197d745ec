"""An ExecuteRequest made an `ActionInfo`: what is to run is read from the CAS and checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from nativelink.core.digest import Digest, DigestFunction, DigestMessage
from nativelink.core.eager import run_all
from nativelink.core.errors import (
    Code,
    MissingBlob,
    NativeLinkError,
    failed_precondition,
    invalid_argument,
)
from nativelink.core.rpc import CallContext
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.scheduler.action import ActionInfo, ActionKey, Origin
from nativelink.services.identity import identity
from nativelink.services.request_metadata import request_metadata
from nativelink.stores.recent import RecentMessages
from nativelink.stores.store import Store, has_one, read_bytes

__all__ = ["MAX_PROPERTIES", "origin_of", "read_action"]

M = TypeVar("M", bound=Message)

#: An Action is some hundred bytes; what is larger than this is something else.
_MAX_ACTION_BYTES: Final = 1024 * 1024
#: A Command is held in memory while it is read. Linux takes command lines of 2 MiB (ARG_MAX), and
#: output paths may be as many again.
_MAX_COMMAND_BYTES: Final = 16 * 1024 * 1024
#: Properties stay in memory while an action waits. Real platforms have fewer than twenty.
MAX_PROPERTIES: Final = 256
_MAX_PROPERTY_BYTES: Final = 64 * 1024


async def read_action(
    request: pb.ExecuteRequest,
    function: DigestFunction,
    cas: Store,
    call: CallContext,
    recent: RecentMessages,
) -> ActionInfo:
    """What a request wants executed.

    Args:
        request: names the Action.
        function: the request's digest function, or the default.
        cas: has the Action, its Command and its input root.
        call: tells who asks.
        recent: gets the messages.

    Raises:
        NativeLinkError: FAILED_PRECONDITION with a detail for each blob that is missing (REAPI
            v2, Execution.Execute); INVALID_ARGUMENT for what cannot be executed.
    """
    digest = Digest.parse(request.action_digest.hash, request.action_digest.size_bytes)
    action_data = await _read(cas, digest, "Action", _MAX_ACTION_BYTES)
    if action_data is None:
        raise _missing([digest], function)
    action = _parsed(pb.Action, action_data, digest)
    command_digest = _named(action.command_digest, digest, "command_digest")
    root_digest = _named(action.input_root_digest, digest, "input_root_digest")
    command_data, root = await run_all(
        (
            _read(cas, command_digest, "Command", _MAX_COMMAND_BYTES),
            _presence(cas, root_digest),
        )
    )
    absent = [
        blob
        for blob, found in ((command_digest, command_data), (root_digest, root))
        if found is None
    ]
    if absent:
        raise _missing(absent, function)
    assert command_data is not None
    command = _parsed(pb.Command, command_data, command_digest)
    if not command.arguments:
        raise invalid_argument(
            f"Command {command_digest} has no arguments; the first one names the program"
        )
    recent.keep(digest, action)
    recent.keep(command_digest, command)
    platform = action.platform if action.platform.properties else command.platform
    return ActionInfo(
        ActionKey(request.instance_name, function, digest),
        _properties(platform, digest),
        request.execution_policy.priority,
        _timeout_s(action, digest),
        request.skip_cache_lookup,
        action.do_not_cache,
        origin_of(call),
    )


def origin_of(call: CallContext) -> Origin:
    """Who makes a call."""
    metadata = request_metadata(call)
    who = identity(call) or call.peer.subject
    if metadata is None:
        return Origin(identity=who)
    return Origin(metadata.tool_invocation_id, metadata.target_id, metadata.action_mnemonic, who)


async def _read(cas: Store, digest: Digest, what: str, limit: int) -> bytes | None:
    """A message's bytes, None if it is missing."""
    if digest.size_bytes > limit:
        raise invalid_argument(f"{what} {digest} is too large: {limit} bytes are allowed for one")
    try:
        return await read_bytes(cas, digest, max_size=limit)
    except NativeLinkError as error:
        if error.code is Code.NOT_FOUND:
            return None
        raise


async def _presence(cas: Store, digest: Digest) -> bytes | None:
    """`b""` if a blob is there, None if it is missing."""
    return None if await has_one(cas, digest) is None else b""


def _named(message: DigestMessage, action: Digest, field: str) -> Digest:
    try:
        return Digest.parse(message.hash, message.size_bytes)
    except NativeLinkError as error:
        error.message = f"Action {action}: {field}: {error.message}"
        raise


def _parsed(kind: type[M], data: bytes, digest: Digest) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise invalid_argument(f"{digest} is no {kind.DESCRIPTOR.name} message: {error}") from error


def _missing(digests: Sequence[Digest], function: DigestFunction) -> NativeLinkError:
    names = " and ".join(map(str, digests))
    return failed_precondition(
        f"the CAS lacks {names}",
        details=[MissingBlob(digest, function.segment) for digest in digests],
    )


def _properties(platform: pb.Platform, digest: Digest) -> tuple[tuple[str, str], ...]:
    properties = [(each.name, each.value) for each in platform.properties]
    size = platform.ByteSize() if len(properties) > 1 else 0
    if len(properties) > MAX_PROPERTIES or size > _MAX_PROPERTY_BYTES:
        raise invalid_argument(
            f"Action {digest} has {len(properties)} platform properties of {size} bytes; "
            f"{MAX_PROPERTIES} of {_MAX_PROPERTY_BYTES} bytes together are allowed"
        )
    properties.sort()
    return tuple(properties)


def _timeout_s(action: pb.Action, digest: Digest) -> float | None:
    """Seconds that the action may run; None and 0 leave it to the worker (as in NativeLink)."""
    if not action.HasField("timeout"):
        return None
    seconds = action.timeout.seconds + action.timeout.nanos / 1e9
    if seconds < 0:
        raise invalid_argument(
            f"Action {digest} has a timeout of {seconds} seconds; none can be negative"
        )
    return seconds or None
