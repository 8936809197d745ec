"""The whole contract, for stores that keep what is put."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from nativelink.core.digest import StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSource
from nativelink.stores.store import Store
from nativelink.testing.fakes import PiecesSource
from nativelink.testing.faults import FaultySink, FaultySource, Gate, Latency, injected
from nativelink.testing.store_contract.basics import StoreBasics
from nativelink.testing.store_contract.probes import (
    EMPTY,
    SIZES,
    RecordingSink,
    cancelled_after,
    fetch,
    outcome,
    reached,
)

__all__ = ["StoreContract"]


class StoreContract(StoreBasics):
    """The whole contract, for a store that keeps what is put.

    Attributes:
        large_batch: keys that are asked for at once.
    """

    large_batch: ClassVar[int] = 2_000

    # 1. Visible after put.

    @pytest.mark.parametrize("size", SIZES)
    async def test_1_a_blob_is_visible_after_put(self, size: int) -> None:
        key, data = self.blob(size)
        async with self.open() as store:
            await store.put(key, PiecesSource.split(data, 20_000))
            assert await store.has([key]) == [len(data)]
            assert await fetch(store, key) == data

    async def test_1_a_blob_stays_visible_after_it_was_put_again(self) -> None:
        key, data = self.blob(50_000)
        async with self.open() as store:
            for _ in range(3):
                await store.put(key, BytesSource(data))
                assert await store.has([key]) == [len(data)]
                assert await fetch(store, key) == data

    async def test_1_pieces_given_as_memoryviews_are_stored(self) -> None:
        key, data = self.blob(50_000)
        view = memoryview(data)
        async with self.open() as store:
            await store.put(key, PiecesSource(view[:1], view[1:40_000], view[40_000:]))
            assert await fetch(store, key) == data

    # 2. All or nothing.

    @pytest.mark.parametrize("fail_at", [0, 1, 40_000, 100_000])
    async def test_2_a_put_that_failed_leaves_nothing(self, fail_at: int) -> None:
        key, data = self.blob(100_000)
        async with self.open() as store:
            source = FaultySource(PiecesSource.split(data, 7_000), fail_at=min(fail_at, len(data)))
            with pytest.raises(NativeLinkError):
                await store.put(key, source)
            await self._assert_absent(store, key)

    async def test_2_a_blob_is_not_visible_while_it_is_put(self) -> None:
        key, data = self.blob(100_000)
        gate = Gate()
        async with self.open() as store, asyncio.TaskGroup() as tasks:
            source = FaultySource(PiecesSource.split(data, 7_000), gate=gate, gate_at=len(data))
            putting = tasks.create_task(store.put(key, source))
            await reached(gate, putting)
            await self._assert_absent(store, key)
            gate.open()
            await putting
            assert await fetch(store, key) == data

    @pytest.mark.parametrize("cancel_at", [0, 1, 40_000, 100_000])
    async def test_2_a_put_cancelled_at_its_source_leaves_nothing(self, cancel_at: int) -> None:
        key, data = self.blob(100_000)
        gate = Gate()
        async with self.open() as store:
            source = FaultySource(
                PiecesSource.split(data, 7_000), gate=gate, gate_at=min(cancel_at, len(data))
            )
            async with asyncio.TaskGroup() as tasks:
                putting = tasks.create_task(store.put(key, source))
                await reached(gate, putting)
                putting.cancel()
            assert putting.cancelled()
            await self._assert_absent(store, key)
            await store.put(key, BytesSource(data))
            assert await fetch(store, key) == data

    @pytest.mark.parametrize("turns", range(12))
    async def test_2_a_put_cancelled_anywhere_leaves_nothing_or_the_whole(self, turns: int) -> None:
        """A cancellation that meets the commit may come too late, but never leaves a part.

        What is on its way then may arrive while somebody looks; and it stays.
        """
        key, data = self.blob(20_000)
        async with self.open() as store:
            source = FaultySource(PiecesSource.split(data, 9_000), latency=Latency(turns, 1))
            await cancelled_after(turns, store.put(key, source))
            seen: list[int | None] = await store.has([key])
            try:
                content = await fetch(store, key)
            except NativeLinkError as error:
                if error.code is not Code.NOT_FOUND:
                    raise
                seen.append(None)
            else:
                assert content == data
                seen.append(len(content))
            seen += await store.has([key])
            came = next((place for place, size in enumerate(seen) if size is not None), len(seen))
            assert seen == [None] * came + [len(data)] * (len(seen) - came)

    async def test_2_a_put_that_failed_leaves_the_older_value(self) -> None:
        key, data = self.blob(100_000)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            for fail_at in (0, 1, 50_000, len(data)):
                source = FaultySource(PiecesSource.split(data, 7_000), fail_at=fail_at)
                with pytest.raises(NativeLinkError):
                    await store.put(key, source)
                assert await store.has([key]) == [len(data)]
                assert await fetch(store, key) == data

    # 4. Exact ranges.

    @pytest.mark.parametrize("size", [1, 100, 70_000, 300_001])
    async def test_4_ranges_are_exact(self, size: int) -> None:
        key, data = self.blob(size)
        size = len(data)
        offsets = {0, 1, size // 2, size - 1, size, min(size, 32_768), min(size, 65_536)}
        limits = (None, 0, 1, 32_768, 65_537, size - 1, size, size + 1, 2**63 - 1)
        async with self.open() as store:
            await store.put(key, PiecesSource.split(data, 50_000))
            for offset in sorted(offsets):
                for limit in limits:
                    expected = data[offset:] if limit is None else data[offset : offset + limit]
                    assert await fetch(store, key, offset=offset, limit=limit) == expected

    async def test_4_an_offset_behind_the_end_is_out_of_range(self) -> None:
        key, data = self.blob(100)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            for offset in (len(data) + 1, len(data) + 10**6, 2**62):
                sink = RecordingSink()
                with pytest.raises(NativeLinkError) as caught:
                    await store.get(key, sink, offset=offset)
                assert caught.value.code is Code.OUT_OF_RANGE
                assert sink.pieces == []

    # 6. Races of one key.

    async def test_6_concurrent_puts_of_one_key_all_succeed(self) -> None:
        key, data = self.blob(60_000)
        async with self.open() as store:
            async with asyncio.TaskGroup() as tasks:
                puts = [
                    tasks.create_task(
                        store.put(
                            key,
                            FaultySource(PiecesSource.split(data, 6_000), latency=Latency(seed, 5)),
                        )
                    )
                    for seed in range(8)
                ]
            assert {put.result() for put in puts} == {len(data)}
            assert await fetch(store, key) == data

    async def test_6_a_failing_put_does_not_spoil_a_concurrent_one(self) -> None:
        key, data = self.blob(60_000)
        gate = Gate()
        async with self.open() as store, asyncio.TaskGroup() as tasks:
            source = FaultySource(
                PiecesSource.split(data, 6_000), gate=gate, gate_at=30_000, fail_at=len(data)
            )
            failing = tasks.create_task(outcome(store.put(key, source)))
            await reached(gate, failing)
            assert await store.put(key, PiecesSource.split(data, 6_000)) == len(data)
            gate.open()
            assert isinstance(await failing, NativeLinkError)
            assert await store.has([key]) == [len(data)]
            assert await fetch(store, key) == data

    async def test_6_readers_of_a_key_that_is_put_again_see_it_whole(self) -> None:
        key, data = self.blob(60_000)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            async with asyncio.TaskGroup() as tasks:
                for seed in range(4):
                    source = FaultySource(PiecesSource.split(data, 6_000), latency=Latency(seed, 3))
                    tasks.create_task(store.put(key, source))
                reads = [tasks.create_task(fetch(store, key)) for _ in range(8)]
            assert {read.result() for read in reads} == {data}

    # 8. Cancellation.

    @pytest.mark.parametrize("turns", range(8))
    async def test_8_a_cancelled_get_leaves_the_store_usable(self, turns: int) -> None:
        key, data = self.blob(200_000)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            await cancelled_after(turns, fetch(store, key))
            assert await fetch(store, key) == data

    async def test_8_a_get_cancelled_at_its_sink_leaves_the_store_usable(self) -> None:
        key, data = self.blob(200_000)
        gate = Gate()
        blocked = FaultySink(RecordingSink(), gate=gate)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(store.get(key, blocked))
                await reached(gate, reading)
                # One reader who waits keeps nobody else from reading or writing.
                assert await fetch(store, key) == data
                await store.put(key, BytesSource(data))
                reading.cancel()
            assert reading.cancelled()
            assert await fetch(store, key) == data

    async def test_8_an_error_of_the_sink_is_raised_by_get(self) -> None:
        key, data = self.blob(200_000)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            for fail_at in (0, 1, 100_000):
                error = injected()
                sink = FaultySink(RecordingSink(), fail_at=fail_at, error=error)
                with pytest.raises(NativeLinkError) as caught:
                    await store.get(key, sink)
                assert caught.value is error
                assert await fetch(store, key) == data

    # 10. Batches keep order.

    async def test_10_has_answers_position_by_position(self) -> None:
        here = [self.blob(size) for size in (1, 1000, 2000)]
        async with self.open() as store:
            for key, data in here:
                await store.put(key, BytesSource(data))
            absent = self.absent_key()
            keys = [here[2][0], absent, EMPTY[1], here[0][0], here[2][0], absent, here[1][0]]
            sizes = [len(here[2][1]), None, 0, len(here[0][1]), len(here[2][1]), None]
            assert await store.has(keys) == [*sizes, len(here[1][1])]
            assert await store.has(tuple(keys[:2])) == sizes[:2]

    async def test_10_a_large_batch_is_answered_whole(self) -> None:
        key, data = self.blob(10)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            keys = [key if n % 3 == 0 else self.absent_key(n) for n in range(self.large_batch)]
            expected = [len(data) if n % 3 == 0 else None for n in range(self.large_batch)]
            assert await store.has(keys) == expected

    # 12. No write of a ranged read.

    async def test_12_a_ranged_read_changes_nothing_that_a_whole_read_sees(self) -> None:
        key, data = self.blob(100_000)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            for offset, limit in ((0, 10), (50_000, None), (10, 20_000)):
                await fetch(store, key, offset=offset, limit=limit)
                assert await store.has([key]) == [len(data)]
                assert await fetch(store, key) == data

    async def _assert_absent(self, store: Store, key: StoreKey) -> None:
        assert await store.has([key]) == [None]
        with pytest.raises(NativeLinkError) as caught:
            await store.get(key, RecordingSink())
        assert caught.value.code is Code.NOT_FOUND
