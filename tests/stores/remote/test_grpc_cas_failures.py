"""An upstream that misbehaves: breaks off, lies, is down, slow or gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from nativelink.core.digest import Digest
from nativelink.core.errors import Code, NativeLinkError, missing_blob, unavailable
from nativelink.core.retry import Retry
from nativelink.core.rpc import CallContext, MessageSink, Method
from nativelink.core.streams import BytesSink, Chunk
from nativelink.proto.google.bytestream import bytestream_pb2 as bs
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import DictStore, PiecesSource, wait_until
from nativelink.testing.faults import FaultySource, Gate
from tests.errors import error_of
from tests.ports import free_port
from tests.stores.remote.cas_upstream import (
    LARGE,
    LARGE_DATA,
    READ,
    REAPI,
    SMALL,
    SMALL_DATA,
    blob,
    no_pause,
    retrying,
)
from tests.stores.remote.upstream import cas_of, serving


class Breaking:
    """A ByteStream.Read that breaks after some bytes, a few times."""

    def __init__(self, *errors: NativeLinkError, after: int = 1_000_000) -> None:
        self.errors = list(errors)
        self.after = after
        self.asked: list[tuple[int, int]] = []

    async def read(self, request: bs.ReadRequest, context: CallContext, sink: MessageSink) -> None:
        self.asked.append((request.read_offset, request.read_limit))
        end = request.read_offset + request.read_limit if request.read_limit else None
        data = LARGE_DATA[request.read_offset : end]
        if self.errors:
            data = data[: self.after]
        for start in range(0, len(data), 65_536):
            piece = data[start : start + 65_536]
            await sink.write(bs.ReadResponse(data=piece).SerializeToString())
        if self.errors:
            raise self.errors.pop(0)

    def methods(self) -> list[Method]:
        return [Method(READ, self.read, parse=bs.ReadRequest.FromString, server_streaming=True)]


async def test_a_read_that_breaks_goes_on_where_it_stopped() -> None:
    breaking = Breaking(unavailable("one"), unavailable("two"))
    async with (
        serving(DictStore(), instead=breaking.methods()) as upstream,
        cas_of(upstream.address, retry=retrying(1)) as store,
    ):
        assert await read_bytes(store, LARGE) == LARGE_DATA
        assert breaking.asked == [(0, 0), (1_000_000, 0), (2_000_000, 0)]
        breaking.asked.clear()
        breaking.errors = [unavailable("three")]
        part = await read_bytes(store, LARGE, offset=5, limit=2_000_000)
        assert part == LARGE_DATA[5:2_000_005]
        assert breaking.asked == [(5, 2_000_000), (1_000_005, 1_000_000)]


async def test_a_read_that_makes_no_progress_is_given_up() -> None:
    breaking = Breaking(*[unavailable(f"{number}") for number in range(9)], after=0)
    async with (
        serving(DictStore(), instead=breaking.methods()) as upstream,
        cas_of(upstream.address, retry=retrying(2)) as store,
    ):
        error = await error_of(read_bytes(store, LARGE))
    assert (error.code, error.message, len(breaking.asked)) == (Code.UNAVAILABLE, "2", 3)


async def test_a_blob_that_goes_away_while_it_is_read_was_not_absent() -> None:
    breaking = Breaking(unavailable("one"), missing_blob(LARGE))
    breaking.after = 1_000_000
    async with (
        serving(DictStore(), instead=breaking.methods()) as upstream,
        cas_of(upstream.address, retry=retrying()) as store,
    ):
        sink = BytesSink()
        error = await error_of(store.get(LARGE, sink))
    assert error.code is Code.UNAVAILABLE
    assert "went away" in error.message


@pytest.mark.parametrize("more", [-1, 1])
async def test_an_upstream_that_sends_more_or_less_than_the_blob_is_not_believed(more: int) -> None:
    digest = Digest(LARGE.hash, LARGE.size_bytes - more)
    async with (
        serving(DictStore(), instead=Breaking().methods()) as upstream,
        cas_of(upstream.address) as store,
    ):
        error = await error_of(read_bytes(store, digest))
    assert error.code is Code.DATA_LOSS


async def test_an_error_of_the_reader_is_not_tried_again() -> None:
    breaking = Breaking()
    error = unavailable("the reader's")

    class Refusing:
        async def write(self, chunk: Chunk, /) -> None:
            raise error

    async with (
        serving(DictStore(), instead=breaking.methods()) as upstream,
        cas_of(upstream.address, retry=retrying()) as store,
    ):
        assert await error_of(store.get(LARGE, Refusing())) is error
    assert len(breaking.asked) == 1


@pytest.mark.parametrize(
    ("digest", "data"), [(SMALL, SMALL_DATA), (LARGE, LARGE_DATA)], ids=["small", "large"]
)
async def test_an_upstream_that_is_down_is_unavailable_and_nothing_is_absent(
    digest: Digest, data: bytes
) -> None:
    async with cas_of(f"127.0.0.1:{free_port()}", retry=retrying(1)) as store:
        works: tuple[Awaitable[object], ...] = (
            store.has([digest]),
            read_bytes(store, digest),
            read_bytes(store, digest, offset=1),
            write_bytes(store, digest, data),
        )
        for work in works:
            assert (await error_of(work)).code is Code.UNAVAILABLE


async def test_an_upstream_that_dies_in_the_middle_is_noticed_and_used_again_later() -> None:
    backend = DictStore()
    backend.blobs[LARGE] = LARGE_DATA
    address = f"127.0.0.1:{free_port()}"
    other, other_data = blob(3_000_000, 1)
    again = Retry(max_retries=1_000_000, sleep=no_pause)
    gate = Gate()
    source = FaultySource(PiecesSource.split(other_data, 500_000), gate=gate, gate_at=2_500_000)
    async with cas_of(address) as impatient, cas_of(address, retry=again) as patient:
        async with serving(backend, address=address) as upstream:
            await impatient.has([LARGE])
            async with asyncio.TaskGroup() as tasks:
                putting = tasks.create_task(error_of(impatient.put(other, source)))
                await wait_until(lambda: gate.waiting == 1)
                await upstream.server.close()
                gate.open()
            assert putting.result().code is Code.UNAVAILABLE
        assert (await error_of(impatient.has([LARGE]))).code is Code.UNAVAILABLE
        async with serving(backend, address=address):
            assert await patient.has([LARGE, other]) == [LARGE.size_bytes, None]
            assert await read_bytes(patient, LARGE) == LARGE_DATA
            await write_bytes(patient, other, other_data)
            assert backend.blobs[other] == other_data


async def test_an_upstream_that_is_slow_is_given_up_after_the_time_out() -> None:
    async def hang(request: bytes, context: CallContext) -> bytes:
        await asyncio.Event().wait()
        return b""

    instead = [Method(REAPI + "ContentAddressableStorage/FindMissingBlobs", hang)]
    async with (
        serving(DictStore(), instead=instead) as upstream,
        cas_of(upstream.address, timeout_s=0.02) as store,
    ):
        assert (await error_of(store.has([SMALL]))).code is Code.DEADLINE_EXCEEDED
