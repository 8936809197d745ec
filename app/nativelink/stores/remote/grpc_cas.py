"""The `grpc` store of blobs: the CAS of another server."""

from __future__ import annotations

from collections.abc import Awaitable, Hashable, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from operator import attrgetter
from types import TracebackType
from typing import Final, NamedTuple, cast

from nativelink.core.channel import Channel
from nativelink.core.digest import (
    Digest,
    DigestFunction,
    StoreKey,
    digest_function,
    is_empty,
)
from nativelink.core.eager import run_all
from nativelink.core.errors import (
    Code,
    NativeLinkError,
    internal,
    invalid_argument,
    missing_blob,
    out_of_range,
)
from nativelink.core.retry import Retry
from nativelink.core.streams import BytesSource, Chunk, Sink, Source, drain
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.rpc.status_pb2 import Status
from nativelink.stores.remote.batches import Batches
from nativelink.stores.remote.byte_stream import Asked, ByteStreamClient
from nativelink.stores.remote.call_metadata import CallMetadata
from nativelink.stores.remote.grpc_chunks import UpstreamChunks
from nativelink.stores.remote.messages import parsed
from nativelink.stores.remote.upstream import Abilities, Upstream
from nativelink.stores.store import absent

__all__ = ["Batching", "GrpcCasStore"]

_CAS: Final = "/build.bazel.remote.execution.v2.ContentAddressableStorage/"

#: Digests of one FindMissingBlobs: 25,000 x 80 bytes = 2 MB, half of what a message may have.
_MAX_DIGESTS: Final = 25_000

#: An entry of a batch around its blob: digest, status, lengths.
_ENTRY_BYTES: Final = 112

#: Smaller blobs are not worth compressing (NativeLink v1.6.6).
_MIN_COMPRESSED_BYTES: Final = 64 * 1024

_HASH_AND_SIZE: Final = attrgetter("hash", "size_bytes")


class Batching(NamedTuple):
    """How small blobs travel together.

    Attributes:
        max_blob_bytes: larger blobs travel alone.
        max_batch_bytes: blobs of one call, with 112 bytes around each.
        slots: calls in flight, of each kind.
        max_queued_bytes: blobs that may wait for a call; what comes then travels alone.
    """

    max_blob_bytes: int = 128 * 1024
    max_batch_bytes: int = 3 * 1024 * 1024
    slots: int = 4
    max_queued_bytes: int = 32 * 1024 * 1024


