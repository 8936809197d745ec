"""What every store does, also one that keeps nothing."""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import pytest

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import Code, MissingBlob, NativeLinkError
from nativelink.core.streams import BytesSource, LimitedSource
from nativelink.stores.store import Store
from nativelink.testing.fakes import PiecesSource
from nativelink.testing.faults import FaultySource, injected
from nativelink.testing.store_contract.probes import (
    EMPTY,
    SIZES,
    RecordingSink,
    cancelled_after,
    fetch,
)

__all__ = ["StoreBasics"]


class StoreBasics:
    """What even a store that keeps nothing does: clauses 3, 5, 8, 9, 10 and 11.

    Attributes:
        kind: the class under test, for the check that no kind was forgotten.
    """

    kind: ClassVar[type[Any] | None] = None

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[Store]:
        """A new and empty store, ready for use; closed when the context ends."""

    def blob(self, size: int, seed: int = 0) -> tuple[StoreKey, bytes]:
        """A key and a value of `size` bytes (or a little more) that the kind takes for it."""
        data = random.Random(f"{size} {seed}").randbytes(size)
        return Digest(hashlib.sha256(data).hexdigest(), size), data

    def absent_key(self, seed: int = 0) -> StoreKey:
        """A key that was never put."""
        return Digest(hashlib.sha256(b"absent %d" % seed).hexdigest(), 1000 + seed)

    # 3. Absent is NOT_FOUND.

    async def test_3_get_of_an_absent_key_is_not_found_and_writes_nothing(self) -> None:
        key = self.absent_key()
        async with self.open() as store:
            for offset, limit in ((0, None), (0, 0), (0, 10), (5, None), (5, 10)):
                sink = RecordingSink()
                with pytest.raises(NativeLinkError) as caught:
                    await store.get(key, sink, offset=offset, limit=limit)
                assert caught.value.code is Code.NOT_FOUND
                assert sink.pieces == []
                if isinstance(key, Digest):
                    assert caught.value.details == (MissingBlob(key),)

    # 5. The empty blob.

    @pytest.mark.parametrize("key", EMPTY, ids=["blake3", "sha256"])
    async def test_5_the_empty_blob_is_there_before_anyone_put_it(self, key: Digest) -> None:
        async with self.open() as store:
            assert await store.has([key]) == [0]
            assert await fetch(store, key) == b""
            assert await fetch(store, key, offset=0, limit=0) == b""
            assert await fetch(store, key, limit=100) == b""

    @pytest.mark.parametrize("key", EMPTY, ids=["blake3", "sha256"])
    async def test_5_the_empty_blob_can_be_put(self, key: Digest) -> None:
        async with self.open() as store:
            assert await store.put(key, BytesSource(b"")) == 0
            assert await store.put(key, PiecesSource()) == 0
            assert await store.has([key]) == [0]
            assert await fetch(store, key) == b""

    async def test_5_reading_behind_the_end_of_the_empty_blob_is_out_of_range(self) -> None:
        async with self.open() as store:
            for key in EMPTY:
                with pytest.raises(NativeLinkError) as caught:
                    await store.get(key, RecordingSink(), offset=1)
                assert caught.value.code is Code.OUT_OF_RANGE

    # 8. Cancellation.

    @pytest.mark.parametrize("turns", range(6))
    async def test_8_a_cancelled_call_leaves_the_store_usable(self, turns: int) -> None:
        key, data = self.blob(70_000)
        async with self.open() as store:
            await cancelled_after(turns, store.has([key, self.absent_key()]))
            source = PiecesSource.split(data, 10_000)
            await cancelled_after(turns, store.put(key, source))
            with pytest.raises(NativeLinkError) as caught:
                await store.get(self.absent_key(), RecordingSink())
            assert caught.value.code is Code.NOT_FOUND
            assert await store.put(key, BytesSource(data)) == len(data)

    # 9. Source consumed.

    @pytest.mark.parametrize("size", SIZES)
    async def test_9_put_reads_to_the_end_and_returns_the_number_of_bytes(self, size: int) -> None:
        key, data = self.blob(size)
        async with self.open() as store:
            for source in (
                BytesSource(data),
                PiecesSource.split(data, 5_000),
                PiecesSource.split(data, 65_536, announced=True),
            ):
                assert await store.put(key, source) == len(data)
                assert await source.read() == b"", "the source was not read to its end"

    @pytest.mark.parametrize("fail_at", [0, 1, 50_000, 100_000])
    async def test_9_an_error_of_the_source_is_raised_by_put(self, fail_at: int) -> None:
        key, data = self.blob(100_000)
        async with self.open() as store:
            for announced in (False, True):
                error = injected()
                source = FaultySource(
                    PiecesSource.split(data, 10_000, announced=announced),
                    fail_at=min(fail_at, len(data)),
                    error=error,
                )
                with pytest.raises(NativeLinkError) as caught:
                    await store.put(key, source)
                assert caught.value is error

    async def test_9_a_failing_source_of_a_blob_that_is_there_already_is_noticed(self) -> None:
        key, data = self.blob(100_000)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            error = injected()
            source = FaultySource(PiecesSource.split(data, 9_000), fail_at=len(data), error=error)
            with pytest.raises(NativeLinkError) as caught:
                await store.put(key, source)
            assert caught.value is error

    @pytest.mark.parametrize("difference", [-1, 1])
    async def test_9_a_size_that_was_announced_wrongly_is_noticed(self, difference: int) -> None:
        key, data = self.blob(10_000)
        async with self.open() as store:
            for _ in range(2):
                source = LimitedSource(PiecesSource.split(data, 999), len(data) + difference)
                with pytest.raises(NativeLinkError) as caught:
                    await store.put(key, source)
                assert caught.value.code is Code.INVALID_ARGUMENT

    # 10 and 11. Batches.

    async def test_10_an_empty_batch_is_answered_with_an_empty_list(self) -> None:
        async with self.open() as store:
            assert await store.has([]) == []

    async def test_11_absent_keys_do_not_raise_in_has(self) -> None:
        async with self.open() as store:
            keys = [self.absent_key(seed) for seed in range(3)]
            assert await store.has(keys) == [None, None, None]
            assert await store.has((keys[0], EMPTY[0], keys[0])) == [None, 0, None]
