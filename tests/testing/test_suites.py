"""The suites notice what they promise to notice: stores with one defect each."""

import inspect
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from nativelink.core.digest import StoreKey, is_empty
from nativelink.core.errors import NativeLinkError
from nativelink.core.streams import Sink, Source
from nativelink.stores.store import Store
from nativelink.testing.fakes import DictStore
from nativelink.testing.store_contract import StringKeys
from nativelink.testing.store_machine import StoreMachine


class CommitsEarly(DictStore):
    """Shows a blob while it is put (2)."""

    async def put(self, key: StoreKey, source: Source) -> int:
        data = b""
        while chunk := await source.read():
            data += chunk
            self.blobs[key] = data
        return len(data)


class StopsReading(DictStore):
    """Does not read the source of what it has already (9)."""

    async def put(self, key: StoreKey, source: Source) -> int:
        if key in self.blobs and not isinstance(key, str):
            return len(self.blobs[key])
        return await super().put(key, source)


class KeepsOld(DictStore):
    """Never replaces the value of a string key (1)."""

    async def put(self, key: StoreKey, source: Source) -> int:
        old = self.blobs.get(key)
        size = await super().put(key, source)
        if old is not None:
            self.blobs[key] = old
        return size


class ForgetsTheEmptyBlob(DictStore):
    """Does not know that the empty blob is always there (5)."""

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        return [len(self.blobs[key]) if key in self.blobs else None for key in keys]


class OffByOne(DictStore):
    """Gives one byte too many of a range (4)."""

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        await super().get(key, sink, offset=offset, limit=limit + 1 if limit else limit)


class ReadsTwice(DictStore):
    """Looks the value up again between two pieces (6)."""

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        (size,) = await self.has([key])
        end = offset + limit if limit is not None else max(size or 0, offset + 1)
        for start in range(offset, max(end, offset + 1), 50_000):
            await super().get(key, sink, offset=start, limit=min(50_000, end - start))


class SetsInsteadOfList(DictStore):
    """Answers a batch out of order (10)."""

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        return await super().has(sorted(keys, key=str))


class RaisesInHas(DictStore):
    """Raises for an absent key (11)."""

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        for key in keys:
            if key not in self.blobs and not is_empty(key):
                await self.get(key, None)
        return await super().has(keys)


class ReusesItsBuffer(DictStore):
    """Writes views of one buffer that it fills again (streams.Chunk)."""

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        buffer = bytearray(10_000)

        class Reusing:
            async def write(self, chunk: Any, /) -> None:
                for start in range(0, len(chunk), len(buffer)):
                    piece = chunk[start : start + len(buffer)]
                    buffer[: len(piece)] = piece
                    await sink.write(memoryview(buffer)[: len(piece)])

        await super().get(key, Reusing(), offset=offset, limit=limit)


MUTANTS = [
    CommitsEarly,
    StopsReading,
    KeepsOld,
    ForgetsTheEmptyBlob,
    OffByOne,
    ReadsTwice,
    SetsInsteadOfList,
    RaisesInHas,
    ReusesItsBuffer,
]

FAILURES = (AssertionError, pytest.fail.Exception, NativeLinkError, ExceptionGroup)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
async def test_the_contract_suite_catches(mutant: type[DictStore]):
    class Suite(StringKeys):
        @asynccontextmanager
        async def open(self) -> AsyncIterator[Store]:
            yield mutant()

    caught = []
    for name, test in inspect.getmembers(Suite(), inspect.iscoroutinefunction):
        marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
        if not name.startswith("test_"):
            continue
        for arguments in marks[0].args[1] if marks else [None]:
            try:
                await (test(arguments) if marks else test())
            except FAILURES:
                caught.append(name)
                break
    assert caught


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_machine_catches(mutant: type[DictStore]):
    class Machine(StoreMachine):
        @asynccontextmanager
        async def open(self) -> AsyncIterator[Store]:
            yield mutant()

    once = settings(Machine.TestCase.settings, phases=(Phase.generate,), report_multiple_bugs=False)
    with pytest.raises(FAILURES):
        run_state_machine_as_test(Machine, settings=once)
