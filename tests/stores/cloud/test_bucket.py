"""What one bucket's requests cost each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from obstore.store import MemoryStore as ObjectsInMemory

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.streams import Chunk, Pipe
from nativelink.stores.cloud import object_store
from nativelink.stores.cloud.bucket import Bucket
from nativelink.stores.cloud.keys import Keys
from nativelink.stores.cloud.object_store import CloudObjectStore
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import FakeClock, PiecesSource, wait_until

MIB = 1024 * 1024
SMALL = b"small"
SMALL_KEY = DigestFunction.SHA256.digest_of(SMALL)
LARGE_KEY = Digest("a" * 64, 12 * MIB)


def store_of_one_request() -> CloudObjectStore:
    bucket = Bucket(ObjectsInMemory(), name="memory://", max_concurrent_requests=1)
    return CloudObjectStore(bucket, keys=Keys(), clock=FakeClock())


async def test_a_client_that_uploads_slowly_keeps_nobody_from_the_bucket() -> None:
    store = store_of_one_request()
    await write_bytes(store, SMALL_KEY, SMALL)
    slow = Pipe()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(60):
        uploading = tasks.create_task(store.put(LARGE_KEY, slow))
        for _ in range(6):
            await slow.write(bytes(MIB))
        # The upload in parts has begun, and waits for its client.
        assert await store.has([SMALL_KEY]) == [len(SMALL)]
        assert await read_bytes(store, SMALL_KEY) == SMALL
        for _ in range(6):
            await slow.write(bytes(MIB))
        slow.close()
    assert uploading.result() == 12 * MIB


async def test_a_blob_may_be_put_together_from_what_the_bucket_has() -> None:
    store = store_of_one_request()
    piece = bytes(MIB)
    piece_key = DigestFunction.SHA256.digest_of(piece)
    await write_bytes(store, piece_key, piece)

    class Spliced:
        size: int | None = None
        left = 12

        async def read(self) -> Chunk:
            self.left -= 1
            return b"" if self.left < 0 else await read_bytes(store, piece_key)

    async with asyncio.timeout(60):
        assert await store.put(LARGE_KEY, Spliced()) == 12 * MIB
    assert await store.has([LARGE_KEY]) == [12 * MIB]


class Told(Bucket):
    """Notes how many parts of each upload may travel, and lets none end before it is told."""

    def __init__(self) -> None:
        super().__init__(ObjectsInMemory(), name="memory://")
        self.at_once: list[int] = []
        self.may_end = asyncio.Event()

    async def write_parts(
        self, path: str, parts: AsyncIterator[Chunk], *, part_bytes: int, max_concurrent: int
    ) -> None:
        self.at_once.append(max_concurrent)
        async for _ in parts:
            pass
        await self.may_end.wait()


@pytest.mark.parametrize(
    ("wanted", "claimed", "travelling"),
    [(10, 6 * MIB, 10), (100, 6 * MIB, 100), (10, 480 * 1024 * MIB, 5), (10, 5 * 1024**4, 1)],
)
async def test_a_blob_that_claims_to_be_huge_costs_no_more_memory(
    wanted: int, claimed: int, travelling: int
) -> None:
    bucket = Told()
    bucket.may_end.set()
    store = CloudObjectStore(bucket, keys=Keys(), clock=FakeClock(), max_concurrent_parts=wanted)
    await store.put(Digest("a" * 64, claimed), PiecesSource(*[bytes(MIB)] * 6))
    assert bucket.at_once == [travelling]


async def test_many_uploads_share_what_a_few_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_SHARED_PARTS", 12)
    bucket = Told()
    store = CloudObjectStore(bucket, keys=Keys(), clock=FakeClock(), max_concurrent_parts=10)
    piece = bytes(6 * MIB)
    async with asyncio.TaskGroup() as tasks:
        for number in range(8):
            key = Digest(f"{number:064x}", 6 * MIB)
            tasks.create_task(store.put(key, PiecesSource(piece)))
        await wait_until(lambda: len(bucket.at_once) == 8)
        bucket.may_end.set()
    assert bucket.at_once == [10, 6, 4, 3, 2, 2, 1, 1]
    bucket.at_once.clear()
    await store.put(LARGE_KEY, PiecesSource(piece, piece))
    assert bucket.at_once == [10]
