"""The content-addressable storage: REAPI's ContentAddressableStorage without the large blobs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nativelink.core.digest import Digest, DigestFunction, digests_of
from nativelink.core.eager import run_all
from nativelink.core.errors import (
    Code,
    NativeLinkError,
    invalid_argument,
    unimplemented,
)
from nativelink.core.rpc import CallContext, MessageSink, Method, Reply
from nativelink.core.streams import BytesSink, BytesSource, Chunk
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.rpc import status_pb2
from nativelink.services.chunking import Chunking
from nativelink.services.compression import checking, compressed, expanded, unsupported
from nativelink.services.digest_functions import use_digest_function
from nativelink.services.find_missing import DigestTable, Question
from nativelink.services.instances import Instances
from nativelink.services.limits import (
    BATCH_ENTRY_BYTES,
    MAX_BATCH_ENTRIES,
    MAX_BATCH_REQUEST_BYTES,
    MAX_BATCH_TOTAL_SIZE_BYTES,
    MAX_MESSAGE_BYTES,
)
from nativelink.services.methods import method, service
from nativelink.services.tree import TreeWalk
from nativelink.services.wire import varint
from nativelink.stores.store import Store

__all__ = ["CasInstance", "CasService"]

_SERVICE: Final = service(pb.DESCRIPTOR, "ContentAddressableStorage")

# Both batch responses are repeated field 1 of entries: a read's of digest (1), data (2) and status
# (3), an update's of digest (1) and status (2), each of length-delimited type.
_ENTRY_TAG: Final = b"\x0a"
_DIGEST_TAG: Final = b"\x0a"
_DATA_TAG: Final = b"\x12"
_READ_STATUS_TAG: Final = b"\x1a"
_UPDATE_STATUS_TAG: Final = b"\x12"
#: What says in a read's entry that its data is compressed: field 4, the number of ZSTD.
_ZSTD_FIELD: Final = b"\x20\x01"
#: Compressed blobs unpacked at a time. A decoder takes 200 kB and the window that its stream asks
#: for, up to 8 MiB, however short that is: those of one batch would take gigabytes together.
_EXPANSIONS: Final = 16
#: Tag and length of a status's message, and what they add to the lengths around them.
_STATUS_MESSAGE_BYTES: Final = 8
#: Clients take answers of 4 MiB, and fail as a whole at one that is longer.
_ANSWER_FULL: Final = NativeLinkError(
    Code.RESOURCE_EXHAUSTED, "one answer cannot hold so many blobs: ask for this one again"
)


@dataclass(frozen=True, slots=True)
class CasInstance:
    """One instance.

    Attributes:
        store: where its blobs are.
        zstd: whether blobs may be zstd-compressed in batches.
        chunking: splits and splices its blobs; None if clients are not offered that.
        verified: whether the store checks what is put. If not, only compressed blobs and spliced
            ones are checked, here.
    """

    store: Store
    zstd: bool = False
    chunking: Chunking | None = None
    verified: bool = False


class CasService:
    """Serves the CAS of several instances.

    Args:
        instances: by name.
        default_function: the digest function of requests that name none.
        max_batch_total_size_bytes: bytes of blobs in one batch; the advertised limit, enforced.
        digest_table: of the digests that clients ask for again and again.
    """

    def __init__(
        self,
        instances: Mapping[str, CasInstance],
        *,
        default_function: DigestFunction = DigestFunction.SHA256,
        max_batch_total_size_bytes: int = MAX_BATCH_TOTAL_SIZE_BYTES,
        digest_table: DigestTable | None = None,
    ) -> None:
        self._instances = Instances("CAS", instances)
        self._default_function = default_function
        self._max_batch_bytes = max_batch_total_size_bytes
        self._table = DigestTable() if digest_table is None else digest_table
        self._expansions = asyncio.Semaphore(_EXPANSIONS)
        self._max_splice_bytes = max(
            (
                instance.chunking.max_request_bytes
                for instance in instances.values()
                if instance.chunking is not None
            ),
            default=0,
        )

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [
            method(_SERVICE, "FindMissingBlobs", self._find_missing_blobs, parse=self._table.parse),
            method(
                _SERVICE,
                "BatchUpdateBlobs",
                self._batch_update_blobs,
                min_message_bytes=min(2 * self._max_batch_bytes, MAX_BATCH_REQUEST_BYTES),
            ),
            method(_SERVICE, "BatchReadBlobs", self._batch_read_blobs),
            method(_SERVICE, "GetTree", self._get_tree),
            method(_SERVICE, "SplitBlob", self._split_blob),
            method(
                _SERVICE,
                "SpliceBlob",
                self._splice_blob,
                min_message_bytes=self._max_splice_bytes,
            ),
        ]

    async def _find_missing_blobs(self, question: Question, _context: CallContext) -> Reply:
        message = question.message
        store = self._instances.get(message.instance_name).store
        use_digest_function(message.digest_function, self._default_function)
        return question.answer(await store.has(self._table.read(question)))

    async def _batch_read_blobs(
        self, request: pb.BatchReadBlobsRequest, _context: CallContext
    ) -> Reply:
        instance = self._instances.get(request.instance_name)
        use_digest_function(request.digest_function, self._default_function)
        messages = request.digests
        digests = _each_digest(messages)
        size = sum(digest.size_bytes for digest in digests if isinstance(digest, Digest))
        self._check_batch(len(digests), size)
        room = _room(len(digests))
        if size > room:
            digests = _fitting(digests, room)
        blobs = await run_all([_read_entry(instance.store, digest) for digest in digests])
        fields = [b""] * len(blobs)
        if instance.zstd and pb.Compressor.ZSTD in request.acceptable_compressors:
            for at, frame in enumerate(await compressed(blobs)):
                if frame is not None:
                    blobs[at], fields[at] = frame, _ZSTD_FIELD
        return _read_answer(messages, blobs, fields, room - size)

    async def _batch_update_blobs(
        self, request: pb.BatchUpdateBlobsRequest, _context: CallContext
    ) -> Reply:
        instance = self._instances.get(request.instance_name)
        use_digest_function(request.digest_function, self._default_function)
        entries = request.requests
        blobs = [entry.data for entry in entries]
        compressors = [entry.compressor for entry in entries]
        messages = [entry.digest for entry in entries]
        self._check_batch(len(blobs), _plain_size(messages, blobs, compressors))
        outcomes = await run_all(
            [
                self._update_entry(instance, digest, data, compressor)
                for digest, data, compressor in zip(
                    _each_digest(messages), blobs, compressors, strict=True
                )
            ]
        )
        room = _room(len(messages))
        parts: list[bytes] = []
        for message, outcome in zip(messages, outcomes, strict=True):
            status = b""
            if outcome is not None:
                status, room = _status(outcome, room)
            parts.append(_entry(message.SerializeToString(), _UPDATE_STATUS_TAG, status))
        return b"".join(parts)

    async def _update_entry(
        self,
        instance: CasInstance,
        digest: Digest | NativeLinkError,
        data: bytes,
        compressor: int,
    ) -> NativeLinkError | None:
        """Store a blob; why it failed, or None."""
        if isinstance(digest, NativeLinkError):
            return digest
        store = instance.store
        if compressor != pb.Compressor.IDENTITY:
            if compressor != pb.Compressor.ZSTD or not instance.zstd:
                return unsupported(compressor, zstd=instance.zstd)
            try:
                async with self._expansions:
                    data = await expanded(data, digest.size_bytes)
            except NativeLinkError as error:
                return error
            store = checking(
                store, verified=instance.verified, default_function=self._default_function
            )
        if len(data) != digest.size_bytes:
            return invalid_argument(f"{len(data)} bytes were sent for blob {digest}")
        try:
            await store.put(digest, BytesSource(data))
        except NativeLinkError as error:
            return error
        return None

    async def _get_tree(
        self, request: pb.GetTreeRequest, _context: CallContext, sink: MessageSink
    ) -> None:
        store = self._instances.get(request.instance_name).store
        use_digest_function(request.digest_function, self._default_function)
        if request.page_size < 0:
            raise invalid_argument(
                f"page_size {request.page_size} is negative; 0 leaves the size to the server"
            )
        root = Digest.parse(request.root_digest.hash, request.root_digest.size_bytes)
        walk = TreeWalk(
            store, root, page_size=request.page_size, max_page_bytes=self._max_batch_bytes
        )
        await walk.send(sink, request.page_token)

    async def _split_blob(self, request: pb.SplitBlobRequest, _context: CallContext) -> Reply:
        chunking = self._chunking(request.instance_name, "SplitBlob", "read it with Read")
        use_digest_function(request.digest_function, self._default_function)
        digest = request.blob_digest
        return await chunking.split(Digest.parse(digest.hash, digest.size_bytes))

    async def _splice_blob(self, request: pb.SpliceBlobRequest, _context: CallContext) -> Reply:
        chunking = self._chunking(request.instance_name, "SpliceBlob", "upload it with Write")
        use_digest_function(request.digest_function, self._default_function)
        digest = request.blob_digest
        await chunking.splice(
            Digest.parse(digest.hash, digest.size_bytes),
            digests_of(request.chunk_digests),
            request.chunking_function,
        )
        return pb.SpliceBlobResponse(blob_digest=digest)

    def _chunking(self, instance_name: str, method_name: str, instead: str) -> Chunking:
        chunking = self._instances.get(instance_name).chunking
        if chunking is None:
            raise unimplemented(
                f"{method_name} is not enabled for instance {instance_name!r}: have the blob "
                f"whole, {instead} of ByteStream"
            )
        return chunking

    def _check_batch(self, count: int, size: int) -> None:
        if count > MAX_BATCH_ENTRIES:
            raise invalid_argument(
                f"a batch of {count} blobs is too large; {MAX_BATCH_ENTRIES} blobs are allowed: "
                "use several batches"
            )
        if size > self._max_batch_bytes:
            raise invalid_argument(
                f"a batch of {size} bytes is too large; {self._max_batch_bytes} bytes are allowed "
                "(max_batch_total_size_bytes): use several batches, or ByteStream for large blobs"
            )


def _each_digest(messages: Sequence[pb.Digest]) -> Sequence[Digest | NativeLinkError]:
    """Digests in order, each malformed one as its own error."""
    try:
        return digests_of(messages)
    except NativeLinkError:
        return [_digest_or_error(message) for message in messages]


def _digest_or_error(message: pb.Digest) -> Digest | NativeLinkError:
    try:
        return Digest.parse(message.hash, message.size_bytes)
    except NativeLinkError as error:
        return error


async def _read_entry(store: Store, digest: Digest | NativeLinkError) -> bytes | NativeLinkError:
    """A blob, or why there is none."""
    if isinstance(digest, NativeLinkError):
        return digest
    sink = BytesSink(digest.size_bytes)
    try:
        await store.get(digest, sink)
    except NativeLinkError as error:
        return error
    if sink.size != digest.size_bytes:
        return NativeLinkError(Code.DATA_LOSS, f"the store gave {sink.size} bytes of blob {digest}")
    return sink.getvalue()


def _plain_size(
    messages: Sequence[pb.Digest], blobs: Sequence[bytes], compressors: Sequence[int]
) -> int:
    """Bytes of the blobs in a batch, by what their digests say where they are compressed."""
    if not any(compressors):
        return sum(map(len, blobs))
    return sum(
        max(message.size_bytes, len(data)) if compressor else len(data)
        for message, data, compressor in zip(messages, blobs, compressors, strict=True)
    )


def _room(count: int) -> int:
    """Bytes for blobs and messages in an answer of `count` entries that clients take."""
    return MAX_MESSAGE_BYTES - count * BATCH_ENTRY_BYTES


def _fitting(
    digests: Sequence[Digest | NativeLinkError], room: int
) -> Sequence[Digest | NativeLinkError]:
    """The digests, as errors from where their blobs need more than `room` bytes."""
    fitting: list[Digest | NativeLinkError] = []
    for digest in digests:
        if isinstance(digest, Digest):
            room -= digest.size_bytes
        fitting.append(digest if room >= 0 else _ANSWER_FULL)
    return fitting


def _read_answer(
    messages: Sequence[pb.Digest],
    blobs: Sequence[bytes | NativeLinkError],
    fields: Sequence[bytes],
    room: int,
) -> bytes:
    """The bytes of a BatchReadBlobsResponse whose errors say no more than `room` bytes.

    `fields` are each blob's further fields, encoded.
    """
    parts: list[Chunk] = []
    heads: dict[tuple[int, int, int], tuple[bytes, bytes]] = {}
    for message, blob, more in zip(messages, blobs, fields, strict=True):
        name = message.SerializeToString()
        if isinstance(blob, NativeLinkError):
            status, room = _status(blob, room)
            parts.append(_entry(name, _READ_STATUS_TAG, status))
            continue
        # Blobs of equal size have equal tags and lengths around them.
        sizes = len(name), len(blob), len(more)
        head = heads.get(sizes)
        if head is None:
            before_data = _DATA_TAG + varint(len(blob))
            digest_head = _DIGEST_TAG + varint(len(name))
            size = len(digest_head) + len(name) + len(before_data) + len(blob) + len(more)
            head = heads[sizes] = _ENTRY_TAG + varint(size) + digest_head, before_data
        parts += (head[0], name, head[1], blob, more)
    return b"".join(parts)


def _status(error: NativeLinkError, room: int) -> tuple[bytes, int]:
    """An error's google.rpc.Status and the room after it; where there is none, just the code."""
    message = error.message
    left = room - len(message.encode()) - _STATUS_MESSAGE_BYTES
    if left < 0:
        message, left = "", room
    return status_pb2.Status(code=error.code, message=message).SerializeToString(), left


def _entry(name: bytes, status_tag: bytes, status: bytes) -> bytes:
    """A response's entry without data. A status that is not there is OK."""
    entry = _DIGEST_TAG + varint(len(name)) + name
    if status:
        entry += status_tag + varint(len(status)) + status
    return _ENTRY_TAG + varint(len(entry)) + entry
