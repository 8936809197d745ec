"""What the grpc store writes, and when an upstream is believed to have it."""

from __future__ import annotations

import asyncio

import pytest

from nativelink.core.digest import Digest
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.rpc import CallContext, MessageSource, Method
from nativelink.proto.google.bytestream import bytestream_pb2 as bs
from nativelink.stores.store import write_bytes
from nativelink.testing.fakes import DictStore, PiecesSource, wait_until
from nativelink.testing.faults import FaultySource, Gate
from tests.errors import error_of
from tests.stores.remote.cas_upstream import (
    LARGE,
    LARGE_DATA,
    SMALL,
    SMALL_DATA,
    WRITE,
    blob,
)
from tests.stores.remote.upstream import cas_of, serving


async def test_a_blob_that_is_there_already_is_not_sent_whole_but_read_to_its_end() -> None:
    taken = 0

    async def has_it(source: MessageSource, context: CallContext) -> bs.WriteResponse:
        nonlocal taken
        message = await source.read()
        taken = len(message or b"")
        return bs.WriteResponse(committed_size=LARGE.size_bytes)

    instead = [Method(WRITE, has_it, client_streaming=True)]
    async with (
        serving(DictStore(), instead=instead) as upstream,
        cas_of(upstream.address) as store,
    ):
        for step in (100_000, 1_500_000, 3_000_000):
            source = PiecesSource.split(LARGE_DATA, step)
            assert await store.put(LARGE, source) == LARGE.size_bytes
            assert await source.read() == b""
    assert 0 < taken < 2 * 1024 * 1024


async def test_an_early_answer_loses_no_piece_of_a_source_that_is_being_read() -> None:
    answered = asyncio.Event()

    async def has_it(source: MessageSource, context: CallContext) -> bs.WriteResponse:
        await source.read()
        answered.set()
        return bs.WriteResponse(committed_size=LARGE.size_bytes)

    gate = Gate()
    source = FaultySource(PiecesSource.split(LARGE_DATA, 700_000), gate=gate, gate_at=2_100_000)
    instead = [Method(WRITE, has_it, client_streaming=True)]
    async with (
        serving(DictStore(), instead=instead) as upstream,
        cas_of(upstream.address) as store,
        asyncio.TaskGroup() as tasks,
    ):
        putting = tasks.create_task(store.put(LARGE, source))
        await wait_until(lambda: gate.waiting == 1)
        await answered.wait()
        gate.open()
        # It counts what it reads, so a lost piece would be an error.
        assert await putting == LARGE.size_bytes


@pytest.mark.parametrize("size", [1000, 3_000_000])
@pytest.mark.parametrize("difference", [-1, 1])
async def test_a_source_of_another_size_than_the_digest_is_refused_and_leaves_nothing(
    size: int, difference: int
) -> None:
    digest, data = blob(size)
    wrong = Digest(digest.hash, size + difference)
    async with serving(DictStore()) as upstream, cas_of(upstream.address) as store:
        error = await error_of(store.put(wrong, PiecesSource.split(data, 90_000)))
        assert error.code is Code.INVALID_ARGUMENT
        assert await store.has([wrong]) == [None]


async def test_an_upstream_that_takes_less_than_all_is_not_believed() -> None:
    async def half(source: MessageSource, context: CallContext) -> bs.WriteResponse:
        await source.read()
        return bs.WriteResponse(committed_size=1)

    instead = [Method(WRITE, half, client_streaming=True)]
    async with (
        serving(DictStore(), instead=instead) as upstream,
        cas_of(upstream.address) as store,
    ):
        error = await error_of(write_bytes(store, LARGE, LARGE_DATA))
    assert (error.code, "took 1 bytes" in error.message) == (Code.DATA_LOSS, True)


@pytest.mark.parametrize(
    ("digest", "data"), [(SMALL, SMALL_DATA), (LARGE, LARGE_DATA)], ids=["small", "large"]
)
async def test_an_upstream_that_is_full_says_so(digest: Digest, data: bytes) -> None:
    backend = DictStore()

    async def full(key: object, source: object) -> int:
        raise NativeLinkError(Code.RESOURCE_EXHAUSTED, "the disk is full")

    backend.put = full
    async with serving(backend) as upstream, cas_of(upstream.address) as store:
        error = await error_of(write_bytes(store, digest, data))
    assert (error.code, error.message) == (Code.RESOURCE_EXHAUSTED, "the disk is full")
