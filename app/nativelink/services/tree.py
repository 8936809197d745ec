"""Walking a directory tree in the CAS, page by page.

The order is breadth first, each directory once, so the work is bounded by the number of different
directories and not by the number of paths to them. What is sent are the stored bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from nativelink.core.digest import Digest, digests_of
from nativelink.core.eager import run_all
from nativelink.core.errors import (
    Code,
    NativeLinkError,
    context,
    invalid_argument,
    not_found,
)
from nativelink.core.rpc import MessageSink
from nativelink.core.streams import Chunk
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.wire import varint
from nativelink.stores.store import Store, read_bytes

__all__ = ["TreeWalk"]

_DIRECTORY_TAG: Final = b"\x0a"
_TOKEN_TAG: Final = b"\x12"
#: Directories fetched at once, unless they are larger than a page together: enough to hide a remote
#: store's latency.
_FETCHED_AT_ONCE: Final = 32
#: A Directory message is small; a digest that names something large names no directory.
_MAX_DIRECTORY_BYTES: Final = 16 * 1024 * 1024
#: Different directories of one tree: far more than real ones have. A walk remembers each in 300
#: bytes, and a Directory names another one, which need not even be there, in 80.
_MAX_DIRECTORIES: Final = 500_000


class TreeWalk:
    """One GetTree call.

    A page token is the digest of the directory that the next page starts with: `{hash}-{size}`.
    Directories that the CAS lacks are left out, except the root (REAPI v2, GetTree).

    Args:
        store: where the directories are.
        root: where to start.
        page_size: directories in a page at most; 0 leaves it to `max_page_bytes`.
        max_page_bytes: bytes of directories in a page at most, unless a single one is larger.
        max_directories: different directories at most.
    """

    def __init__(
        self,
        store: Store,
        root: Digest,
        *,
        page_size: int,
        max_page_bytes: int,
        max_directories: int = _MAX_DIRECTORIES,
    ) -> None:
        self._store = store
        self._root = root
        self._page_size = page_size
        self._max_page_bytes = max_page_bytes
        self._max_directories = max_directories
        self._queue: deque[Digest] = deque((root,))
        self._seen = {root}
        #: Directories of the tree that are not there.
        self._absent = 0

    async def send(self, sink: MessageSink, page_token: str) -> None:
        """Send every page from `page_token` on, or from the root if it is empty.

        Raises:
            NativeLinkError: NOT_FOUND for a root that is not there, or a token that names a
                directory below one that is not there any more; INVALID_ARGUMENT for a token that
                names no directory of the tree, or a blob that is no directory;
                RESOURCE_EXHAUSTED for a tree of too many directories.
        """
        with context("page_token"):
            start = Digest.from_string(page_token) if page_token else self._root
        started = False
        page: list[bytes] = []
        page_bytes = 0
        while self._queue:
            batch = self._next_batch()
            found = await run_all([self._read(digest) for digest in batch])
            for digest, data in zip(batch, found, strict=True):
                started = started or digest == start
                if data is None:
                    self._absent += 1
                    continue
                if started:
                    size = len(_head(data)) + len(data)
                    full = len(page) == self._page_size > 0
                    if page and (full or page_bytes + size > self._max_page_bytes):
                        await sink.write(*_response(page, str(digest)))
                        page, page_bytes = [], 0
                    page.append(data)
                    page_bytes += size
                self._enqueue_children(digest, data)
        if not started and self._absent:
            raise not_found(
                f"the tree {self._root} cannot be read on from page_token {page_token[:100]!r}: "
                f"{self._absent} of its directories are not in the CAS any more"
            )
        if not started:
            raise invalid_argument(
                f"page_token {page_token[:100]!r} names no directory of the tree {self._root}"
            )
        await sink.write(*_response(page, ""))

    def _next_batch(self) -> list[Digest]:
        """What to fetch next: of the size of a page at most, but one directory at least."""
        batch: list[Digest] = []
        room = self._max_page_bytes
        while self._queue and len(batch) < _FETCHED_AT_ONCE:
            room -= self._queue[0].size_bytes
            if batch and room < 0:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _read(self, digest: Digest) -> bytes | None:
        if digest.size_bytes > _MAX_DIRECTORY_BYTES:
            raise invalid_argument(
                f"blob {digest} is not a Directory: none has more than {_MAX_DIRECTORY_BYTES} bytes"
            )
        try:
            return await read_bytes(self._store, digest, max_size=digest.size_bytes)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND and digest != self._root:
                return None
            raise

    def _enqueue_children(self, digest: Digest, data: bytes) -> None:
        try:
            directory = pb.Directory.FromString(data)
            children = digests_of([node.digest for node in directory.directories])
        except (DecodeError, NativeLinkError) as error:
            raise invalid_argument(f"blob {digest} is not a Directory: {error}") from error
        for child in children:
            if child not in self._seen:
                self._seen.add(child)
                self._queue.append(child)
        if len(self._seen) > self._max_directories:
            raise NativeLinkError(
                Code.RESOURCE_EXHAUSTED,
                f"the tree {self._root} has more than {self._max_directories} directories",
            )


def _response(directories: Sequence[bytes], next_page_token: str) -> list[Chunk]:
    """A GetTreeResponse in parts, without a copy of any directory."""
    parts: list[Chunk] = []
    for directory in directories:
        parts += (_head(directory), directory)
    if next_page_token:
        token = next_page_token.encode()
        parts += (_TOKEN_TAG + varint(len(token)), token)
    return parts


def _head(directory: bytes) -> bytes:
    return _DIRECTORY_TAG + varint(len(directory))
