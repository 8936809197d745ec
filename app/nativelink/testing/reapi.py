"""A small blocking REAPI client over grpcio: an independent peer for tests and benchmarks."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

import grpc
from google.protobuf.message import Message

from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.proto.google.bytestream import bytestream_pb2 as bs

__all__ = ["REAPI", "Metadata", "ReapiClient", "Stream", "digest_of"]

REAPI: Final = "/build.bazel.remote.execution.v2."
_BYTESTREAM: Final = "/google.bytestream.ByteStream/"
_Reply = TypeVar("_Reply", bound=Message)
_Reply_co = TypeVar("_Reply_co", bound=Message, covariant=True)
#: Headers of a call.
Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
_WRITE_CHUNK_BYTES: Final = 64 * 1024


class Stream(Protocol[_Reply_co]):
    """Answers as they arrive."""

    def __next__(self) -> _Reply_co: ...

    def __iter__(self) -> Iterator[_Reply_co]: ...

    def cancel(self) -> bool:
        """End the call."""
        ...


def digest_of(data: bytes) -> re.Digest:
    """The SHA-256 digest message of a blob."""
    return re.Digest(hash=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


class ReapiClient:
    """Calls of one instance over one channel; errors are `grpc.RpcError`.

    Args:
        address: `host:port`.
        instance: instance name, may be empty.
        credentials: for a TLS channel; None means plain HTTP/2.
        options: further grpcio channel arguments.
        timeout_s: deadline of each call.
    """

    def __init__(
        self,
        address: str,
        *,
        instance: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        options: Mapping[str, Any] | None = None,
        timeout_s: float = 60,
    ) -> None:
        arguments = {
            "grpc.max_receive_message_length": -1,
            "grpc.max_send_message_length": -1,
            "grpc.use_local_subchannel_pool": 1,
            **(options or {}),
        }
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=list(arguments.items()))
        else:
            self._channel = grpc.secure_channel(
                address, credentials, options=list(arguments.items())
            )
        self.instance = instance
        self._timeout_s = timeout_s

    def __enter__(self) -> ReapiClient:
        return self

    def __exit__(self, *reason: object) -> None:
        self._channel.close()

    def unary(self, method: str, request: Message, reply: type[_Reply]) -> _Reply:
        """One unary call.

        Args:
            method: a path, or one without the REAPI package: `Capabilities/GetCapabilities`.
            request: the message.
            reply: the answer's class.
        """
        call: grpc.UnaryUnaryMultiCallable[Message, _Reply] = self._channel.unary_unary(
            method if method.startswith("/") else REAPI + method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return call(request, timeout=self._timeout_s)

    def server_stream(
        self, method: str, request: Message, reply: type[_Reply], *, metadata: Metadata = ()
    ) -> Stream[_Reply]:
        """One call with many answers; it has no deadline. `method` as for `unary`."""
        call: grpc.UnaryStreamMultiCallable[Message, _Reply] = self._channel.unary_stream(
            method if method.startswith("/") else REAPI + method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return cast("Stream[_Reply]", call(request, metadata=tuple(metadata)))

    def capabilities(self) -> re.ServerCapabilities:
        """What the server says about itself."""
        request = re.GetCapabilitiesRequest(instance_name=self.instance)
        return self.unary("Capabilities/GetCapabilities", request, re.ServerCapabilities)

    def find_missing(self, digests: Iterable[re.Digest]) -> list[re.Digest]:
        """Those digests whose blobs are absent."""
        request = re.FindMissingBlobsRequest(instance_name=self.instance, blob_digests=digests)
        answer = self.unary(
            "ContentAddressableStorage/FindMissingBlobs", request, re.FindMissingBlobsResponse
        )
        return list(answer.missing_blob_digests)

    def batch_update(self, blobs: Sequence[bytes]) -> re.BatchUpdateBlobsResponse:
        """Upload small blobs in one call; each has its own status in the answer."""
        entry = re.BatchUpdateBlobsRequest.Request
        request = re.BatchUpdateBlobsRequest(
            instance_name=self.instance,
            requests=[entry(digest=digest_of(data), data=data) for data in blobs],
        )
        return self.unary(
            "ContentAddressableStorage/BatchUpdateBlobs", request, re.BatchUpdateBlobsResponse
        )

    def batch_read(self, digests: Iterable[re.Digest]) -> re.BatchReadBlobsResponse:
        """Download small blobs in one call."""
        request = re.BatchReadBlobsRequest(instance_name=self.instance, digests=digests)
        return self.unary(
            "ContentAddressableStorage/BatchReadBlobs", request, re.BatchReadBlobsResponse
        )

    def split(self, blob: re.Digest) -> re.SplitBlobResponse:
        """The chunks of a blob."""
        request = re.SplitBlobRequest(
            instance_name=self.instance,
            blob_digest=blob,
            chunking_function=re.ChunkingFunction.FAST_CDC_2020,
        )
        return self.unary("ContentAddressableStorage/SplitBlob", request, re.SplitBlobResponse)

    def splice(self, blob: re.Digest, chunks: Iterable[re.Digest]) -> re.Digest:
        """Make a blob of its chunks."""
        request = re.SpliceBlobRequest(
            instance_name=self.instance,
            blob_digest=blob,
            chunk_digests=chunks,
            chunking_function=re.ChunkingFunction.FAST_CDC_2020,
        )
        answer = self.unary("ContentAddressableStorage/SpliceBlob", request, re.SpliceBlobResponse)
        return answer.blob_digest

    def get_action_result(self, digest: re.Digest) -> re.ActionResult:
        """A cached result; NOT_FOUND where there is none."""
        request = re.GetActionResultRequest(instance_name=self.instance, action_digest=digest)
        return self.unary("ActionCache/GetActionResult", request, re.ActionResult)

    def update_action_result(self, digest: re.Digest, result: re.ActionResult) -> re.ActionResult:
        """Store a result."""
        request = re.UpdateActionResultRequest(
            instance_name=self.instance, action_digest=digest, action_result=result
        )
        return self.unary("ActionCache/UpdateActionResult", request, re.ActionResult)

    def read_name(self, digest: re.Digest, *, zstd: bool = False) -> str:
        """ByteStream resource name of a blob."""
        prefix = f"{self.instance}/" if self.instance else ""
        return f"{prefix}{_blobs(zstd)}/{digest.hash}/{digest.size_bytes}"

    def write_name(self, digest: re.Digest, *, zstd: bool = False) -> str:
        """ByteStream resource name of a new upload."""
        prefix = f"{self.instance}/" if self.instance else ""
        name = f"{_blobs(zstd)}/{digest.hash}/{digest.size_bytes}"
        return f"{prefix}uploads/{uuid.uuid4()}/{name}"

    def read_chunks(
        self, digest: re.Digest, *, offset: int = 0, limit: int = 0, zstd: bool = False
    ) -> Iterator[bytes]:
        """A blob's bytes, or the zstd stream of them, as they arrive."""
        call = self._channel.unary_stream(
            _BYTESTREAM + "Read",
            request_serializer=bs.ReadRequest.SerializeToString,
            response_deserializer=bs.ReadResponse.FromString,
        )
        request = bs.ReadRequest(
            resource_name=self.read_name(digest, zstd=zstd), read_offset=offset, read_limit=limit
        )
        for answer in call(request, timeout=self._timeout_s):
            yield answer.data

    def read(self, digest: re.Digest, *, offset: int = 0, limit: int = 0) -> bytes:
        """A blob, or the part of it."""
        return b"".join(self.read_chunks(digest, offset=offset, limit=limit))

    def write(self, data: bytes) -> int:
        """Upload a blob by ByteStream; the committed size."""
        return self.write_chunks(
            digest_of(data),
            (data[at : at + _WRITE_CHUNK_BYTES] for at in range(0, len(data), _WRITE_CHUNK_BYTES)),
        )

    def write_chunks(
        self, digest: re.Digest, chunks: Iterable[bytes], *, zstd_size: int | None = None
    ) -> int:
        """Upload a blob of any size from its chunks; the committed size.

        Args:
            digest: of the blob.
            chunks: of it, or of the zstd stream of it.
            zstd_size: bytes of the stream; None for a plain blob.
        """
        call = self._channel.stream_unary(
            _BYTESTREAM + "Write",
            request_serializer=bs.WriteRequest.SerializeToString,
            response_deserializer=bs.WriteResponse.FromString,
        )

        def requests() -> Iterator[bs.WriteRequest]:
            name, offset = self.write_name(digest, zstd=zstd_size is not None), 0
            size = digest.size_bytes if zstd_size is None else zstd_size
            for chunk in chunks:
                end = offset + len(chunk)
                yield bs.WriteRequest(
                    resource_name=name,
                    write_offset=offset,
                    data=chunk,
                    finish_write=end == size,
                )
                name, offset = "", end

        return int(call(requests(), timeout=self._timeout_s).committed_size)


def _blobs(zstd: bool) -> str:
    return "compressed-blobs/zstd" if zstd else "blobs"
