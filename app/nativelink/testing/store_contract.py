"""The store contract as a suite: what `stores.store.Store` promises, clause by clause.

A kind of store is tested by a subclass that says how to make one. Test names and docstrings carry
the numbers of the clauses.

- `StoreBasics` holds for every store, also for one that keeps nothing (noop).
- `StoreContract` is the whole contract, for stores that keep what is put.
- `StringKeys` or `DigestKeysOnly` is mixed in, by which keys the kind takes.
- `RawAccess` is mixed in where stored bytes can be reached without the store, so that reads and
  writes are tested apart from each other.
- `StreamsBlobs` is mixed in unless the kind holds blobs in memory by purpose (clause 7).

No test uses the production helpers (`read_bytes`, `write_bytes`, `has_one`).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import tracemalloc
from abc import abstractmethod
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Final

import pytest

from nativelink.core.digest import EMPTY_DIGESTS, Digest, StoreKey
from nativelink.core.errors import Code, MissingBlob, NativeLinkError
from nativelink.core.streams import BytesSource, Chunk, LimitedSource, Source
from nativelink.stores.store import Store
from nativelink.testing.fakes import PiecesSource, wait_until
from nativelink.testing.faults import FaultySink, FaultySource, Gate, Latency, injected

__all__ = [
    "DigestKeysOnly",
    "RawAccess",
    "RecordingSink",
    "StoreBasics",
    "StoreContract",
    "StreamsBlobs",
    "StringKeys",
]

_EMPTY: Final = sorted(EMPTY_DIGESTS)

#: Around the sizes at which stores change their ways: nothing, one piece, one buffer, many.
_SIZES: Final = (1, 100, 4095, 4096, 4097, 32_768, 65_535, 65_536, 65_537, 300_001)


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


async def _fetch(
    store: Store, key: StoreKey, *, offset: int = 0, limit: int | None = None
) -> bytes:
    sink = RecordingSink()
    await store.get(key, sink, offset=offset, limit=limit)
    return sink.data


async def _cancelled_after(turns: int, work: Coroutine[Any, Any, Any]) -> bool:
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


async def _reached(gate: Gate, task: asyncio.Task[Any]) -> None:
    """Wait until `task` stands at `gate`, which it must not pass by."""
    await wait_until(lambda: gate.waiting == 1 or task.done())
    assert gate.waiting == 1, "the call ended without waiting for its source or sink"


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

    @pytest.mark.parametrize("key", _EMPTY, ids=["blake3", "sha256"])
    async def test_5_the_empty_blob_is_there_before_anyone_put_it(self, key: Digest) -> None:
        async with self.open() as store:
            assert await store.has([key]) == [0]
            assert await _fetch(store, key) == b""
            assert await _fetch(store, key, offset=0, limit=0) == b""
            assert await _fetch(store, key, limit=100) == b""

    @pytest.mark.parametrize("key", _EMPTY, ids=["blake3", "sha256"])
    async def test_5_the_empty_blob_can_be_put(self, key: Digest) -> None:
        async with self.open() as store:
            assert await store.put(key, BytesSource(b"")) == 0
            assert await store.put(key, PiecesSource()) == 0
            assert await store.has([key]) == [0]
            assert await _fetch(store, key) == b""

    async def test_5_reading_behind_the_end_of_the_empty_blob_is_out_of_range(self) -> None:
        async with self.open() as store:
            for key in _EMPTY:
                with pytest.raises(NativeLinkError) as caught:
                    await store.get(key, RecordingSink(), offset=1)
                assert caught.value.code is Code.OUT_OF_RANGE

    # 8. Cancellation.

    @pytest.mark.parametrize("turns", range(6))
    async def test_8_a_cancelled_call_leaves_the_store_usable(self, turns: int) -> None:
        key, data = self.blob(70_000)
        async with self.open() as store:
            await _cancelled_after(turns, store.has([key, self.absent_key()]))
            source = PiecesSource.split(data, 10_000)
            await _cancelled_after(turns, store.put(key, source))
            with pytest.raises(NativeLinkError) as caught:
                await store.get(self.absent_key(), RecordingSink())
            assert caught.value.code is Code.NOT_FOUND
            assert await store.put(key, BytesSource(data)) == len(data)

    # 9. Source consumed.

    @pytest.mark.parametrize("size", _SIZES)
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
            assert await store.has((keys[0], _EMPTY[0], keys[0])) == [None, 0, None]


class StoreContract(StoreBasics):
    """The whole contract, for a store that keeps what is put."""

    # 1. Visible after put.

    @pytest.mark.parametrize("size", _SIZES)
    async def test_1_a_blob_is_visible_after_put(self, size: int) -> None:
        key, data = self.blob(size)
        async with self.open() as store:
            await store.put(key, PiecesSource.split(data, 20_000))
            assert await store.has([key]) == [len(data)]
            assert await _fetch(store, key) == data

    async def test_1_a_blob_stays_visible_after_it_was_put_again(self) -> None:
        key, data = self.blob(50_000)
        async with self.open() as store:
            for _ in range(3):
                await store.put(key, BytesSource(data))
                assert await store.has([key]) == [len(data)]
                assert await _fetch(store, key) == data

    async def test_1_pieces_given_as_memoryviews_are_stored(self) -> None:
        key, data = self.blob(50_000)
        view = memoryview(data)
        async with self.open() as store:
            await store.put(key, PiecesSource(view[:1], view[1:40_000], view[40_000:]))
            assert await _fetch(store, key) == data

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
            await _reached(gate, putting)
            await self._assert_absent(store, key)
            gate.open()
            await putting
            assert await _fetch(store, key) == data

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
                await _reached(gate, putting)
                putting.cancel()
            assert putting.cancelled()
            await self._assert_absent(store, key)
            await store.put(key, BytesSource(data))
            assert await _fetch(store, key) == data

    @pytest.mark.parametrize("turns", range(12))
    async def test_2_a_put_cancelled_anywhere_leaves_nothing_or_the_whole(self, turns: int) -> None:
        """A cancellation that meets the commit may come too late, but never leaves a part."""
        key, data = self.blob(20_000)
        async with self.open() as store:
            source = FaultySource(PiecesSource.split(data, 9_000), latency=Latency(turns, 1))
            await _cancelled_after(turns, store.put(key, source))
            (size,) = await store.has([key])
            if size is None:
                await self._assert_absent(store, key)
            else:
                assert size == len(data)
                assert await _fetch(store, key) == data

    async def test_2_a_put_that_failed_leaves_the_older_value(self) -> None:
        key, data = self.blob(100_000)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            for fail_at in (0, 1, 50_000, len(data)):
                source = FaultySource(PiecesSource.split(data, 7_000), fail_at=fail_at)
                with pytest.raises(NativeLinkError):
                    await store.put(key, source)
                assert await store.has([key]) == [len(data)]
                assert await _fetch(store, key) == data

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
                    assert await _fetch(store, key, offset=offset, limit=limit) == expected

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
            assert await _fetch(store, key) == data

    async def test_6_a_failing_put_does_not_spoil_a_concurrent_one(self) -> None:
        key, data = self.blob(60_000)
        gate = Gate()
        async with self.open() as store, asyncio.TaskGroup() as tasks:
            source = FaultySource(
                PiecesSource.split(data, 6_000), gate=gate, gate_at=30_000, fail_at=len(data)
            )
            failing = tasks.create_task(_outcome(store.put(key, source)))
            await _reached(gate, failing)
            assert await store.put(key, PiecesSource.split(data, 6_000)) == len(data)
            gate.open()
            assert isinstance(await failing, NativeLinkError)
            assert await store.has([key]) == [len(data)]
            assert await _fetch(store, key) == data

    async def test_6_readers_of_a_key_that_is_put_again_see_it_whole(self) -> None:
        key, data = self.blob(60_000)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            async with asyncio.TaskGroup() as tasks:
                for seed in range(4):
                    source = FaultySource(PiecesSource.split(data, 6_000), latency=Latency(seed, 3))
                    tasks.create_task(store.put(key, source))
                reads = [tasks.create_task(_fetch(store, key)) for _ in range(8)]
            assert {read.result() for read in reads} == {data}

    # 8. Cancellation.

    @pytest.mark.parametrize("turns", range(8))
    async def test_8_a_cancelled_get_leaves_the_store_usable(self, turns: int) -> None:
        key, data = self.blob(200_000)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            await _cancelled_after(turns, _fetch(store, key))
            assert await _fetch(store, key) == data

    async def test_8_a_get_cancelled_at_its_sink_leaves_the_store_usable(self) -> None:
        key, data = self.blob(200_000)
        gate = Gate()
        blocked = FaultySink(RecordingSink(), gate=gate)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(store.get(key, blocked))
                await _reached(gate, reading)
                # One reader who waits keeps nobody else from reading or writing.
                assert await _fetch(store, key) == data
                await store.put(key, BytesSource(data))
                reading.cancel()
            assert reading.cancelled()
            assert await _fetch(store, key) == data

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
                assert await _fetch(store, key) == data

    # 10. Batches keep order.

    async def test_10_has_answers_position_by_position(self) -> None:
        here = [self.blob(size) for size in (1, 1000, 2000)]
        async with self.open() as store:
            for key, data in here:
                await store.put(key, BytesSource(data))
            absent = self.absent_key()
            keys = [here[2][0], absent, _EMPTY[1], here[0][0], here[2][0], absent, here[1][0]]
            sizes = [len(here[2][1]), None, 0, len(here[0][1]), len(here[2][1]), None]
            assert await store.has(keys) == [*sizes, len(here[1][1])]
            assert await store.has(tuple(keys[:2])) == sizes[:2]

    async def test_10_a_large_batch_is_answered_whole(self) -> None:
        key, data = self.blob(10)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            keys = [key if n % 3 == 0 else self.absent_key(n) for n in range(2_000)]
            expected = [len(data) if n % 3 == 0 else None for n in range(2_000)]
            assert await store.has(keys) == expected

    # 12. No write of a ranged read.

    async def test_12_a_ranged_read_changes_nothing_that_a_whole_read_sees(self) -> None:
        key, data = self.blob(100_000)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            for offset, limit in ((0, 10), (50_000, None), (10, 20_000)):
                await _fetch(store, key, offset=offset, limit=limit)
                assert await store.has([key]) == [len(data)]
                assert await _fetch(store, key) == data

    async def _assert_absent(self, store: Store, key: StoreKey) -> None:
        assert await store.has([key]) == [None]
        with pytest.raises(NativeLinkError) as caught:
            await store.get(key, RecordingSink())
        assert caught.value.code is Code.NOT_FOUND


async def _outcome(work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` returns, or the error that it raises."""
    try:
        return await work
    except NativeLinkError as error:
        return error


