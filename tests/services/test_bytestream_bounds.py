"""How much uploads may hold, and for how long."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from nativelink.core.digest import StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Source
from nativelink.services.upload import BUFFER_BYTES, UploadName
from nativelink.services.uploads import Uploads
from nativelink.stores.store import DelegatingStore
from nativelink.testing.calls import FakeMessageSource
from nativelink.testing.fakes import DictStore
from tests.services.bytestream_calls import (
    KIB,
    LARGE,
    PIECE,
    SHA256,
    SlowStore,
    cancelled,
    error_of,
    name_of,
    requests,
    serving,
    settle,
    statistics_of,
    write,
)


class TestBounds:
    async def test_a_slow_store_holds_its_client_back(self) -> None:
        store = DictStore()
        slow = SlowStore(store)
        data = LARGE * 4
        async with serving(store, wrapped=slow) as server:
            source = FakeMessageSource(*requests(name_of(data, "u"), data))
            call = await server.start(source)
            assert server.service.statistics().buffered_bytes == BUFFER_BYTES
            # One more message waits in the call for room.
            assert source.reads == BUFFER_BYTES // PIECE + 1
            slow.gate.set()
            assert await call == len(data)
            assert server.service.statistics().buffered_bytes == 0

    async def test_small_messages_reach_the_store_in_one_piece(self) -> None:
        store = DictStore()
        sizes: list[int] = []

        class SizesStore(DelegatingStore):
            async def put(self, key: StoreKey, source: Source) -> int:
                while chunk := await source.read():
                    sizes.append(len(chunk))
                return len(LARGE)

        async with serving(store, wrapped=SizesStore(store)) as server:
            await server.write(*requests(name_of(LARGE, "u"), LARGE, piece=16 * KIB))
        assert sizes == [BUFFER_BYTES] * 3

    async def test_what_a_store_does_not_want_is_not_kept(self) -> None:
        store = DictStore()

        class ContentStore(DelegatingStore):
            """Says that it has stored the blob before it has read it."""

            async def put(self, key: StoreKey, source: Source) -> int:
                return len(await source.read())

        async with serving(store, wrapped=ContentStore(store)) as server:
            source = FakeMessageSource(*requests(name_of(LARGE, "u"), LARGE)[:8], ended=False)
            call = await server.start(source)
            source.send(write("", 8 * PIECE, LARGE[8 * PIECE : 9 * PIECE]))
            await settle()
            assert source.reads == 9
            assert server.service.statistics().buffered_bytes == 0
            source.send(write("", 9 * PIECE, LARGE[9 * PIECE :], finish=True))
            assert await call == len(LARGE)

    async def test_a_parked_upload_ends_after_its_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = DictStore()
        slow = SlowStore(store)
        slow.gate.set()
        loop = asyncio.get_running_loop()
        real, ahead = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + ahead)
        async with serving(
            store, wrapped=slow, persist_stream_on_disconnect_timeout_s=60
        ) as server:
            name, other = name_of(LARGE, "u"), name_of(LARGE, "v")
            await server.lose(*requests(name, LARGE)[:6])
            ahead = 50
            await server.lose(*requests(other, LARGE)[:6])
            ahead = 61
            await settle()
            assert await server.status(name) == (0, False)
            assert await server.status(other) == (6 * PIECE, False)
            assert slow.cancelled == 1
            # Going on starts the time again.
            await server.lose(write(other, 6 * PIECE, LARGE[6 * PIECE : 7 * PIECE]))
            ahead = 115
            await settle()
            assert await server.status(other) == (7 * PIECE, False)
            ahead = 125
            await settle()
            assert server.service.statistics() == (await statistics_of(server))
            assert slow.cancelled == 2

    async def test_the_upload_parked_first_makes_room(self) -> None:
        async with serving(DictStore(), uploads=Uploads(max_parked=2)) as server:
            names = [name_of(LARGE, uuid) for uuid in "uvw"]
            for name in names:
                await server.lose(*requests(name, LARGE)[:6])
            received = [(await server.status(name))[0] for name in names]
            assert received == [0, 6 * PIECE, 6 * PIECE]
            assert server.service.statistics().parked == 2

    async def test_many_tiny_messages_cost_no_more_than_their_bytes(self) -> None:
        data = bytes(range(200)) * 60
        name = name_of(data, "u")
        async with serving(DictStore()) as server:
            await server.lose(write(name, 0, data[:1]))
            source = FakeMessageSource(*requests(name, data, 1, 1)[:-1], ended=False)
            tracemalloc.start()
            try:
                call = await server.start(source)
                kept = tracemalloc.take_snapshot()
            finally:
                tracemalloc.stop()
            assert server.service.statistics().buffered_bytes == len(data) - 1
            # Views would be 200 bytes each, and keep their messages.
            assert sum(trace.size for trace in kept.traces) < 2 * len(data)
            await cancelled(call)
            assert await server.write(*requests(name, data, len(data) - 1)) == len(data)
            assert list(server.store.blobs.values()) == [data]
            assert type(server.store.blobs[SHA256.digest_of(data)]) is bytes

    async def test_a_source_that_was_given_up_says_so(self) -> None:
        """A store whose helper task survives its `put` must not wait for ever."""
        uploads = Uploads()
        name = UploadName("", "u", SHA256.digest_of(LARGE), SHA256)
        async with uploads:
            with uploads.feeding(name, DictStore(), 0, 60, "call") as upload:
                await upload.feed("call", 0, LARGE[:10])
        with pytest.raises(NativeLinkError, match="was given up"):
            await upload.read()

    async def test_a_closed_service_takes_nothing_and_keeps_nothing(self) -> None:
        store = DictStore()
        async with serving(store) as server:
            name = name_of(LARGE, "u")
            source = FakeMessageSource(*requests(name, LARGE)[:2], ended=False)
            call = await server.start(source)
        await cancelled(call)
        with pytest.raises(NativeLinkError, match="shutting down") as raised:
            await server.write(*requests(name, LARGE))
        assert error_of(raised)[0] is Code.UNAVAILABLE
        assert server.service.statistics().parked == 0
        assert not store.blobs

    async def test_closing_the_service_gives_up_what_is_under_way(self) -> None:
        store = DictStore()
        slow = SlowStore(store)
        slow.gate.set()
        async with serving(store, wrapped=slow) as server:
            await server.lose(*requests(name_of(LARGE, "u"), LARGE)[:6])
            source = FakeMessageSource(*requests(name_of(LARGE, "v"), LARGE)[:6], ended=False)
            call = await server.start(source)
        assert slow.cancelled == 2
        assert not store.blobs
        source.send(write("", 6 * PIECE, b"x"))
        with pytest.raises(NativeLinkError, match="was given up"):
            await call
