"""The `grpc` store of action results: the action cache of another server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from nativelink.core.channel import Channel
from nativelink.core.digest import Digest, DigestFunction, StoreKey, digest_function, is_empty
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError, invalid_argument, out_of_range
from nativelink.core.retry import Retry
from nativelink.core.streams import BytesSink, Sink, Source, drain
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.remote.call_metadata import CallMetadata
from nativelink.stores.remote.messages import digest_message
from nativelink.stores.store import absent

__all__ = ["GrpcAcStore"]

_ACTION_CACHE: Final = "/build.bazel.remote.execution.v2.ActionCache/"

#: What a peer takes in one message is 4 MiB unless it is told otherwise; no result comes near.
_MAX_RESULT_BYTES: Final = 64 * 1024 * 1024


class GrpcAcStore:
    """Encoded `ActionResult`s under the digests of their actions, in an upstream's action cache.

    The size of a value is the length of its encoding, so `has` costs as much as `get`.

    Args:
        channel: connections to the upstream; they must outlive this store.
        instance_name: used upstream.
        retry: what is tried again.
        metadata: makes request headers.
        default_function: digest function of calls that name none.
        timeout_s: of each call; None: as long as it needs.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        instance_name: str = "",
        retry: Retry | None = None,
        metadata: CallMetadata | None = None,
        default_function: DigestFunction = DigestFunction.SHA256,
        timeout_s: float | None = None,
    ) -> None:
        self._channel = channel
        self._instance = instance_name
        self._retry = retry or Retry()
        self._metadata = metadata or CallMetadata()
        self._default_function = default_function
        self._timeout_s = timeout_s

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        results = await run_all(self._find(key) for key in keys)
        return [None if result is None else len(result) for result in results]

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        result = await self._find(key)
        if result is None:
            raise absent(key)
        if offset > len(result):
            raise out_of_range(f"offset {offset} is beyond the {len(result)} bytes of {key}")
        if offset == 0 and (limit is None or limit >= len(result)):
            if result:
                await sink.write(result)
            return
        part = memoryview(result)[offset : None if limit is None else offset + limit]
        if part:
            await sink.write(part)

    async def put(self, key: StoreKey, source: Source) -> int:
        if not isinstance(key, Digest):
            raise invalid_argument(f"{key!r} is no digest: an action cache has digests of actions")
        if is_empty(key):
            return await drain(source)
        whole = BytesSink(_MAX_RESULT_BYTES)
        while chunk := await source.read():
            await whole.write(chunk)
        data = whole.getvalue()
        try:
            result = pb.ActionResult.FromString(data)
        except DecodeError as error:
            raise invalid_argument(f"what is put under {key} is no ActionResult") from error
        request = pb.UpdateActionResultRequest(
            instance_name=self._instance,
            action_digest=digest_message(key),
            action_result=result,
            digest_function=self._function(),
        )
        await self._call("UpdateActionResult", request.SerializeToString())
        return len(data)

    async def _find(self, key: StoreKey) -> bytes | None:
        """The encoded result as the upstream sent it, None if it has none."""
        if not isinstance(key, Digest):
            return None
        if is_empty(key):
            return b""
        request = pb.GetActionResultRequest(
            instance_name=self._instance,
            action_digest=digest_message(key),
            digest_function=self._function(),
        )
        try:
            return await self._call("GetActionResult", request.SerializeToString())
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise

    def _function(self) -> str:
        return (digest_function.get() or self._default_function).name

    async def _call(self, method: str, request: bytes) -> bytes:
        headers = self._metadata.now()
        return await self._retry.run(
            lambda: self._channel.unary(
                _ACTION_CACHE + method, request, metadata=headers, timeout_s=self._timeout_s
            )
        )
