"""What one bucket's requests cost each other."""

from __future__ import annotations

import asyncio

from obstore.store import MemoryStore as ObjectsInMemory

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.streams import Chunk, Pipe
from nativelink.stores.cloud.bucket import Bucket
from nativelink.stores.cloud.keys import Keys
from nativelink.stores.cloud.object_store import CloudObjectStore
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import FakeClock

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
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(10):
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

    async with asyncio.timeout(10):
        assert await store.put(LARGE_KEY, Spliced()) == 12 * MIB
    assert await store.has([LARGE_KEY]) == [12 * MIB]
