"""What an upstream server says of itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from nativelink.core.channel import Channel
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.latch import Latch
from nativelink.core.retry import RETRIED_BY_DEFAULT, Retry
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.remote.call_metadata import Headers

__all__ = ["Abilities", "Upstream"]

#: Refusals of who asks, where headers of clients are forwarded.
_OF_THE_CALLER: Final = frozenset({Code.PERMISSION_DENIED, Code.UNAUTHENTICATED})

_GET_CAPABILITIES: Final = "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities"


class Abilities(NamedTuple):
    """The part of `ServerCapabilities` (REAPI v2) that a store goes by.

    Attributes:
        max_batch_bytes: blobs in one batch call; 0: it sets no limit.
        zstd: whether blobs may be transferred zstd-compressed.
        split_average_bytes: of a chunk that FAST_CDC_2020 makes of a blob there; 0: it does not
            split.
        splices: whether it makes blobs of chunks.
    """

    max_batch_bytes: int = 0
    zstd: bool = False
    split_average_bytes: int = 0
    splices: bool = False


class _Asking(Latch):
    """A question under way, and what came of it."""

    __slots__ = ("error",)

    def __init__(self) -> None:
        super().__init__()
        self.error: NativeLinkError | None = None


class Upstream:
    """Asks once, when it is first needed, and remembers.

    Attributes:
        known: the answer, once there is one.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        instance_name: str,
        headers: Callable[[], Headers],
        timeout_s: float | None,
        retry: Retry,
    ) -> None:
        self._channel = channel
        self._request = pb.GetCapabilitiesRequest(instance_name=instance_name).SerializeToString()
        self._headers = headers
        self._timeout_s = timeout_s
        self._retry = retry
        self._asking: _Asking | None = None
        self.known: Abilities | None = None

    async def abilities(self) -> Abilities:
        """What it can do; a server that does not say so is taken to be able to do the least.

        Raises:
            NativeLinkError: it cannot be asked now.
        """
        while self.known is None:
            asking = self._asking
            if asking is not None:
                await asking.wait()
                if asking.error is not None:
                    raise asking.error.copy()
                continue
            asking = self._asking = _Asking()
            try:
                abilities, is_final = await self._retry.run(self._ask)
                if not is_final:
                    return abilities
                self.known = abilities
            except NativeLinkError as error:
                asking.error = error
                raise
            finally:
                self._asking = None
                asking.set()
        return self.known

    async def _ask(self) -> tuple[Abilities, bool]:
        """The answer, and whether others would get it too."""
        ask: Awaitable[bytes] = self._channel.unary(
            _GET_CAPABILITIES, self._request, metadata=self._headers(), timeout_s=self._timeout_s
        )
        try:
            answer = pb.ServerCapabilities.FromString(await ask)
        except NativeLinkError as error:
            if error.code in RETRIED_BY_DEFAULT:
                raise
            # With the credentials of another caller it may answer.
            return Abilities(), error.code not in _OF_THE_CALLER
        cache = answer.cache_capabilities
        chunks = cache.fast_cdc_2020_params
        abilities = Abilities(
            max_batch_bytes=cache.max_batch_total_size_bytes,
            zstd=pb.Compressor.ZSTD in cache.supported_compressors,
            # Another seed makes other chunks of the same size.
            split_average_bytes=chunks.avg_chunk_size_bytes
            if cache.split_blob_support and not chunks.seed
            else 0,
            splices=cache.splice_blob_support,
        )
        return abilities, True
