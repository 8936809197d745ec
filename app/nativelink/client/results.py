"""Results in an action cache, and the logs that belong to them."""

from __future__ import annotations

from typing import Final

from nativelink.client.remote import Remote
from nativelink.core.digest import Digest
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Sink
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.remote.messages import digest_message

__all__ = ["get_result", "write_log"]

_GET: Final = "/build.bazel.remote.execution.v2.ActionCache/GetActionResult"


async def get_result(remote: Remote, action: Digest) -> pb.ActionResult:
    """The cached result of an action.

    Raises:
        NativeLinkError: NOT_FOUND if there is none.
    """
    request = pb.GetActionResultRequest(
        instance_name=remote.instance_name,
        action_digest=digest_message(action),
        digest_function=remote.function.name,
    )
    try:
        return await remote.call(_GET, request, pb.ActionResult)
    except NativeLinkError as error:
        if error.code is Code.NOT_FOUND:
            raise NativeLinkError(
                Code.NOT_FOUND,
                f"the action cache has no result of {action} (instance {remote.instance_name!r})",
            ) from error
        raise


async def write_log(remote: Remote, inlined: bytes, digest: pb.Digest, sink: Sink) -> None:
    """An action's stdout or stderr, wherever it is: in its result, or in the CAS.

    Raises:
        NativeLinkError: NOT_FOUND.
    """
    if inlined:
        await sink.write(inlined)
    elif digest.size_bytes:
        await remote.cas.get(Digest.parse(digest.hash, digest.size_bytes), sink)
