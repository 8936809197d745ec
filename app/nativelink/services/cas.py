"""The content-addressable storage: REAPI's ContentAddressableStorage without the large blobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from nativelink.services.digest_functions import use_digest_function
from nativelink.services.find_missing import DigestTable, Question, parse_question
from nativelink.services.instances import Instances
from nativelink.services.limits import MAX_BATCH_TOTAL_SIZE_BYTES
from nativelink.services.methods import method, service
from nativelink.services.tree import TreeWalk
from nativelink.services.wire import varint
from nativelink.stores.store import Store

__all__ = ["CasService"]

_SERVICE: Final = service(pb.DESCRIPTOR, "ContentAddressableStorage")

# Both batch responses are repeated field 1 of entries: a read's of digest (1), data (2) and status
# (3), an update's of digest (1) and status (2), each of length-delimited type.
_ENTRY_TAG: Final = b"\x0a"
_DIGEST_TAG: Final = b"\x0a"
_DATA_TAG: Final = b"\x12"
_READ_STATUS_TAG: Final = b"\x1a"
_UPDATE_STATUS_TAG: Final = b"\x12"


class CasService:
    """Serves the CAS of several instances.

    Args:
        instances: each instance's store.
        default_function: the digest function of requests that name none.
        max_batch_total_size_bytes: bytes of blobs in one batch; the advertised limit, enforced.
        digest_table: of the digests that clients ask for again and again.
    """

    def __init__(
        self,
        instances: Mapping[str, Store],
        *,
        default_function: DigestFunction = DigestFunction.SHA256,
        max_batch_total_size_bytes: int = MAX_BATCH_TOTAL_SIZE_BYTES,
        digest_table: DigestTable | None = None,
    ) -> None:
        self._stores = Instances("CAS", instances)
        self._default_function = default_function
        self._max_batch_bytes = max_batch_total_size_bytes
        self._table = DigestTable() if digest_table is None else digest_table

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [
            method(_SERVICE, "FindMissingBlobs", self._find_missing_blobs, parse=parse_question),
            method(_SERVICE, "BatchUpdateBlobs", self._batch_update_blobs),
            method(_SERVICE, "BatchReadBlobs", self._batch_read_blobs),
            method(_SERVICE, "GetTree", self._get_tree),
            method(_SERVICE, "SplitBlob", self._split_blob),
            method(_SERVICE, "SpliceBlob", self._splice_blob),
        ]

    async def _find_missing_blobs(self, question: Question, _context: CallContext) -> Reply:
        message = question.message
        store = self._stores.get(message.instance_name)
        use_digest_function(message.digest_function, self._default_function)
        digests, pieces = self._table.read(question)
        sizes = await store.has(digests)
        return self._table.answer(question, digests, pieces, sizes)

    async def _batch_read_blobs(
        self, request: pb.BatchReadBlobsRequest, _context: CallContext
    ) -> Reply:
        store = self._stores.get(request.instance_name)
        use_digest_function(request.digest_function, self._default_function)
        messages = request.digests
        digests = _each_digest(messages)
        self._check_batch(
            sum(digest.size_bytes for digest in digests if isinstance(digest, Digest))
        )
        blobs = await run_all([_read_entry(store, digest) for digest in digests])

        parts: list[Chunk] = []
        heads: dict[tuple[int, int], tuple[bytes, bytes]] = {}
        for message, blob in zip(messages, blobs, strict=True):
            name = message.SerializeToString()
            if isinstance(blob, NativeLinkError):
                parts.append(_entry(name, _READ_STATUS_TAG, blob))
                continue
            # Blobs of equal size have equal tags and lengths around them.
            sizes = len(name), len(blob)
            head = heads.get(sizes)
            if head is None:
                before_data = _DATA_TAG + varint(len(blob))
                digest_head = _DIGEST_TAG + varint(len(name))
                size = len(digest_head) + len(name) + len(before_data) + len(blob)
                head = heads[sizes] = _ENTRY_TAG + varint(size) + digest_head, before_data
            parts += (head[0], name, head[1], blob)
        return b"".join(parts)

    async def _batch_update_blobs(
        self, request: pb.BatchUpdateBlobsRequest, _context: CallContext
    ) -> Reply:
        store = self._stores.get(request.instance_name)
        use_digest_function(request.digest_function, self._default_function)
        entries = request.requests
        blobs = [entry.data for entry in entries]
        self._check_batch(sum(map(len, blobs)))
        messages = [entry.digest for entry in entries]
        outcomes = await run_all(
            [
                _update_entry(store, digest, data, entry.compressor)
                for digest, data, entry in zip(_each_digest(messages), blobs, entries, strict=True)
            ]
        )
        return b"".join(
            [
                _entry(message.SerializeToString(), _UPDATE_STATUS_TAG, outcome)
                for message, outcome in zip(messages, outcomes, strict=True)
            ]
        )

    async def _get_tree(
        self, request: pb.GetTreeRequest, _context: CallContext, sink: MessageSink
    ) -> None:
        store = self._stores.get(request.instance_name)
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
        self._stores.get(request.instance_name)
        raise unimplemented(
            f"SplitBlob is not enabled for instance {request.instance_name!r}; "
            "read the blob with ByteStream.Read"
        )

    async def _splice_blob(self, request: pb.SpliceBlobRequest, _context: CallContext) -> Reply:
        self._stores.get(request.instance_name)
        raise unimplemented(
            f"SpliceBlob is not enabled for instance {request.instance_name!r}; "
            "upload the blob with ByteStream.Write"
        )

    def _check_batch(self, size: int) -> None:
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


async def _update_entry(
    store: Store, digest: Digest | NativeLinkError, data: bytes, compressor: int
) -> NativeLinkError | None:
    """Store a blob; why it failed, or None."""
    if isinstance(digest, NativeLinkError):
        return digest
    if compressor != pb.Compressor.IDENTITY:
        names = {number: name for name, number in pb.Compressor.Value.items()}
        return invalid_argument(
            f"compressor {names.get(compressor, compressor)} of blob {digest} is not enabled "
            "here; IDENTITY is"
        )
    if len(data) != digest.size_bytes:
        return invalid_argument(f"{len(data)} bytes were sent for blob {digest}")
    try:
        await store.put(digest, BytesSource(data))
    except NativeLinkError as error:
        return error
    return None


def _entry(name: bytes, status_tag: bytes, error: NativeLinkError | None) -> bytes:
    """A response's entry without data. A status that is not there is OK."""
    entry = _DIGEST_TAG + varint(len(name)) + name
    if error is not None:
        status = status_pb2.Status(code=error.code, message=error.message).SerializeToString()
        entry += status_tag + varint(len(status)) + status
    return _ENTRY_TAG + varint(len(entry)) + entry
