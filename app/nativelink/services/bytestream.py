"""Large blobs: google.bytestream.ByteStream over the CAS (REAPI v2, ContentAddressableStorage)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError, invalid_argument, out_of_range
from nativelink.core.rpc import CallContext, MessageSink, MessageSource, Method, Reply
from nativelink.core.streams import BytesSource, Chunk
from nativelink.core.zstandard import CompressingSink
from nativelink.proto.google.bytestream import bytestream_pb2 as pb
from nativelink.services.compression import ZSTD, CompressedUpload, checking
from nativelink.services.digest_functions import use_digest_function
from nativelink.services.instances import Instances
from nativelink.services.methods import method, service
from nativelink.services.resource_name import ResourceName, parse_resource_name
from nativelink.services.upload import Upload, UploadName
from nativelink.services.uploads import Uploads, UploadStatistics
from nativelink.services.wire import WriteRequest, parse_write_request, varint
from nativelink.stores.store import Store, has_one

__all__ = ["ByteStreamInstance", "ByteStreamService"]

_SERVICE: Final = service(pb.DESCRIPTOR, "ByteStream")
#: Field 10 of ReadResponse, length-delimited.
_DATA_TAG: Final = b"\x52"


@dataclass(frozen=True, slots=True)
class ByteStreamInstance:
    """One instance.

    Attributes:
        store: where its blobs are.
        max_bytes_per_stream: bytes of a blob in one message of a read.
        persist_stream_on_disconnect_timeout_s: seconds that an upload without a call is kept.
        zstd: whether blobs may be transferred zstd-compressed too.
        verified: whether the store checks what is put. If not, only compressed uploads are
            checked, here.
    """

    store: Store
    max_bytes_per_stream: int = 64 * 1024
    persist_stream_on_disconnect_timeout_s: float = 60.0
    zstd: bool = False
    verified: bool = False


class ByteStreamService:
    """Serves reads and writes of blobs; an async context manager that owns the uploads.

    Args:
        instances: by name.
        default_function: the digest function of resource names that name none.
        uploads: the uploads under way.
    """

    def __init__(
        self,
        instances: Mapping[str, ByteStreamInstance],
        *,
        default_function: DigestFunction = DigestFunction.SHA256,
        uploads: Uploads | None = None,
    ) -> None:
        self._instances = Instances("byte stream", instances)
        self._default_function = default_function
        self._uploads = Uploads() if uploads is None else uploads

    async def __aenter__(self) -> ByteStreamService:
        await self._uploads.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._uploads.__aexit__(kind, error, trace)

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [
            method(_SERVICE, "Read", self._read),
            method(_SERVICE, "Write", self._write),
            method(_SERVICE, "QueryWriteStatus", self._query_write_status),
        ]

    def statistics(self) -> UploadStatistics:
        """What the uploads hold now."""
        return self._uploads.statistics()

    async def _read(
        self, request: pb.ReadRequest, _context: CallContext, sink: MessageSink
    ) -> None:
        name = parse_resource_name(request.resource_name)
        if name.uuid:
            raise invalid_argument(
                f"resource name {request.resource_name!r} is one of an upload; "
                "'{instance}/blobs/{hash}/{size}' is read"
            )
        instance = self._instance(name)
        offset, limit, size = request.read_offset, request.read_limit, name.digest.size_bytes
        if not 0 <= offset <= size:
            raise out_of_range(f"read_offset {offset} is outside the {size} bytes of {name.digest}")
        if limit < 0:
            raise invalid_argument(f"read_limit {limit} is negative; 0 reads to the end")
        expected = min(limit, size - offset) if limit else size - offset
        blob: _ReadSink | CompressingSink = _ReadSink(sink, instance.max_bytes_per_stream)
        if name.compressed:
            if limit:
                raise invalid_argument(
                    f"read_limit {limit} of a compressed blob; it must be 0 (REAPI v2), and "
                    "read_offset counts bytes of the plain blob"
                )
            blob = CompressingSink(blob, expected)
        await instance.store.get(name.digest, blob, offset=offset, limit=limit or None)
        if blob.size != expected:
            raise NativeLinkError(
                Code.DATA_LOSS,
                f"the store gave {blob.size} bytes of {expected} asked for of blob {name.digest}",
            )
        if isinstance(blob, CompressingSink):
            await blob.end()

    async def _write(self, source: MessageSource, context: CallContext) -> Reply:
        message = await source.read()
        if message is None:
            raise invalid_argument("the stream ended before its first request")
        request = parse_write_request(message)
        name = _upload_resource(request.resource_name)
        instance = self._instance(name)
        upload_name = self._upload_name(name)
        size = name.digest.size_bytes
        if self._uploads.resumable(upload_name, request.write_offset) is None:
            if await has_one(instance.store, name.digest) is not None:
                # REAPI v2: whoever uploads what is there already is told so at once.
                return pb.WriteResponse(committed_size=-1 if name.compressed else size)
            whole = request.finish_write and request.write_offset == 0
            if whole and len(request.data) == size and not name.compressed:
                await instance.store.put(name.digest, BytesSource(request.data))
                return pb.WriteResponse(committed_size=size)
        store = instance.store
        if name.compressed:
            store = checking(
                store, verified=instance.verified, default_function=self._default_function
            )
        with self._uploads.feeding(
            upload_name,
            store,
            request.write_offset,
            instance.persist_stream_on_disconnect_timeout_s,
            context,
        ) as upload:
            if name.compressed and not instance.verified and upload.store is instance.store:
                # Some of it is in the store already, unchecked.
                upload.abandon()
                raise NativeLinkError(
                    Code.ABORTED,
                    f"the upload of blob {name.digest} began uncompressed, and so cannot be "
                    "checked: begin it again",
                )
            fed = CompressedUpload(upload, request.write_offset) if name.compressed else upload
            await self._receive(upload, fed, request, source, context)
            return pb.WriteResponse(committed_size=await fed.finish(context))

    async def _receive(
        self,
        upload: Upload,
        fed: Upload | CompressedUpload,
        request: WriteRequest,
        source: MessageSource,
        context: CallContext,
    ) -> None:
        """Feed an upload with everything that a call sends."""
        resource_name = request.resource_name
        await fed.feed(context, request.write_offset, request.data)
        while not request.finish_write:
            message = await source.read()
            if message is None:
                raise invalid_argument(
                    f"the stream ended without finish_write after {upload.received} of the "
                    f"{upload.size} bytes of blob {upload.name.digest}; it can go on from there"
                )
            request = parse_write_request(message)
            if request.resource_name and request.resource_name != resource_name:
                raise invalid_argument(
                    f"resource name {request.resource_name[:300]!r} in a stream that started "
                    f"with {resource_name[:300]!r}"
                )
            await fed.feed(context, request.write_offset, request.data)

    async def _query_write_status(
        self, request: pb.QueryWriteStatusRequest, _context: CallContext
    ) -> Reply:
        name = _upload_resource(request.resource_name)
        instance = self._instance(name)
        upload = self._uploads.find(self._upload_name(name))
        if upload is not None:
            return pb.QueryWriteStatusResponse(committed_size=upload.committed)
        size = await has_one(instance.store, name.digest)
        if size is None:
            return pb.QueryWriteStatusResponse()
        return pb.QueryWriteStatusResponse(committed_size=name.digest.size_bytes, complete=True)

    def _instance(self, name: ResourceName) -> ByteStreamInstance:
        """The instance of a resource name, whose digest function becomes the call's."""
        instance = self._instances.get(name.instance)
        if name.compressed and not (instance.zstd and name.compressor == ZSTD):
            allowed = f"blobs and compressed-blobs/{ZSTD}" if instance.zstd else "blobs"
            raise invalid_argument(
                f"compressed-blobs/{name.compressor} is not enabled for instance "
                f"{name.instance!r}; use {allowed}"
            )
        if name.function is not None:
            use_digest_function(name.function, self._default_function)
        return instance

    def _upload_name(self, name: ResourceName) -> UploadName:
        return UploadName(
            name.instance, name.uuid, name.digest, name.function or self._default_function
        )


def _upload_resource(resource_name: str) -> ResourceName:
    name = parse_resource_name(resource_name)
    if not name.uuid:
        raise invalid_argument(
            f"resource name {resource_name!r} is not one of an upload; "
            "'{instance}/uploads/{uuid}/blobs/{hash}/{size}' is written"
        )
    return name


class _ReadSink:
    """Turns a blob's pieces into ReadResponse messages, without a copy."""

    __slots__ = ("_max_bytes", "_sink", "size")

    def __init__(self, sink: MessageSink, max_bytes: int) -> None:
        self._sink = sink
        self._max_bytes = max_bytes
        self.size = 0

    async def write(self, chunk: Chunk, /) -> None:
        size = len(chunk)
        self.size += size
        if size <= self._max_bytes:
            await self._sink.write(_DATA_TAG + varint(size), chunk)
            return
        view = memoryview(chunk)
        step = self._max_bytes
        head = _DATA_TAG + varint(step)
        whole = size - size % step
        await self._sink.write_slices(head, view[:whole], step)
        if whole < size:
            await self._sink.write(_DATA_TAG + varint(size - whole), view[whole:])