class StringKeys(StoreContract):
    """More of the contract, for kinds that take string keys: their values can change."""

    def text(self, size: int, seed: int) -> bytes:
        """A value for a string key of `size` bytes."""
        return random.Random(f"text {size} {seed}").randbytes(size)

    async def test_1_string_keys_and_digests_live_side_by_side(self) -> None:
        key, data = self.blob(100)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            for name in ("x", "a.b_c-d", f"{key}", "worker:7@pool=a,b", "ünïcode", "-", "x" * 200):
                value = self.text(len(name) + 10, 1)
                if name == str(key):
                    # A string that reads like a digest is another key all the same.
                    assert await store.has([name]) == [None]
                await store.put(name, BytesSource(value))
                assert await store.has([name, key]) == [len(value), len(data)]
                assert await _fetch(store, name) == value
                assert await _fetch(store, key) == data

    async def test_1_an_empty_value_of_a_string_key_is_a_value(self) -> None:
        async with self.open() as store:
            assert await store.has(["empty"]) == [None]
            assert await store.put("empty", BytesSource(b"")) == 0
            assert await store.has(["empty"]) == [0]
            assert await _fetch(store, "empty") == b""

    async def test_1_the_last_value_put_is_seen(self) -> None:
        async with self.open() as store:
            for size in (100, 70_000, 1, 0, 300_000, 5):
                value = self.text(size, 2)
                await store.put("key", PiecesSource.split(value, 30_000))
                assert await store.has(["key"]) == [size]
                assert await _fetch(store, "key") == value

    async def test_2_a_put_that_failed_leaves_the_older_value_of_a_string_key(self) -> None:
        old, new = self.text(50_000, 1), self.text(80_000, 2)
        async with self.open() as store:
            await store.put("key", BytesSource(old))
            for fail_at in (0, 1, 50_000, len(new)):
                source = FaultySource(PiecesSource.split(new, 7_000), fail_at=fail_at)
                with pytest.raises(NativeLinkError):
                    await store.put("key", source)
                assert await store.has(["key"]) == [len(old)]
                assert await _fetch(store, "key") == old

    async def test_2_a_cancelled_put_leaves_the_older_value_of_a_string_key(self) -> None:
        old, new = self.text(50_000, 1), self.text(80_000, 2)
        async with self.open() as store:
            await store.put("key", BytesSource(old))
            for at in (0, 7_000, len(new)):
                gate = Gate()
                source = FaultySource(PiecesSource.split(new, 7_000), gate=gate, gate_at=at)
                async with asyncio.TaskGroup() as tasks:
                    putting = tasks.create_task(store.put("key", source))
                    await _reached(gate, putting)
                    putting.cancel()
                assert await store.has(["key"]) == [len(old)]
                assert await _fetch(store, "key") == old

    async def test_3_an_absent_string_key_is_not_found(self) -> None:
        async with self.open() as store:
            assert await store.has(["nobody"]) == [None]
            with pytest.raises(NativeLinkError) as caught:
                await store.get("nobody", RecordingSink())
            assert caught.value.code is Code.NOT_FOUND
            assert caught.value.details == ()

    async def test_6_readers_see_one_of_the_values_whole(self) -> None:
        values = [self.text(20_000 + 10_000 * n, n) for n in range(6)]
        async with self.open() as store:
            await store.put("key", BytesSource(values[0]))
            async with asyncio.TaskGroup() as tasks:
                for seed, value in enumerate(values):
                    source = FaultySource(
                        PiecesSource.split(value, 5_000), latency=Latency(seed, 4)
                    )
                    tasks.create_task(store.put("key", source))
                reads = [tasks.create_task(_fetch(store, "key")) for _ in range(10)]
            assert {read.result() for read in reads} <= set(values)
            last = await _fetch(store, "key")
            assert last in values
            assert await store.has(["key"]) == [len(last)]

    async def test_6_a_reader_under_way_keeps_the_value_that_it_began_with(self) -> None:
        old, new = self.text(200_000, 1), self.text(150_000, 2)
        gate = Gate()
        sink = RecordingSink()
        async with self.open() as store:
            await store.put("key", BytesSource(old))
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(store.get("key", FaultySink(sink, gate=gate)))
                await _reached(gate, reading)
                await store.put("key", BytesSource(new))
                gate.open()
            assert sink.data == old
            assert await _fetch(store, "key") == new


