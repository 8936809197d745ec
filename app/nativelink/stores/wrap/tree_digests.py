"""The digests inside a Tree or Directory message of any size, read as a stream.

A tree of a million files is a message of a hundred megabytes. So the wire format (Protocol
Buffers Encoding, "Message Structure") is followed by hand down to whole directories, or to single
nodes where a directory is large, and only such pieces are parsed. Fields that are not known are
skipped, as any parser must.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from google.protobuf.message import DecodeError

from nativelink.core.digest import Digest
from nativelink.core.streams import Chunk
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.stores.store import Store

__all__ = ["DigestPairs", "EnoughError", "TreeDigests", "read_digests"]

#: Digests as they stand in messages: unchecked hash and size.
DigestPairs = list[tuple[str, int]]

#: Directories up to this size are parsed in one piece, larger ones node by node.
_WHOLE_BYTES: Final = 1024 * 1024

#: A node is a name, a digest and perhaps properties; a larger one is no node.
_MAX_NODE_BYTES: Final = 1024 * 1024

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5

_DIRECTORY_FILES: Final = 1
_TREE_ROOT: Final = 1
_TREE_CHILDREN: Final = 2


class EnoughError(Exception):
    """So many digests were collected that they should be looked at before there are more."""


class TreeDigests:
    """A sink for a Tree, or for one Directory, that collects the digests in it.

    Args:
        is_tree: whether the message is a Tree; else it is a Directory.

    Attributes:
        files: digests of files that were not taken yet.
        directories: digests of subdirectories, if the message is a Directory.
        size: bytes of the message so far.
    """

    #: Digests collected before they are taken: about 4 MiB of them.
    FLUSH_COUNT: Final = 20_000

    def __init__(self, *, is_tree: bool = True) -> None:
        self.size = 0
        self.files: DigestPairs = []
        self.directories: DigestPairs = []
        self._is_tree = is_tree
        self._buffer = bytearray()
        #: Bytes still to be passed over.
        self._skip = 0
        #: Bytes left of the directory that is read node by node; a lone Directory has no end.
        self._directory_left: float = 0 if is_tree else float("inf")

    async def write(self, chunk: Chunk, /) -> None:
        """Take a piece of the message.

        Raises:
            DecodeError: it is no such message.
            EnoughError: the piece was taken, and so should `files` be.
        """
        self.size += len(chunk)
        if self._skip >= len(chunk):
            self._skip -= len(chunk)
            return
        self._buffer += chunk
        position = self._skip
        self._skip = 0
        while (end := self._field(position)) is not None:
            position = end
        if position > len(self._buffer):
            self._skip = position - len(self._buffer)
            self._buffer.clear()
        else:
            del self._buffer[:position]
        if len(self.files) >= self.FLUSH_COUNT:
            raise EnoughError

    def take(self) -> DigestPairs:
        """The files collected so far, which are forgotten."""
        files, self.files = self.files, []
        return files

    def end(self) -> None:
        """Say that the message is over.

        Raises:
            DecodeError: it cannot end here.
        """
        if self._buffer or self._skip or (self._is_tree and self._directory_left):
            raise DecodeError("the message ends in the middle of a field")

    def _field(self, start: int) -> int | None:
        """Take the field that begins at `start`, if all of it that matters is there.

        Returns:
            Where the next field begins, None if more bytes are needed. It may begin behind the
            end of the buffer: what lies between is of no interest.
        """
        head = self._head(start)
        if head is None:
            return None
        number, wire_type, position, length = head
        end = position + length
        in_directory = self._directory_left > 0
        if wire_type == _LEN and in_directory and number in {1, 2}:
            if length > _MAX_NODE_BYTES:
                raise DecodeError(f"a node of {length} bytes")
            if end > len(self._buffer):
                return None
            self._node(number, self._slice(position, end))
        elif wire_type == _LEN and not in_directory and number in {_TREE_ROOT, _TREE_CHILDREN}:
            if length > _WHOLE_BYTES:
                self._directory_left = length
                return position
            if end > len(self._buffer):
                return None
            directory = reapi.Directory.FromString(self._slice(position, end))
            self.files += [(node.digest.hash, node.digest.size_bytes) for node in directory.files]
            return end
        if in_directory:
            self._directory_left -= end - start
            if self._directory_left < 0:
                raise DecodeError("a field is longer than its directory")
        return end

    def _node(self, number: int, data: bytes) -> None:
        if number == _DIRECTORY_FILES:
            digest = reapi.FileNode.FromString(data).digest
            self.files.append((digest.hash, digest.size_bytes))
        elif not self._is_tree:
            digest = reapi.DirectoryNode.FromString(data).digest
            self.directories.append((digest.hash, digest.size_bytes))

    def _slice(self, start: int, end: int) -> bytes:
        # By way of a view, which copies once; it must be gone before the buffer shrinks.
        return bytes(memoryview(self._buffer)[start:end])

    def _head(self, start: int) -> tuple[int, int, int, int] | None:
        """Number and wire type of the field at `start`, where its value begins, how long it is."""
        tag = self._varint(start)
        if tag is None:
            return None
        value, position = tag
        number, wire_type = value >> 3, value & 7
        if not number:
            raise DecodeError("field number 0")
        if wire_type == _LEN:
            length = self._varint(position)
            return None if length is None else (number, wire_type, length[1], length[0])
        if wire_type == _VARINT:
            varint = self._varint(position)
            return None if varint is None else (number, wire_type, varint[1], 0)
        if wire_type == _I64:
            return number, wire_type, position, 8
        if wire_type == _I32:
            return number, wire_type, position, 4
        raise DecodeError(f"wire type {wire_type}")

    def _varint(self, start: int) -> tuple[int, int] | None:
        """The number at `start` and where it ends, None if more bytes are needed."""
        buffer = self._buffer
        value = shift = 0
        for position in range(start, min(start + 10, len(buffer))):
            byte = buffer[position]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position + 1
            shift += 7
        if len(buffer) - start >= 10:
            raise DecodeError("a number of more than ten bytes")
        return None


async def read_digests(
    store: Store,
    key: Digest,
    require: Callable[[DigestPairs], Awaitable[None]],
    *,
    is_tree: bool,
) -> TreeDigests:
    """Read a Tree or a Directory, however many files are in it.

    Args:
        store: has it.
        key: its digest.
        require: looks at files, some thousands at a time, and may raise. No read is open
            meanwhile: where a store counts a read as a request to its end, one that waits for
            another request of that store could wait for ever.
        is_tree: whether it is a Tree.

    Returns:
        What is left: files that nobody has looked at, and directories.

    Raises:
        DecodeError: it is no such message.
        NativeLinkError: what the store raised.
    """
    found = TreeDigests(is_tree=is_tree)
    while True:
        try:
            await store.get(key, found, offset=found.size)
        except EnoughError:
            await require(found.take())
        else:
            found.end()
            return found
