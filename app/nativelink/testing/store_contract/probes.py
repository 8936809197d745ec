"""How the suites look at a store, without the production helpers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from nativelink.core.digest import EMPTY_DIGESTS, StoreKey
from nativelink.core.errors import NativeLinkError
from nativelink.core.streams import Chunk
from nativelink.stores.store import Store
from nativelink.testing.fakes import wait_until
from nativelink.testing.faults import Gate

__all__ = [
    "EMPTY",
    "SIZES",
    "RecordingSink",
    "cancelled_after",
    "fetch",
    "outcome",
    "reached",
]

#: Keys of the empty blob.
EMPTY: Final = sorted(EMPTY_DIGESTS)

#: Around the sizes at which stores change their ways: nothing, one piece, one buffer, many.
SIZES: Final = (1, 100, 4095, 4096, 4097, 32_768, 65_535, 65_536, 65_537, 300_001)


class RecordingSink:
    """Keeps the very pieces it gets and joins them only when asked.

    So a store that fills one buffer again and again, or writes an empty piece, is caught.
    """

    def __init__(self) -> None:
        self.pieces: list[Chunk] = []

    async def write(self, chunk: Chunk, /) -> None:
        assert len(chunk), "an empty piece was written"
        self.pieces.append(chunk)

    @property
    def data(self) -> bytes:
        """All that was written."""
        return b"".join(self.pieces)


async def fetch(store: Store, key: StoreKey, *, offset: int = 0, limit: int | None = None) -> bytes:
    """What a read writes."""
    sink = RecordingSink()
    await store.get(key, sink, offset=offset, limit=limit)
    return sink.data


async def cancelled_after(turns: int, work: Coroutine[Any, Any, Any]) -> bool:
    """Run `work` for some turns of the loop, cancel it, and say whether that hit it."""
    task = asyncio.Task(work, loop=asyncio.get_running_loop())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def reached(gate: Gate, task: asyncio.Task[Any]) -> None:
    """Wait until `task` stands at `gate`, which it must not pass by."""
    await wait_until(lambda: gate.waiting == 1 or task.done())
    assert gate.waiting == 1, "the call ended without waiting for its source or sink"


async def outcome(work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` returns, or the error that it raises."""
    try:
        return await work
    except NativeLinkError as error:
        return error
