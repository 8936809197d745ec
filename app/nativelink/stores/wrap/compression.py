"""A store that keeps blobs compressed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from nativelink.core.digest import MAX_SIZE_BYTES, Digest, StoreKey, is_empty
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSink, Sink, Source, drain
from nativelink.stores.store import DelegatingStore, Store
from nativelink.stores.wrap.compression_codecs import Codec
from nativelink.stores.wrap.compression_container import (
    TAIL_BYTES,
    CompressingSource,
    EnoughReadError,
    ExpandingSink,
    size_in_tail,
)

__all__ = ["CompressionStore"]

#: Sizes of string keys that are looked up at once.
_CONCURRENT_READS: Final = 16


class CompressionStore(DelegatingStore):
    """Keeps what passes in blocks compressed one by one, under the same keys.

    The bytes in the backend are NativeLink v1.6.6's with LZ4 (see `compression_container.py`).
    What another algorithm of ours wrote is read too, so the algorithm may be changed at any time.
    Memory is one block and one piece of the source per transfer.

    `has` answers the size in a digest for what is there under one: that is the blob's size in a
    CAS, and costs no read. The size of a value under a string is read from its last bytes.

    Args:
        backend: keeps the containers.
        codec: compresses what is put.
        block_size: bytes compressed together.
        max_block_size: containers of larger blocks are refused with DATA_LOSS, as each block is
            expanded in memory.
        report: told of every blob that was put: its bytes, and what it takes.
    """

    __slots__ = ("_block_size", "_codec", "_max_block_size", "_report")

    def __init__(
        self,
        backend: Store,
        codec: Codec,
        *,
        block_size: int,
        max_block_size: int,
        report: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(backend)
        self._codec = codec
        self._block_size = block_size
        self._max_block_size = max_block_size
        self._report = report

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        found = await self._backend.has(keys)
        sizes = [
            key[1] if size is not None and isinstance(key, Digest) else size
            for key, size in zip(keys, found, strict=True)
        ]
        strings = [
            at for at, key in enumerate(keys) if sizes[at] is not None and isinstance(key, str)
        ]
        for start in range(0, len(strings), _CONCURRENT_READS):
            some = strings[start : start + _CONCURRENT_READS]
            looked_up = await run_all(self._size(keys[at], sizes[at] or 0) for at in some)
            for at, size in zip(some, looked_up, strict=True):
                sizes[at] = size
        return sizes

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        if is_empty(key):
            await self._backend.get(key, sink, offset=offset, limit=limit)
            return
        expanding = ExpandingSink(
            sink, max_block_size=self._max_block_size, offset=offset, limit=limit
        )
        try:
            await self._backend.get(key, expanding)
        except EnoughReadError:
            return
        expanding.end()

    async def put(self, key: StoreKey, source: Source) -> int:
        if is_empty(key):
            return await drain(source)
        max_size = key.size_bytes if isinstance(key, Digest) else MAX_SIZE_BYTES
        compressing = CompressingSource(
            source, self._codec, block_size=self._block_size, max_size=max_size
        )
        await self._backend.put(key, compressing)
        if self._report is not None:
            self._report(compressing.plain_size, compressing.stored_size)
        return compressing.plain_size

    async def _size(self, key: StoreKey, stored: int) -> int | None:
        """The size of the blob in a container of `stored` bytes, None if it is gone."""
        tail = BytesSink()
        try:
            await self._backend.get(key, tail, offset=max(0, stored - TAIL_BYTES))
        except NativeLinkError as error:
            if error.code in (Code.NOT_FOUND, Code.OUT_OF_RANGE):
                return None
            raise
        data = tail.getvalue()
        if len(data) != TAIL_BYTES:
            return None
        return size_in_tail(data)
