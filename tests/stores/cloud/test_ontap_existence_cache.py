"""The index of an ONTAP bucket."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nativelink.core.digest import Digest
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.cloud.ontap_existence_cache import OntapS3ExistenceCacheStore
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import DictStore, FakeClock, wait_until
from nativelink.testing.faults import FaultyStore


def digest(text: str) -> Digest:
    return Digest(hashlib.sha256(text.encode()).hexdigest(), len(text))


class Bucket:
    """What the index is made of; the test says when time passes."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.turns = asyncio.Semaphore(0)
        self.slept: list[float] = []
        self.backend = FaultyStore(DictStore())

    async def listed(self) -> AsyncIterator[str]:
        for name in list(self.names):
            yield name

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.turns.acquire()

    def store(self, path: Path) -> OntapS3ExistenceCacheStore:
        return OntapS3ExistenceCacheStore(
            self.backend,
            names=self.listed,
            index_path=path,
            sync_interval_s=60,
            clock=FakeClock(time=1234.5),
            sleep=self.sleep,
        )


async def test_what_is_not_in_the_index_costs_no_request(tmp_path: Path):
    path, key = tmp_path / "index", digest("there")
    path.write_text(json.dumps({"digests": [str(key)], "timestamp": 1}))
    bucket = Bucket()
    await write_bytes(bucket.backend, key, b"there")
    async with bucket.store(path) as store:
        assert await store.has([digest("absent")]) == [None]
        with pytest.raises(NativeLinkError) as caught:
            await read_bytes(store, digest("absent"))
        assert caught.value.code is Code.NOT_FOUND
        assert not bucket.backend.calls["has"] + bucket.backend.calls["get"]
        assert await store.has([digest("absent"), key]) == [None, 5]
        assert await read_bytes(store, key) == b"there"


async def test_the_index_follows_the_bucket_and_is_kept_in_nativelinks_format(tmp_path: Path):
    path, theirs, ours = tmp_path / "index", digest("theirs"), digest("ours")
    path.write_text('{"digests": [], "timestamp": 0}')
    bucket = Bucket()
    await write_bytes(bucket.backend, theirs, b"theirs")
    bucket.names = [str(theirs), "some-thing-else"]
    async with bucket.store(path) as store:
        assert await store.has([theirs]) == [None]
        await wait_until(lambda: bucket.slept == [60])
        bucket.turns.release()
        await wait_until(lambda: bucket.slept == [60, 60])
        assert await store.has([theirs]) == [6]
        await write_bytes(store, ours, b"ours")
        assert await store.has([ours]) == [4]
    assert json.loads(path.read_text()) == {"digests": [str(theirs)], "timestamp": 1234}


async def test_without_an_index_every_question_goes_to_the_bucket(tmp_path: Path):
    bucket, key = Bucket(), digest("there")
    await write_bytes(bucket.backend, key, b"there")
    store = bucket.store(tmp_path / "index")
    assert await store.has([key]) == [5]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digests": ["nonsense"], "timestamp": 0}'])
async def test_a_file_that_is_no_index_ends_the_start(tmp_path: Path, text: str):
    path = tmp_path / "index"
    path.write_text(text)
    with pytest.raises(NativeLinkError) as caught:
        async with Bucket().store(path):
            pass
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert str(path) in caught.value.message


async def test_a_closed_store_writes_nothing_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, bucket = tmp_path / "index", Bucket()
    begun, gate = threading.Event(), threading.Event()
    replace = Path.replace

    def held_back(self: Path, target: Path) -> Path:
        begun.set()
        assert gate.wait(60)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", held_back)
    store = bucket.store(path)
    await store.__aenter__()
    await wait_until(begun.is_set)
    closing = asyncio.ensure_future(store.__aexit__(None, None, None))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not closing.done()
    gate.set()
    await closing
    assert json.loads(path.read_text())["digests"] == []