class DigestKeysOnly(StoreContract):
    """For kinds that cannot store a string key: they say so, and nothing else happens."""

    async def test_a_put_of_a_string_key_is_an_invalid_argument(self) -> None:
        key, data = self.blob(100)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            with pytest.raises(NativeLinkError) as caught:
                await store.put("text", BytesSource(b"value"))
            assert caught.value.code is Code.INVALID_ARGUMENT
            assert "'text'" in caught.value.message
            assert await _fetch(store, key) == data


class RawAccess(StoreContract):
    """For kinds whose stored bytes can be reached without the store."""

    @abstractmethod
    def raw_put(self, key: StoreKey, data: bytes) -> None:
        """Put a value where an opened store finds it, without using the store."""

    @abstractmethod
    def raw_get(self, key: StoreKey) -> bytes | None:
        """The bytes that are stored, None if there are none."""

    @abstractmethod
    def raw_names(self) -> set[str]:
        """Everything that exists in the backing medium, unfinished things included."""

    async def test_1_what_was_put_is_really_there(self) -> None:
        key, data = self.blob(70_000)
        async with self.open() as store:
            assert self.raw_get(key) is None
            await store.put(key, PiecesSource.split(data, 9_000))
            assert self.raw_get(key) == data

    async def test_1_what_is_really_there_is_seen(self) -> None:
        key, data = self.blob(70_000)
        async with self.open() as store:
            self.raw_put(key, data)
            assert await store.has([key]) == [len(data)]
            assert await _fetch(store, key) == data
            assert await _fetch(store, key, offset=60_000, limit=5_000) == data[60_000:65_000]

    async def test_2_a_put_that_failed_leaves_nothing_behind(self) -> None:
        key, data = self.blob(70_000)
        async with self.open() as store:
            before = self.raw_names()
            for fail_at in (0, 1, 50_000, len(data)):
                source = FaultySource(PiecesSource.split(data, 9_000), fail_at=fail_at)
                with pytest.raises(NativeLinkError):
                    await store.put(key, source)
                assert self.raw_names() == before

    async def test_2_a_cancelled_put_leaves_nothing_behind(self) -> None:
        key, data = self.blob(70_000)
        async with self.open() as store:
            before = self.raw_names()
            for at in (0, 9_000, len(data)):
                gate = Gate()
                source = FaultySource(PiecesSource.split(data, 9_000), gate=gate, gate_at=at)
                async with asyncio.TaskGroup() as tasks:
                    putting = tasks.create_task(store.put(key, source))
                    await _reached(gate, putting)
                    putting.cancel()
                assert self.raw_names() == before

    async def test_5_nothing_need_be_kept_for_the_empty_blob(self) -> None:
        async with self.open() as store:
            before = self.raw_names()
            for key in _EMPTY:
                await store.put(key, BytesSource(b""))
            assert self.raw_names() == before


