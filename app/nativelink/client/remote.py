"""A server that is asked, and how it is reached."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from nativelink.core.channel import Channel
from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError, invalid_argument
from nativelink.core.retry import Retry
from nativelink.stores.remote.grpc_cas import GrpcCasStore
from nativelink.stores.store import Store, read_bytes
from nativelink.transport.channel import GrpcChannel
from nativelink.transport.endpoints import Endpoint

__all__ = ["Remote", "open_remote"]

M = TypeVar("M", bound=Message)

#: A connection that breaks is worth two more tries; a person waits no longer for an answer.
_RETRY: Final = Retry(max_retries=2, delay_s=0.05, codes=frozenset({Code.UNAVAILABLE}))
#: Of a call that is answered at once. Reads and writes of blobs take as long as they need.
_TIMEOUT_S: Final = 60.0
_MAX_MESSAGE_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Remote:
    """One instance of a server.

    Attributes:
        endpoint: the server.
        channel: connections to it.
        instance_name: the instance.
        function: names its blobs.
        cas: its blobs.
    """

    endpoint: Endpoint
    channel: Channel
    instance_name: str
    function: DigestFunction
    cas: Store

    @asynccontextmanager
    async def blobs_of(self, instance_name: str) -> AsyncIterator[Store]:
        """The blobs of an instance of the same server."""
        async with _cas_of(self.channel, instance_name, self.function) as cas:
            yield cas

    async def call(
        self, path: str, request: Message, answer: type[M], *, timeout_s: float = _TIMEOUT_S
    ) -> M:
        """One unary call.

        Raises:
            NativeLinkError: what the server answered; UNAVAILABLE if it cannot be reached.
        """
        data = await self.channel.unary(path, request.SerializeToString(), timeout_s=timeout_s)
        return _parsed(answer, data, f"{path} answered what")

    @asynccontextmanager
    async def stream(
        self, path: str, request: Message, answer: type[M]
    ) -> AsyncIterator[AsyncIterator[M]]:
        """The answers of a call that has many; the end of the block cancels the call."""
        answers = self.channel.server_stream(path, request.SerializeToString())
        async with aclosing(answers):
            yield (_parsed(answer, data, f"{path} answered what") async for data in answers)

    async def message(self, digest: Digest, kind: type[M]) -> M:
        """A message in the CAS.

        Raises:
            NativeLinkError: NOT_FOUND; INVALID_ARGUMENT if the blob is another thing.
        """
        what = f"{kind.DESCRIPTOR.name} {digest}"
        if digest.size_bytes > _MAX_MESSAGE_BYTES:
            raise invalid_argument(
                f"{what}: no message has more than {_MAX_MESSAGE_BYTES} bytes; is it a file?"
            )
        try:
            data = await read_bytes(self.cas, digest, max_size=_MAX_MESSAGE_BYTES)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                raise NativeLinkError(
                    Code.NOT_FOUND, f"{what} is not in the CAS", details=error.details
                ) from error
            raise
        return _parsed(kind, data, f"blob {digest}")


@asynccontextmanager
async def open_remote(
    endpoint: Endpoint, *, instance_name: str, function: DigestFunction
) -> AsyncIterator[Remote]:
    """A server to ask. Nothing is connected before the first question.

    Raises:
        NativeLinkError: INVALID_ARGUMENT naming a TLS file that cannot be used.
    """
    async with (
        GrpcChannel([endpoint]) as channel,
        _cas_of(channel, instance_name, function) as cas,
    ):
        yield Remote(endpoint, channel, instance_name, function, cas)


def _cas_of(channel: Channel, instance_name: str, function: DigestFunction) -> GrpcCasStore:
    return GrpcCasStore(
        channel,
        instance_name=instance_name,
        retry=_RETRY,
        default_function=function,
        # Servers that know one function only know no names with functions.
        use_legacy_resource_names=function is DigestFunction.SHA256,
        compression=True,
    )


def _parsed(kind: type[M], data: bytes, what: str) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise invalid_argument(f"{what} is no {kind.DESCRIPTOR.name}") from error
