"""Random histories of a store, compared with a dictionary.

`StoreMachine` is a Hypothesis state machine. A subclass says how to open a store, and its
`TestCase` is what pytest runs:

    class MemoryMachine(StoreMachine):
        @asynccontextmanager
        async def open(self) -> AsyncIterator[Store]:
            yield MemoryStore(eviction=EvictionPolicy(), clock=FakeClock())

    TestMemoryMachine = MemoryMachine.TestCase

The store must be large enough to evict nothing. The model uses none of the production helpers.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from abc import abstractmethod
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache, cached_property
from typing import Any, ClassVar, Final, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.store import Store
from nativelink.testing.fakes import PiecesSource, wait_until
from nativelink.testing.faults import FaultySink, FaultySource, Gate, Latency, injected
from nativelink.testing.store_contract import RecordingSink

__all__ = ["StoreMachine"]

T = TypeVar("T")

#: Sizes of the values in play: the empty one, one piece, and more than any buffer of a store.
_SIZES: Final = (0, 1, 7, 4_096, 32_769, 65_536, 150_000)

_NAMES: Final = ("alpha", "beta.1", "gamma:x")

_EMPTY_KEYS: Final = (
    Digest("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0),
    Digest("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262", 0),
)

_blobs = st.integers(0, len(_SIZES) - 1)
_seeds = st.integers(0, 2**16)
_piece_sizes = st.sampled_from((1_000, 4_096, 40_000, 1_000_000))
_fractions = st.sampled_from((0.0, 0.1, 0.5, 0.99, 1.0))


@cache
def _blob(index: int) -> tuple[StoreKey, bytes]:
    """The digest of random bytes that a number decides, and these."""
    data = random.Random(index).randbytes(_SIZES[index])
    return Digest(hashlib.sha256(data).hexdigest(), len(data)), data


class StoreMachine(RuleBasedStateMachine):
    """Puts, reads, failures and races against a dictionary.

    Attributes:
        string_keys: whether the kind takes string keys, whose values can change.
    """

    string_keys: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[StoreKey, bytes] = dict.fromkeys(_EMPTY_KEYS, b"")
        self.runner = asyncio.Runner()
        self._closing = asyncio.Event()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # The same histories in every run: a failure is a failure for everybody.
        cls.TestCase.settings = settings(
            max_examples=20, stateful_step_count=30, deadline=None, derandomize=True, database=None
        )
        pytest.mark.slow(cls.TestCase)

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[Store]:
        """A new and empty store, ready for use; closed when the context ends."""

    def blob(self, index: int) -> tuple[StoreKey, bytes]:
        """The blob of a number; the same number is always the same blob."""
        return _blob(index)

    @initialize()
    def start(self) -> None:
        """Open the store."""
        self._run(self._begin())

    def teardown(self) -> None:
        """Close the store, and see that it left no task behind."""
        try:
            self._run(self._end())
        finally:
            self.runner.close()

    # Rules

    @rule(index=_blobs, piece_size=_piece_sizes, announced=st.booleans(), seed=_seeds)
    def put(self, index: int, piece_size: int, announced: bool, seed: int) -> None:
        """Put a blob, in pieces, from a source that makes it wait."""
        key, data = self.blob(index)
        source = FaultySource(
            PiecesSource.split(data, piece_size, announced=announced), latency=Latency(seed, 2)
        )
        assert self._run(self.store.put(key, source)) == len(data)
        self.model[key] = data

    @precondition(lambda self: self.string_keys)
    @rule(name=st.sampled_from(_NAMES), size=st.sampled_from(_SIZES), seed=_seeds)
    def put_string(self, name: str, size: int, seed: int) -> None:
        """Put a value under a string key, over an older one perhaps."""
        data = random.Random(seed).randbytes(size)
        assert self._run(self.store.put(name, PiecesSource.split(data, 50_000))) == size
        self.model[name] = data

    @rule(data=st.data())
    def get(self, data: st.DataObject) -> None:
        """Read any key, whole."""
        self._check(data.draw(self._keys))

    @rule(data=st.data(), start=_fractions, length=_fractions, beyond=st.sampled_from((0, 0, 1)))
    def get_range(self, data: st.DataObject, start: float, length: float, beyond: int) -> None:
        """Read a part of any key, also one that begins behind the end."""
        key = data.draw(self._keys)
        size = len(self.model.get(key, b""))
        offset = size + beyond if beyond else int(size * start)
        self._check(key, offset, int(size * length) + beyond)

    @rule(data=st.data())
    def has(self, data: st.DataObject) -> None:
        """Ask for many keys at once, some of them twice."""
        keys = data.draw(st.lists(self._keys, max_size=12))
        expected = [len(self.model[key]) if key in self.model else None for key in keys]
        assert self._run(self.store.has(keys)) == expected

    @rule(data=st.data(), at=_fractions)
    def fail_put(self, data: st.DataObject, at: float) -> None:
        """A source fails in the middle, or instead of its end."""
        key, value = data.draw(self._values)
        error = injected()
        source = FaultySource(
            PiecesSource.split(value, 20_000), fail_at=int(len(value) * at), error=error
        )
        assert self._run(_error_of(self.store.put(key, source))) is error
        self._check(key)

    @rule(data=st.data(), at=_fractions)
    def cancel_put(self, data: st.DataObject, at: float) -> None:
        """A put is cancelled while it waits for its source."""
        key, value = data.draw(self._values)
        gate = Gate()
        source = FaultySource(
            PiecesSource.split(value, 20_000), gate=gate, gate_at=int(len(value) * at)
        )
        self._run(_cancel_at_gate(self.store.put(key, source), gate))
        self._check(key)

    @rule(data=st.data(), at=_fractions)
    def cancel_get(self, data: st.DataObject, at: float) -> None:
        """A reader goes away in the middle."""
        key = data.draw(self._keys)
        gate = Gate()
        gate_at = int(len(self.model.get(key, b"")) * at)
        sink = FaultySink(RecordingSink(), gate=gate, gate_at=gate_at)
        self._run(_cancel_at_gate_or_end(_error_of(self.store.get(key, sink)), gate))
        self._check(key)

    @rule(index=_blobs, seed=_seeds, count=st.integers(2, 5))
    def race_puts(self, index: int, seed: int, count: int) -> None:
        """Puts of one blob race, with readers beside them."""
        key, data = self.blob(index)
        puts = [
            self.store.put(
                key,
                FaultySource(PiecesSource.split(data, 30_000), latency=Latency(seed + n, 4)),
            )
            for n in range(count)
        ]
        sinks = [RecordingSink() for _ in range(3)]
        gets = [_error_of(self.store.get(key, sink)) for sink in sinks]
        results = self._run(_all([*puts, *gets]))
        assert results[:count] == [len(data)] * count
        for sink, error in zip(sinks, results[count:], strict=True):
            if error is None:
                assert sink.data == data
            else:
                assert key not in self.model
                assert isinstance(error, NativeLinkError)
                assert error.code is Code.NOT_FOUND
                assert sink.pieces == []
        self.model[key] = data
        self._check(key)

    @precondition(lambda self: self.string_keys)
    @rule(name=st.sampled_from(_NAMES), seed=_seeds)
    def race_string_puts(self, name: str, seed: int) -> None:
        """Different values race for one key: one of them wins, whole."""
        values = [random.Random(seed + n).randbytes(30_000 * n + 1) for n in range(3)]
        puts = [
            self.store.put(
                name,
                FaultySource(PiecesSource.split(value, 20_000), latency=Latency(seed + n, 4)),
            )
            for n, value in enumerate(values)
        ]
        assert self._run(_all(puts)) == [len(value) for value in values]
        sink = RecordingSink()
        self._run(self.store.get(name, sink))
        assert sink.data in values
        self.model[name] = sink.data

    # Means

    @cached_property
    def _keys(self) -> st.SearchStrategy[StoreKey]:
        """Any key that plays a part, whether it is there or not."""
        keys: list[StoreKey] = [*_EMPTY_KEYS, *(self.blob(n)[0] for n in range(len(_SIZES)))]
        return st.sampled_from(keys + list(_NAMES) if self.string_keys else keys)

    @cached_property
    def _values(self) -> st.SearchStrategy[tuple[StoreKey, bytes]]:
        """A key and a value that might be put there."""
        pairs = [self.blob(n) for n in range(len(_SIZES))]
        if self.string_keys:
            pairs += [(name, b"never to be seen" * 2_500) for name in _NAMES]
        return st.sampled_from(pairs)

    def _check(self, key: StoreKey, offset: int = 0, limit: int | None = None) -> None:
        sink = RecordingSink()
        error = self._run(_error_of(self.store.get(key, sink, offset=offset, limit=limit)))
        value = self.model.get(key)
        if value is None:
            assert isinstance(error, NativeLinkError)
            assert error.code is Code.NOT_FOUND
            assert sink.pieces == []
        elif offset > len(value):
            assert isinstance(error, NativeLinkError)
            assert error.code is Code.OUT_OF_RANGE
        else:
            assert error is None
            end = len(value) if limit is None else offset + limit
            assert sink.data == value[offset:end]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._life = asyncio.Task(self._live(), loop=loop)
        await asyncio.wait([self._life, self._opened], return_when=asyncio.FIRST_COMPLETED)

    async def _live(self) -> None:
        # One task enters and leaves the context, as a TaskGroup inside a store demands.
        async with self.open() as self.store:
            self._opened.set_result(None)
            await self._closing.wait()

    async def _end(self) -> None:
        self._closing.set()
        await self._life
        mine = asyncio.current_task()
        left = [task for task in asyncio.all_tasks() if task is not mine]
        assert left == [], f"tasks were left behind: {left}"


async def _error_of(work: Coroutine[Any, Any, Any]) -> NativeLinkError | None:
    try:
        await work
    except NativeLinkError as error:
        return error
    return None


async def _all(works: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
    return [task.result() for task in tasks]


async def _cancel_at_gate(work: Coroutine[Any, Any, Any], gate: Gate) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        await wait_until(lambda: gate.waiting == 1 or task.done())
        assert gate.waiting == 1, "the put ended without waiting for its source"
        task.cancel()
    assert task.cancelled()


async def _cancel_at_gate_or_end(work: Coroutine[Any, Any, Any], gate: Gate) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        await wait_until(lambda: gate.waiting == 1 or task.done())
        task.cancel()