class GrpcCasStore:
    """Blobs in the CAS of an upstream server. An async context manager.

    Small blobs that are read, or written, in the same turn of the event loop share a call.

    Args:
        channel: connections to the upstream; they must outlive this store.
        instance_name: used upstream.
        retry: what is tried again.
        metadata: makes request headers.
        default_function: digest function of calls that name none.
        timeout_s: of each call; None: as long as it needs.
        use_legacy_resource_names: leave the digest function out of ByteStream names.
        compression: transfer larger blobs zstd-compressed if the upstream can.
        batching: sizes of batches; None: the usual ones, or less if the upstream says so.

    Attributes:
        chunks: splits and splices blobs in the upstream.
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
        use_legacy_resource_names: bool = False,
        compression: bool = False,
        batching: Batching | None = None,
    ) -> None:
        self._channel = channel
        self._instance = instance_name
        self._retry = retry or Retry()
        self._metadata = metadata or CallMetadata()
        self._default_function = default_function
        self._timeout_s = timeout_s
        self._compression = compression
        self._streams = ByteStreamClient(
            channel,
            instance_name=instance_name,
            legacy_names=use_legacy_resource_names,
            timeout_s=timeout_s,
            retry=self._retry,
        )
        self._upstream = Upstream(
            channel,
            instance_name=instance_name,
            headers=self._metadata.now,
            timeout_s=timeout_s,
            retry=self._retry,
        )
        self.chunks = UpstreamChunks(
            self._upstream,
            instance_name=instance_name,
            retry=self._retry,
            asked=self._asked,
            call=self._call,
        )
        self._batching = batching or Batching()
        self._batching_is_default = batching is None
        #: None until the upstream said what it can do.
        self._abilities: Abilities | None = None
        self._max_blob_bytes = self._batching.max_blob_bytes
        self._reads = Batches[Digest, bytes](
            self._read_batch,
            max_bytes=self._batching.max_batch_bytes,
            slots=self._batching.slots,
            max_queued_bytes=self._batching.max_queued_bytes,
        )
        self._writes = Batches[tuple[Digest, bytes], None](
            self._write_batch,
            max_bytes=self._batching.max_batch_bytes,
            slots=self._batching.slots,
            max_queued_bytes=self._batching.max_queued_bytes,
        )
        self._lifetime = AsyncExitStack()

    async def __aenter__(self) -> GrpcCasStore:
        await self._lifetime.enter_async_context(self._reads)
        await self._lifetime.enter_async_context(self._writes)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._lifetime.aclose()

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        wanted = {key for key in keys if isinstance(key, Digest) and not is_empty(key)}
        missing: set[Digest] = set()
        if wanted:
            asked = self._asked()
            digests = list(wanted)
            parts = [
                digests[start : start + _MAX_DIGESTS]
                for start in range(0, len(digests), _MAX_DIGESTS)
            ]
            for found in await run_all(self._find_missing(part, asked) for part in parts):
                missing |= found
        return [
            key.size_bytes if isinstance(key, Digest) and key not in missing else None
            for key in keys
        ]

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        if not isinstance(key, Digest):
            raise absent(key)
        size = key.size_bytes
        if offset >= size or limit == 0:
            # Nothing to write; what is left to tell is whether the blob is there.
            if not is_empty(key) and (await self.has((key,)))[0] is None:
                raise missing_blob(key)
            if offset > size:
                raise out_of_range(f"offset {offset} is beyond the {size} bytes of {key}")
            return
        asked = self._asked()
        if offset or (limit is not None and limit < size):
            await self._streams.read(key, sink, asked, offset=offset, limit=limit)
            return
        abilities = self._abilities or await self._learn()
        if size <= self._max_blob_bytes and self._reads.has_room(size):
            ask = partial(self._reads.ask, key, size + _ENTRY_BYTES, asked)
            try:
                data = await self._retry.run(ask)
            except NativeLinkError as error:
                self._unless_unbatched(error)
            else:
                await sink.write(data)
                return
        compressed = self._compression and abilities.zstd and size >= _MIN_COMPRESSED_BYTES
        await self._streams.read(key, sink, asked, compressed=compressed)

    async def put(self, key: StoreKey, source: Source) -> int:
        if not isinstance(key, Digest):
            raise invalid_argument(f"{key!r} is no digest: a remote CAS keeps blobs only")
        if is_empty(key):
            return await drain(source)
        asked = self._asked()
        size = key.size_bytes
        abilities = self._abilities or await self._learn()
        if size <= self._max_blob_bytes and self._writes.has_room(size):
            data = await _read_exactly(source, key)
            ask = partial(self._writes.ask, (key, data), size + _ENTRY_BYTES, asked)
            try:
                await self._retry.run(ask)
            except NativeLinkError as error:
                self._unless_unbatched(error)
                source = BytesSource(data)
            else:
                return size
        compressed = self._compression and abilities.zstd and size >= _MIN_COMPRESSED_BYTES
        return await self._streams.write(key, source, asked, compressed=compressed)

    async def get_tree(self, root: Digest) -> Sequence[bytes]:
        """`TreeSource`: one GetTree."""
        asked = self._asked()
        request = pb.GetTreeRequest(
            instance_name=self._instance, digest_function=asked.function.name
        )
        request.root_digest.hash, request.root_digest.size_bytes = root
        data = request.SerializeToString()
        return await self._retry.run(lambda: self._pages(data, asked))

    async def _pages(self, request: bytes, asked: Asked) -> list[bytes]:
        directories: list[bytes] = []
        stream = self._channel.server_stream(
            _CAS + "GetTree", request, metadata=asked.headers, timeout_s=self._timeout_s
        )
        async with aclosing(stream) as pages:
            async for page in pages:
                for directory in parsed(pb.GetTreeResponse, page).directories:
                    directories.append(directory.SerializeToString(deterministic=True))
        return directories

    def _unless_unbatched(self, error: NativeLinkError) -> None:
        """Go on without batches if the upstream has none.

        Raises:
            NativeLinkError: `error`, if it means something else.
        """
        if error.code is not Code.UNIMPLEMENTED:
            raise error
        self._max_blob_bytes = 0

    def _asked(self) -> Asked:
        return Asked(digest_function.get() or self._default_function, self._metadata.now())

    async def _learn(self) -> Abilities:
        """Ask the upstream what it can do, until it says so."""
        abilities = await self._upstream.abilities()
        self._abilities = self._upstream.known
        if self._batching_is_default and abilities.max_batch_bytes > 0:
            # An operator who sets limits knows better: NativeLink offers 64 KiB and takes 4 MiB.
            limit = min(self._batching.max_batch_bytes, abilities.max_batch_bytes)
            self._reads.max_bytes = self._writes.max_bytes = limit
            self._max_blob_bytes = min(self._max_blob_bytes, max(0, limit - _ENTRY_BYTES))
        return abilities

    async def _find_missing(self, digests: Sequence[Digest], asked: Asked) -> set[Digest]:
        request = pb.FindMissingBlobsRequest(
            instance_name=self._instance, digest_function=asked.function.name
        )
        # Half the price of making messages and handing them over.
        add = request.blob_digests.add
        for hash_, size in digests:
            add(hash=hash_, size_bytes=size)
        data = request.SerializeToString()
        answer = await self._retry.run(lambda: self._call("FindMissingBlobs", data, asked))
        missing = parsed(pb.FindMissingBlobsResponse, answer).missing_blob_digests
        return {Digest(*_HASH_AND_SIZE(each)) for each in missing}

    async def _read_batch(
        self, digests: list[Digest], group: Hashable
    ) -> list[bytes | NativeLinkError]:
        asked = cast("Asked", group)
        request = pb.BatchReadBlobsRequest(
            instance_name=self._instance, digest_function=asked.function.name
        )
        add = request.digests.add
        for hash_, size in dict.fromkeys(digests):
            add(hash=hash_, size_bytes=size)
        answer = await self._call("BatchReadBlobs", request.SerializeToString(), asked)
        got: dict[tuple[str, int], bytes | NativeLinkError] = {
            _HASH_AND_SIZE(each.digest): _blob_of(each)
            for each in parsed(pb.BatchReadBlobsResponse, answer).responses
        }
        return [got.get(digest) or _left_out(digest) for digest in digests]

    async def _write_batch(
        self, blobs: list[tuple[Digest, bytes]], group: Hashable
    ) -> list[NativeLinkError | None]:
        asked = cast("Asked", group)
        request = pb.BatchUpdateBlobsRequest(
            instance_name=self._instance, digest_function=asked.function.name
        )
        for digest, data in dict(blobs).items():
            entry = request.requests.add(data=data)
            entry.digest.hash, entry.digest.size_bytes = digest
        answer = await self._call("BatchUpdateBlobs", request.SerializeToString(), asked)
        got: dict[tuple[str, int], NativeLinkError | None] = {
            _HASH_AND_SIZE(each.digest): _error_of(each.digest, each.status)
            for each in parsed(pb.BatchUpdateBlobsResponse, answer).responses
        }
        return [got[digest] if digest in got else _left_out(digest) for digest, _ in blobs]

    def _call(self, method: str, request: bytes, asked: Asked) -> Awaitable[bytes]:
        return self._channel.unary(
            _CAS + method, request, metadata=asked.headers, timeout_s=self._timeout_s
        )


def _blob_of(entry: pb.BatchReadBlobsResponse.Response) -> bytes | NativeLinkError:
    error = _error_of(entry.digest, entry.status)
    if error is not None:
        return error
    if len(entry.data) != entry.digest.size_bytes:
        return NativeLinkError(
            Code.DATA_LOSS,
            f"the upstream sent {len(entry.data)} of the {entry.digest.size_bytes} bytes of "
            f"{entry.digest.hash}",
        )
    return entry.data


def _error_of(digest: pb.Digest, status: Status) -> NativeLinkError | None:
    """What the status of a batch's entry says."""
    if status.code == Code.OK:
        return None
    if status.code == Code.NOT_FOUND:
        return missing_blob(Digest(digest.hash, digest.size_bytes))
    try:
        code = Code(status.code)
    except ValueError:
        code = Code.UNKNOWN
    return NativeLinkError(code, status.message)


def _left_out(digest: Digest) -> NativeLinkError:
    return internal(f"the upstream left {digest} out of its answer")


async def _read_exactly(source: Source, digest: Digest) -> bytes:
    """The whole of a small source.

    Raises:
        NativeLinkError: INVALID_ARGUMENT if it has another size than the digest.
    """
    chunks: list[Chunk] = []
    size = 0
    while chunk := await source.read():
        chunks.append(chunk)
        size += len(chunk)
        if size > digest.size_bytes:
            raise invalid_argument(f"{digest}: more than {digest.size_bytes} bytes were put")
    if size < digest.size_bytes:
        raise invalid_argument(f"{digest}: only {size} bytes were put")
    only = chunks[0]
    return only if len(chunks) == 1 and isinstance(only, bytes) else b"".join(chunks)
