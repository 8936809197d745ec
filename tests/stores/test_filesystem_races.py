"""What may happen to a key between two steps of a call, forced to happen."""

import asyncio
import random
import threading
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.streams import BytesSink, BytesSource
from nativelink.stores.disk import InlineGuard
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.filesystem_read import BlobFile
from nativelink.stores.group_commit import DiskSync
from nativelink.testing.fakes import FakeClock, PiecesSource, wait_until
from nativelink.testing.faults import FaultySource, Gate

MIB = 1024 * 1024


def filesystem(root: Path, **eviction: int) -> AbstractAsyncContextManager[FilesystemStore]:
    return FilesystemStore(
        content_path=root / "content",
        temp_path=root / "temp",
        eviction=EvictionPolicy(**eviction),
        clock=FakeClock(),
    )


async def read(store: FilesystemStore, key) -> bytes:
    sink = BytesSink()
    await store.get(key, sink)
    return sink.getvalue()


async def test_a_blob_that_was_evicted_and_put_again_while_it_was_opened_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The open fell in the gap; by the time that this is noticed, the blob is there again."""
    monkeypatch.setattr(InlineGuard, "allowed", False)
    data = random.Random(1).randbytes(200_000)
    key = DigestFunction.SHA256.digest_of(data)
    opened = BlobFile.open
    calls = 0

    def open_in_the_gap(file: BlobFile) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise FileNotFoundError
        return opened(file)

    async with filesystem(tmp_path) as store:
        await store.put(key, BytesSource(data))
        monkeypatch.setattr(BlobFile, "open", open_in_the_gap)
        assert await read(store, key) == data
        assert await store.has([key]) == [len(data)]
    assert (tmp_path / "content" / "d" / str(key)).read_bytes() == data


async def test_a_blob_is_not_evicted_while_an_upload_is_compared_with_it(tmp_path: Path):
    """The upload would be acknowledged for being there already, and not be there."""
    data = random.Random(1).randbytes(3 * MIB)
    key = DigestFunction.SHA256.digest_of(data)
    async with filesystem(tmp_path, max_bytes=8 * MIB) as store:
        await store.put(key, BytesSource(data))
        gate = Gate()
        source = FaultySource(PiecesSource.split(data, 100_000), gate=gate, gate_at=5 * MIB // 2)
        async with asyncio.TaskGroup() as tasks:
            again = tasks.create_task(store.put(key, source))
            await wait_until(lambda: gate.waiting == 1)
            for seed in range(2, 6):
                other = random.Random(seed).randbytes(2 * MIB)
                await store.put(DigestFunction.SHA256.digest_of(other), BytesSource(other))
            gate.open()
            assert await again == len(data)
        assert await store.has([key]) == [len(data)]
        assert await read(store, key) == data


@pytest.mark.parametrize("size", [10, 200_000, 2 * MIB])
async def test_a_value_is_not_acknowledged_for_being_there_before_it_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
):
    """It has its name already, but a power cut would bring the older one back."""
    old, new = b"o" * size, b"n" * size
    hold = threading.Event()
    held = threading.Event()
    sync = DiskSync.sync

    def sync_when_told(
        self: DiskSync, files: Sequence[int], directories: Sequence[int]
    ) -> list[OSError | None]:
        if directories:
            held.set()
            hold.wait()
        return sync(self, files, directories)

    async with filesystem(tmp_path) as store:
        await store.put("key", BytesSource(old))
        monkeypatch.setattr(DiskSync, "sync", sync_when_told)
        async with asyncio.TaskGroup() as tasks:
            try:
                first = tasks.create_task(store.put("key", BytesSource(new)))
                await wait_until(held.is_set)
                assert await read(store, "key") == new
                second = tasks.create_task(store.put("key", BytesSource(new)))
                await wait_until(lambda: second.done() or store.statistics().commits.waiting == 2)
                assert not first.done()
                assert not second.done()
            finally:
                hold.set()
        assert await read(store, "key") == new
        # What is durable is not written again.
        monkeypatch.setattr(DiskSync, "sync", None)
        assert await store.put("key", BytesSource(new)) == size
        monkeypatch.undo()
