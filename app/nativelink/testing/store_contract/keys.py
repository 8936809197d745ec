"""More of the contract, by which keys a kind takes."""

from __future__ import annotations

import asyncio
import random

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSource
from nativelink.testing.fakes import PiecesSource
from nativelink.testing.faults import FaultySink, FaultySource, Gate, Latency
from nativelink.testing.store_contract.contract import StoreContract
from nativelink.testing.store_contract.probes import (
    RecordingSink,
    fetch,
    reached,
)

__all__ = ["DigestKeysOnly", "OneKeyspace", "StringKeys"]


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
                assert await fetch(store, name) == value
                assert await fetch(store, key) == data

    async def test_1_an_empty_value_of_a_string_key_is_a_value(self) -> None:
        async with self.open() as store:
            assert await store.has(["empty"]) == [None]
            assert await store.put("empty", BytesSource(b"")) == 0
            assert await store.has(["empty"]) == [0]
            assert await fetch(store, "empty") == b""

    async def test_1_the_last_value_put_is_seen(self) -> None:
        async with self.open() as store:
            for size in (100, 70_000, 1, 0, 300_000, 5):
                value = self.text(size, 2)
                await store.put("key", PiecesSource.split(value, 30_000))
                assert await store.has(["key"]) == [size]
                assert await fetch(store, "key") == value

    async def test_2_a_put_that_failed_leaves_the_older_value_of_a_string_key(self) -> None:
        old, new = self.text(50_000, 1), self.text(80_000, 2)
        async with self.open() as store:
            await store.put("key", BytesSource(old))
            for fail_at in (0, 1, 50_000, len(new)):
                source = FaultySource(PiecesSource.split(new, 7_000), fail_at=fail_at)
                with pytest.raises(NativeLinkError):
                    await store.put("key", source)
                assert await store.has(["key"]) == [len(old)]
                assert await fetch(store, "key") == old

    async def test_2_a_cancelled_put_leaves_the_older_value_of_a_string_key(self) -> None:
        old, new = self.text(50_000, 1), self.text(80_000, 2)
        async with self.open() as store:
            await store.put("key", BytesSource(old))
            for at in (0, 7_000, len(new)):
                gate = Gate()
                source = FaultySource(PiecesSource.split(new, 7_000), gate=gate, gate_at=at)
                async with asyncio.TaskGroup() as tasks:
                    putting = tasks.create_task(store.put("key", source))
                    await reached(gate, putting)
                    putting.cancel()
                assert await store.has(["key"]) == [len(old)]
                assert await fetch(store, "key") == old

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
                reads = [tasks.create_task(fetch(store, "key")) for _ in range(10)]
            assert {read.result() for read in reads} <= set(values)
            last = await fetch(store, "key")
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
                await reached(gate, reading)
                await store.put("key", BytesSource(new))
                gate.open()
            assert sink.data == old
            assert await fetch(store, "key") == new


class OneKeyspace(StringKeys):
    """String keys where one that reads like a digest is that digest's key, as with NativeLink."""

    async def test_1_string_keys_and_digests_live_side_by_side(self) -> None:
        key, data = self.blob(100)
        async with self.open() as store:
            await store.put(key, BytesSource(data))
            for name in ("x", "a.b_c-d", "worker:7@pool=a,b", "ünïcode", "-", "x" * 200):
                value = self.text(len(name) + 10, 1)
                await store.put(name, BytesSource(value))
                assert await store.has([name, str(key), key]) == [len(value), 100, 100]
                assert await fetch(store, name) == value
                assert await fetch(store, key) == data


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
            assert await fetch(store, key) == data
