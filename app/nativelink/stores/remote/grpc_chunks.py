"""SplitBlob and SpliceBlob of another server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from nativelink.core.digest import Digest, digests_of
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.retry import Retry
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.remote.byte_stream import Asked
from nativelink.stores.remote.messages import digest_message, parsed
from nativelink.stores.remote.upstream import Upstream

__all__ = ["UpstreamChunks"]

#: What servers take in one message unless they were told otherwise; some 50,000 chunks.
_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
#: Codes by which a server refuses what another way would do: it does not know the method, has a
#: lower limit of chunks or messages, or finds that they do not make the blob, as we shall too.
_REFUSALS: Final = frozenset(
    {
        Code.UNIMPLEMENTED,
        Code.INVALID_ARGUMENT,
        Code.RESOURCE_EXHAUSTED,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
    }
)


class UpstreamChunks:
    """`BlobSplitter` of a `grpc` store, as far as its upstream offers that.

    Args:
        upstream: says what it offers; it is asked once.
        instance_name: used upstream.
        retry: what is tried again.
        asked: makes what goes along with a call.
        call: calls a method of the upstream's CAS.
    """

    __slots__ = ("_asked", "_call", "_instance", "_retry", "_upstream")

    def __init__(
        self,
        upstream: Upstream,
        *,
        instance_name: str,
        retry: Retry,
        asked: Callable[[], Asked],
        call: Callable[[str, bytes, Asked], Awaitable[bytes]],
    ) -> None:
        self._upstream = upstream
        self._instance = instance_name
        self._retry = retry
        self._asked = asked
        self._call = call

    async def split(self, blob: Digest, average_size: int) -> Sequence[Digest] | None:
        abilities = await self._upstream.abilities()
        if abilities.split_average_bytes != average_size:
            return None
        asked = self._asked()
        request = pb.SplitBlobRequest(
            instance_name=self._instance,
            blob_digest=digest_message(blob),
            digest_function=asked.function.name,
            chunking_function=pb.ChunkingFunction.FAST_CDC_2020,
        )
        data = await self._answer("SplitBlob", request.SerializeToString(), asked)
        if data is None:
            return None
        answer = parsed(pb.SplitBlobResponse, data)
        if answer.chunking_function != pb.ChunkingFunction.FAST_CDC_2020:
            return None
        return digests_of(answer.chunk_digests)

    async def splice(self, blob: Digest, chunks: Sequence[Digest], function: int) -> bool:
        abilities = await self._upstream.abilities()
        if not abilities.splices:
            return False
        asked = self._asked()
        request = pb.SpliceBlobRequest(
            instance_name=self._instance,
            blob_digest=digest_message(blob),
            chunk_digests=map(digest_message, chunks),
            digest_function=asked.function.name,
            chunking_function=function,  # type: ignore[arg-type]  # any number is one on the wire
        ).SerializeToString()
        if len(request) > _MAX_MESSAGE_BYTES:
            return False
        return await self._answer("SpliceBlob", request, asked) is not None

    async def _answer(self, method: str, request: bytes, asked: Asked) -> bytes | None:
        """What the upstream answers, None if it refuses."""
        try:
            return await self._retry.run(lambda: self._call(method, request, asked))
        except NativeLinkError as error:
            if error.code in _REFUSALS:
                return None
            raise