class StreamsBlobs(StoreContract):
    """Clause 7, for kinds that do not hold blobs in memory."""

    #: Larger than anything a store may hold of one blob.
    large_bytes: ClassVar[int] = 24 * 1024 * 1024
    #: What chunks in flight may take, all copies together.
    allowed_bytes: ClassVar[int] = 4 * 1024 * 1024

    async def test_7_memory_is_bounded_by_chunks_in_flight(self) -> None:
        piece = random.Random(7).randbytes(256 * 1024)
        count = self.large_bytes // len(piece)
        hasher = hashlib.sha256()
        for _ in range(count):
            hasher.update(piece)
        key = Digest(hasher.hexdigest(), self.large_bytes)
        async with self.open() as store:
            tracemalloc.start()
            try:
                await store.put(key, _Repeated(piece, count))
                sink = _HashingSink()
                await store.get(key, sink)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert sink.hasher.hexdigest() == key.hash
            assert peak < self.allowed_bytes


class _Repeated(Source):
    """One piece many times, each time a new object, as from a socket."""

    size = None

    def __init__(self, piece: bytes, count: int) -> None:
        self._piece = piece
        self._left = count

    async def read(self) -> Chunk:
        if not self._left:
            return b""
        self._left -= 1
        return bytes(bytearray(self._piece))


class _HashingSink:
    """Hashes what comes and keeps none of it."""

    def __init__(self) -> None:
        self.hasher = hashlib.sha256()

    async def write(self, chunk: Chunk, /) -> None:
        self.hasher.update(chunk)
