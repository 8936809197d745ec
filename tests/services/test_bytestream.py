"""Uploads that outlive their calls: lost, resumed, fed by two calls at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from nativelink.core.digest import StoreKey
from nativelink.core.errors import Code, NativeLinkError, resource_exhausted
from nativelink.core.streams import Source
from nativelink.proto.google.bytestream import bytestream_pb2 as pb
from nativelink.services.upload import BUFFER_BYTES, UploadName
from nativelink.services.uploads import Uploads
from nativelink.stores.store import DelegatingStore, write_bytes
from nativelink.testing.calls import FakeMessageSource
from nativelink.testing.fakes import DictStore, wait_until
from tests.services.bytestream_calls import (
    LARGE,
    PIECE,
    SHA256,
    SMALL,
    Server,
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


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(DictStore()) as server:
        yield server


class TestResumedWrites:
    @pytest.mark.parametrize("data", [SMALL, LARGE])
    @pytest.mark.parametrize("sent", [1, 3, 4])
    async def test_a_lost_upload_goes_on_from_where_it_was(
        self, server: Server, data: bytes, sent: int
    ) -> None:
        name = name_of(data, "u")
        piece = len(data) // 5
        await server.lose(*requests(name, data, piece=piece)[:sent])
        assert await server.status(name) == (sent * piece, False)
        assert not server.store.blobs
        assert server.service.statistics().parked == 1
        assert await server.write(*requests(name, data, sent * piece)) == len(data)
        assert list(server.store.blobs.values()) == [data]
        assert await server.status(name) == (len(data), True)
        assert server.service.statistics().parked == 0

    async def test_an_upload_may_be_lost_again_and_again(self, server: Server) -> None:
        name = name_of(LARGE, "u")
        for offset in range(0, len(LARGE) - PIECE, PIECE):
            await server.lose(write(name, offset, LARGE[offset : offset + PIECE]))
        received, _ = await server.status(name)
        assert await server.write(*requests(name, LARGE, received)) == len(LARGE)
        assert list(server.store.blobs.values()) == [LARGE]

    async def test_a_client_that_starts_again_is_not_asked_for_more_than_it_sends(
        self, server: Server
    ) -> None:
        name = name_of(LARGE, "u")
        await server.lose(*requests(name, LARGE)[:6])
        assert await server.write(*requests(name, LARGE)) == len(LARGE)
        assert list(server.store.blobs.values()) == [LARGE]

    async def test_a_gap_after_a_loss_keeps_what_is_there_and_asks_to_try_again(
        self, server: Server
    ) -> None:
        name = name_of(LARGE, "u")
        with pytest.raises(NativeLinkError, match="leaves a gap: 0 bytes") as raised:
            await server.write(*requests(name, LARGE, 7 * PIECE))
        # Bazel asks again how far it got, and goes on from there, after ABORTED, but not after
        # INVALID_ARGUMENT.
        assert error_of(raised)[0] is Code.ABORTED
        await server.lose(*requests(name, LARGE)[:6])
        with pytest.raises(NativeLinkError, match="leaves a gap: 393216 bytes"):
            await server.write(*requests(name, LARGE, 7 * PIECE))
        assert await server.status(name) == (6 * PIECE, False)

    async def test_an_end_without_finish_write_keeps_the_upload(self, server: Server) -> None:
        name = name_of(LARGE, "u")
        with pytest.raises(NativeLinkError, match="it can go on from there"):
            await server.write(*requests(name, LARGE)[:6])
        assert await server.write(*requests(name, LARGE, 6 * PIECE)) == len(LARGE)

    async def test_uploads_of_other_blobs_under_one_uuid_are_other_uploads(
        self, server: Server
    ) -> None:
        await server.lose(*requests(name_of(LARGE, "u"), LARGE)[:6])
        assert await server.write(*requests(name_of(SMALL, "u"), SMALL)) == len(SMALL)
        assert await server.status(name_of(LARGE, "u")) == (6 * PIECE, False)

    async def test_an_upload_that_was_stored_meanwhile_may_go_on(self, server: Server) -> None:
        name = name_of(LARGE, "u")
        await server.lose(*requests(name, LARGE)[:6])
        await server.write(*requests(name_of(LARGE, "v"), LARGE))
        assert await server.write(*requests(name, LARGE, 6 * PIECE)) == len(LARGE)

    async def test_a_client_that_leaves_before_the_answer_finds_its_blob_complete(self) -> None:
        store = DictStore()
        committing = asyncio.Event()

        class CommittingStore(DelegatingStore):
            async def put(self, key: StoreKey, source: Source) -> int:
                while await source.read():
                    pass
                await committing.wait()
                return await write_bytes(self._backend, key, LARGE)

        async with serving(store, wrapped=CommittingStore(store)) as server:
            name = name_of(LARGE, "u")
            await server.lose(*requests(name, LARGE))
            assert await server.status(name) == (len(LARGE) - 1, False)
            committing.set()
            await settle()
            assert await server.status(name) == (len(LARGE), True)
            assert server.service.statistics().parked == 0

    async def test_a_small_blob_that_was_all_there_when_its_client_left_is_stored_later(
        self,
    ) -> None:
        store = DictStore()
        slow = SlowStore(store)
        async with serving(store, wrapped=slow) as server:
            name = name_of(SMALL, "u")
            call = await server.start(FakeMessageSource(*requests(name, SMALL, piece=100)))
            await cancelled(call)
            assert slow.cancelled == 1
            slow.gate.set()
            assert await server.write(write(name, len(SMALL), b"", finish=True)) == len(SMALL)
        assert list(store.blobs.values()) == [SMALL]

    async def test_a_put_that_fails_while_nobody_is_connected_is_forgotten(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = DictStore()

        class LateStore(DelegatingStore):
            async def put(self, key: StoreKey, source: Source) -> int:
                await source.read()
                await failing.wait()
                raise resource_exhausted("the disk is full")

        failing = asyncio.Event()
        async with serving(store, wrapped=LateStore(store)) as server:
            name = name_of(LARGE, "u")
            await server.lose(*requests(name, LARGE)[:6])
            failing.set()
            await settle()
            assert await server.status(name) == (0, False)
            assert server.service.statistics().parked == 0
        assert "the disk is full" in caplog.text

    @pytest.mark.parametrize("data", [SMALL, LARGE])
    @pytest.mark.parametrize("finish", [True, False])
    async def test_no_client_is_told_that_all_is_committed_before_it_is(
        self, data: bytes, finish: bool
    ) -> None:
        """Bazel takes a committed_size of the whole blob for success, whatever `complete` says."""
        store = DictStore()
        slow = SlowStore(store)
        async with serving(store, wrapped=slow) as server:
            name = name_of(data, "u")
            messages = requests(name, data, piece=len(data) // 4)
            messages[-1].finish_write = finish
            if data is LARGE:
                slow.gate.set()
                await server.lose(*messages[:-1])
                slow.gate.clear()
                await server.lose(write(name, messages[-1].write_offset, messages[-1].data, finish))
            else:
                await server.lose(*messages)
            assert await server.status(name) == (len(data) - 1, False)
            slow.gate.set()
            assert await server.write(*requests(name, data, len(data) - 1)) == len(data)
            assert await server.status(name) == (len(data), True)
        assert list(store.blobs.values()) == [data]

    async def test_a_put_that_was_cancelled_from_within_is_no_success(self) -> None:
        store = DictStore()

        class CancelledStore(DelegatingStore):
            """Waits for something that somebody else cancels."""

            async def put(self, key: StoreKey, source: Source) -> int:
                while await source.read():
                    pass
                raise asyncio.CancelledError

        async with serving(store, wrapped=CancelledStore(store)) as server:
            with pytest.raises(NativeLinkError) as raised:
                await server.write(*requests(name_of(LARGE, "u"), LARGE))
        assert error_of(raised)[0] is Code.ABORTED


class TestTwoCallsOfOneUpload:
    async def test_two_clients_that_chose_one_name_both_succeed(self, server: Server) -> None:
        name = name_of(LARGE, "u")
        messages = requests(name, LARGE)
        one = FakeMessageSource(*messages[:6], ended=False)
        first = await server.start(one)
        two = FakeMessageSource(*messages[:2], ended=False)
        second = await server.start(two)
        assert server.service.statistics().active == 2
        assert await server.status(name) == (6 * PIECE, False)
        for message in messages[2:]:
            two.send(message)
        for message in messages[6:]:
            one.send(message)
        assert (await first, await second) == (len(LARGE), len(LARGE))
        assert list(server.store.blobs.values()) == [LARGE]
        assert server.service.statistics() == (await statistics_of(server))

    async def test_the_second_of_them_is_not_kept_when_it_is_lost(self, server: Server) -> None:
        name = name_of(LARGE, "u")
        one = FakeMessageSource(*requests(name, LARGE)[:6], ended=False)
        first = await server.start(one)
        await server.lose(*requests(name, LARGE)[:8])
        await settle()
        assert await server.status(name) == (6 * PIECE, False)
        assert server.service.statistics().parked == 0
        for message in requests(name, LARGE)[6:]:
            one.send(message)
        assert await first == len(LARGE)

    @pytest.mark.parametrize("waiting_for_room", [True, False])
    async def test_a_client_that_goes_on_takes_the_upload_from_its_dead_connection(
        self, waiting_for_room: bool
    ) -> None:
        store = DictStore()
        slow = SlowStore(store)
        if not waiting_for_room:
            slow.gate.set()
        async with serving(store, wrapped=slow) as server:
            name = name_of(LARGE, "u")
            old = FakeMessageSource(*requests(name, LARGE)[:9], ended=False)
            dead = await server.start(old)
            received, _ = await server.status(name)
            assert received == (BUFFER_BYTES if waiting_for_room else 9 * PIECE)
            call = await server.start(FakeMessageSource(*requests(name, LARGE, received)))
            slow.gate.set()
            assert await call == len(LARGE)
            old.send(write("", received, LARGE[received:], finish=True))
            with pytest.raises(NativeLinkError, match="went on in another call") as raised:
                await dead
            assert error_of(raised)[0] is Code.ABORTED
        assert slow.puts == 1
        assert list(store.blobs.values()) == [LARGE]

    async def test_a_blob_that_the_dead_connection_stored_after_all_stays_as_it_is(self) -> None:
        store = DictStore()
        slow = SlowStore(store)
        async with serving(store, wrapped=slow) as server:
            name = name_of(SMALL, "u")
            first = await server.start(FakeMessageSource(*requests(name, SMALL, piece=100)))
            assert slow.puts == 1
            again = FakeMessageSource(write(name, len(SMALL) - 1, SMALL[-1:]), ended=False)
            second = await server.start(again)
            slow.gate.set()
            assert await first == len(SMALL)
            again.send(write("", len(SMALL), b"", finish=True))
            assert await second == len(SMALL)
        assert list(store.blobs.values()) == [SMALL]

    async def test_the_dead_connection_cannot_end_what_went_on_elsewhere(
        self, server: Server
    ) -> None:
        name = name_of(LARGE, "u")
        old = FakeMessageSource(*requests(name, LARGE)[:6], ended=False)
        dead = await server.start(old)
        new = FakeMessageSource(*requests(name, LARGE, 6 * PIECE)[:2], ended=False)
        call = await server.start(new)
        old.send(write("", 6 * PIECE, LARGE + b"x"))
        with pytest.raises(NativeLinkError, match="went on in another call"):
            await dead
        for message in requests(name, LARGE, 8 * PIECE):
            new.send(message)
        assert await call == len(LARGE)

    async def test_an_upload_begun_while_an_ended_one_is_cleared_away_is_kept(self) -> None:
        store = DictStore()
        failing = asyncio.Event()

        class LateStore(DelegatingStore):
            async def put(self, key: StoreKey, source: Source) -> int:
                await source.read()
                await failing.wait()
                raise resource_exhausted("the disk is full")

        uploads = Uploads()
        name = UploadName("", "u", SHA256.digest_of(LARGE), SHA256)
        async with uploads:
            with uploads.feeding(name, LateStore(store), 0, 60, "one") as first:
                await first.feed("one", 0, LARGE[:BUFFER_BYTES])
            failing.set()
            await wait_until(lambda: first.ended)
            with uploads.feeding(name, store, 0, 60, "two") as second:
                await second.feed("two", 0, LARGE[:10])
                await settle()
                assert uploads.find(name) is second
            assert uploads.statistics().parked == 1


async def test_random_losses_never_lose_a_byte() -> None:
    """Any schedule of losses, repeats and restarts ends with the blob or with an error."""
    import random

    for seed in range(60):
        chance = random.Random(seed)
        data = chance.randbytes(chance.choice([1000, BUFFER_BYTES, 2 * BUFFER_BYTES + 17]))
        store = DictStore()
        slow = SlowStore(store)
        slow.gate.set()
        async with serving(store, wrapped=slow if chance.random() < 0.5 else store) as server:
            name = name_of(data, "u")
            for _ in range(30):
                received, complete = await server.status(name)
                if complete:
                    break
                piece = chance.randrange(1, len(data))
                offset = chance.choice([received, received, 0, received // 2])
                messages: Sequence[pb.WriteRequest] = requests(name, data, offset, piece)
                kept = chance.randrange(len(messages) + 1)
                call = await server.start(FakeMessageSource(*messages[:kept], ended=False))
                if call.done() and kept:
                    assert await call == len(data)
                elif kept:
                    await cancelled(call)
                    assert (await server.status(name))[0] >= received
                else:
                    await cancelled(call)
            else:
                received, _ = await server.status(name)
                assert await server.write(*requests(name, data, received)) == len(data)
        assert store.blobs == {SHA256.digest_of(data): data}, seed


async def test_the_query_of_an_unknown_upload_is_zero(server: Server) -> None:
    assert await server.status(name_of(SMALL, "u")) == (0, False)
    assert await server.status(name_of(b"", "u")) == (0, True)
