"""Results of executions, out of an action cache and into it."""

from __future__ import annotations

import logging
from typing import Final

from google.protobuf.message import DecodeError

from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.scheduler.action import ActionKey
from nativelink.services.action_cache import MAX_RESULT_BYTES
from nativelink.services.wire import varint
from nativelink.services.worker_messages import complete_symlinks
from nativelink.stores.store import Store, read_bytes, write_bytes

__all__ = ["CachedResults"]

_log: Final = logging.getLogger(__name__)

#: ExecuteResponse: the tag of `result`, then `cached_result: true` and a `status` that is OK.
_RESULT_TAG: Final = b"\x0a"
_CACHED_AND_OK: Final = b"\x10\x01\x1a\x00"


class CachedResults:
    """ExecuteResponses for a scheduler, ActionResults in the cache.

    Args:
        store: the action cache. It decides whether a result counts; give one that checks
            completeness, as a client takes the outputs of an answer for granted.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def lookup(self, key: ActionKey) -> bytes | None:
        """The encoded ExecuteResponse of an action, None if there is no result.

        Raises:
            NativeLinkError: what the store raised, other than NOT_FOUND.
        """
        try:
            data = await read_bytes(self._store, key.digest, max_size=MAX_RESULT_BYTES)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise
        try:
            result = pb.ActionResult.FromString(data)
        except DecodeError:
            _log.warning(
                "the action cache holds %d bytes under %s that are no ActionResult",
                len(data),
                key.digest,
            )
            return None
        if complete_symlinks(result):
            data = result.SerializeToString()
        return b"".join((_RESULT_TAG, varint(len(data)), data, _CACHED_AND_OK))

    async def keep(self, key: ActionKey, response: bytes) -> None:
        """Cache the result of an action that succeeded (REAPI v2, Execution.Execute).

        Args:
            key: the action, which may be cached.
            response: an encoded ExecuteResponse; one that is no success is not kept.

        Raises:
            NativeLinkError: what the store raised.
        """
        executed = pb.ExecuteResponse.FromString(response)
        if executed.status.code or executed.result.exit_code or not executed.HasField("result"):
            return
        data = executed.result.SerializeToString()
        if len(data) <= MAX_RESULT_BYTES:
            await write_bytes(self._store, key.digest, data)
