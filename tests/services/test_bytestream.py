from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from nativelink.core.digest import DigestFunction, StoreKey, digest_function
from nativelink.core.errors import Code, NativeLinkError, resource_exhausted
from nativelink.core.streams import Source
from nativelink.proto.google.bytestream import bytestream_pb2 as pb
from nativelink.services.bytestream import ByteStreamInstance, ByteStreamService
from nativelink.services.upload import BUFFER_BYTES, UploadName
from nativelink.services.uploads import Uploads
from nativelink.stores.store import DelegatingStore, Store, write_bytes
from nativelink.testing.calls import Caller, FakeMessageSink, FakeMessageSource
from nativelink.testing.fakes import DictStore, wait_until

SHA256 = DigestFunction.SHA256
KIB = 1024
SMALL = bytes(range(250)) * 4
LARGE = bytes(range(256)) * (3 * BUFFER_BYTES // 256)
PIECE = 64 * KIB


def name_of(data: bytes, uuid: str = "", prefix: str = "", function: str = "") -> str:
    digest = SHA256.digest_of(data)
    upload = f"uploads/{uuid}/" if uuid else ""
    return f"{prefix}{upload}blobs/{function}{digest.hash}/{digest.size_bytes}"


def write(name: str, offset: int = 0, data: bytes = b"", finish: bool = False) -> pb.WriteRequest:
    return pb.WriteRequest(resource_name=name, write_offset=offset, data=data, finish_write=finish)


def requests(name: str, data: bytes, start: int = 0, piece: int = PIECE) -> list[pb.WriteRequest]:
    """What a client sends that uploads `data` from `start` on."""
    sent = [
        write(name if offset == start else "", offset, data[offset : offset + piece])
        for offset in range(start, len(data), piece)
    ] or [write(name, start)]
    sent[-1].finish_write = True
    return sent


class SlowStore(DelegatingStore):
    """Takes a piece of an upload whenever the test lets it, and remembers what it did."""

    def __init__(self, backend: Store) -> None:
        super().__init__(backend)
        self.gate = asyncio.Event()
        self.puts = 0
        self.cancelled = 0
        self.taken = 0
        self.functions: list[DigestFunction | None] = []

    async def put(self, key: StoreKey, source: Source) -> int:
        self.puts += 1
        self.functions.append(digest_function.get())
        outer = self

        class Gated:
            size = source.size

            async def read(self) -> Any:
                await outer.gate.wait()
                chunk = await source.read()
                outer.taken += len(chunk)
                return chunk

        try:
            return await super().put(key, Gated())
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class FullStore(DelegatingStore):
    """Fails after the first piece."""

    async def put(self, key: StoreKey, source: Source) -> int:
        await source.read()
        raise resource_exhausted("the disk is full")


class Server:
    """A service over one store, and what its clients do."""

    def __init__(self, service: ByteStreamService, store: DictStore) -> None:
        self.service = service
        self.store = store
        self._caller = Caller(service.methods())

    async def write(
        self, *messages: pb.WriteRequest, source: FakeMessageSource | None = None
    ) -> int:
        """A whole call; the committed size."""
        source = FakeMessageSource(*messages) if source is None else source
        reply = await self._caller.client_stream("Write", source, pb.WriteResponse)
        return reply.committed_size

    async def start(self, source: FakeMessageSource) -> asyncio.Task[int]:
        """A call that goes on; returns when it waits for its client or for room."""
        task = asyncio.create_task(self.write(source=source))
        await settle()
        return task

    async def lose(self, *messages: pb.WriteRequest) -> None:
        """A call whose client goes away after its last message."""
        task = await self.start(FakeMessageSource(*messages, ended=False))
        await cancelled(task)

    async def status(self, name: str) -> tuple[int, bool]:
        reply = await self._caller.unary(
            "QueryWriteStatus",
            pb.QueryWriteStatusRequest(resource_name=name),
            pb.QueryWriteStatusResponse,
        )
        return reply.committed_size, reply.complete

    async def read(
        self, name: str, offset: int = 0, limit: int = 0, sink: FakeMessageSink | None = None
    ) -> list[bytes]:
        replies = await self._caller.server_stream(
            "Read",
            pb.ReadRequest(resource_name=name, read_offset=offset, read_limit=limit),
            pb.ReadResponse,
            sink,
        )
        return [reply.data for reply in replies]


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[int]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@asynccontextmanager
async def serving(
    store: DictStore,
    *,
    wrapped: Store | None = None,
    uploads: Uploads | None = None,
    **settings: Any,
) -> AsyncIterator[Server]:
    instances = {
        "": ByteStreamInstance(wrapped or store, **settings),
        "a/b": ByteStreamInstance(DictStore()),
    }
    async with ByteStreamService(instances, uploads=uploads) as service:
        yield Server(service, store)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(DictStore()) as server:
        yield server


def error_of(raised: pytest.ExceptionInfo[NativeLinkError]) -> tuple[Code, str]:
    return raised.value.code, raised.value.message


class TestRead:
    async def stored(self, server: Server, data: bytes) -> str:
        await write_bytes(server.store, SHA256.digest_of(data), data)
        return name_of(data)

    @pytest.mark.parametrize(
        ("offset", "limit"), [(0, 0), (3, 0), (0, 7), (990, 0), (990, 100), (1000, 0), (999, 1)]
    )
    async def test_a_range_is_read(self, server: Server, offset: int, limit: int) -> None:
        name = await self.stored(server, SMALL)
        data = b"".join(await server.read(name, offset, limit))
        assert data == SMALL[offset : offset + limit if limit else None]

    @pytest.mark.parametrize("size", [1, 99, 100, 101, 1000])
    async def test_no_message_is_larger_than_the_limit(self, size: int) -> None:
        async with serving(DictStore(), max_bytes_per_stream=100) as server:
            data = SMALL[:size]
            messages = await server.read(await self.stored(server, data))
        assert b"".join(messages) == data
        assert max(map(len, messages)) <= 100
        assert len(messages) == -(-size // 100)

    async def test_a_blob_travels_without_a_copy(self, server: Server) -> None:
        name = await self.stored(server, LARGE)
        sink = FakeMessageSink()
        await server.read(name, sink=sink)
        (stored,) = server.store.blobs.values()
        for _, chunk in sink.parts:
            assert isinstance(chunk, memoryview)
            assert chunk.obj is stored

    async def test_the_empty_blob_is_no_message(self, server: Server) -> None:
        assert await server.read(name_of(b"")) == []

    async def test_an_absent_blob_is_not_found(self, server: Server) -> None:
        with pytest.raises(NativeLinkError) as raised:
            await server.read(name_of(SMALL))
        assert error_of(raised)[0] is Code.NOT_FOUND
        assert str(SHA256.digest_of(SMALL)) in raised.value.message

    @pytest.mark.parametrize(
        ("offset", "limit", "code"),
        [
            (1001, 0, Code.OUT_OF_RANGE),
            (-1, 0, Code.OUT_OF_RANGE),
            (0, -1, Code.INVALID_ARGUMENT),
        ],
    )
    async def test_a_wrong_range_is_refused(
        self, server: Server, offset: int, limit: int, code: Code
    ) -> None:
        name = await self.stored(server, SMALL)
        with pytest.raises(NativeLinkError) as raised:
            await server.read(name, offset, limit)
        assert error_of(raised)[0] is code

    async def test_a_blob_that_is_shorter_than_its_name_says_is_data_loss(
        self, server: Server
    ) -> None:
        name = await self.stored(server, SMALL)
        server.store.blobs[SHA256.digest_of(SMALL)] = SMALL[:-1]
        with pytest.raises(NativeLinkError) as raised:
            await server.read(name)
        assert error_of(raised)[0] is Code.DATA_LOSS

    async def test_the_name_of_an_upload_is_not_read(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match="one of an upload") as raised:
            await server.read(name_of(SMALL, "u"))
        assert error_of(raised)[0] is Code.INVALID_ARGUMENT

    async def test_an_unknown_instance_is_not_found(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match="instances: '', 'a/b'") as raised:
            await server.read(name_of(SMALL, prefix="a/c/"))
        assert error_of(raised)[0] is Code.NOT_FOUND

    @pytest.mark.parametrize("compressor", ["zstd", "deflate", "nonsense"])
    async def test_compression_is_refused_by_name(self, server: Server, compressor: str) -> None:
        name = name_of(SMALL).replace("blobs/", f"compressed-blobs/{compressor}/")
        with pytest.raises(NativeLinkError, match=f"{compressor} is not enabled") as raised:
            await server.read(name)
        assert error_of(raised)[0] is Code.INVALID_ARGUMENT

    async def test_an_instance_name_may_contain_slashes(self, server: Server) -> None:
        assert await server.write(*requests(name_of(SMALL, "u", "a/b/"), SMALL)) == len(SMALL)
        assert b"".join(await server.read(name_of(SMALL, prefix="a/b/"))) == SMALL


class TestWholeWrites:
    @pytest.mark.parametrize("data", [b"", b"x", SMALL, LARGE])
    @pytest.mark.parametrize("piece", [100_000, PIECE, 10_000_000])
    async def test_a_blob_is_written(self, server: Server, data: bytes, piece: int) -> None:
        assert await server.write(*requests(name_of(data, "u"), data, piece=piece)) == len(data)
        assert server.store.blobs == ({SHA256.digest_of(data): data} if data else {})
        assert server.service.statistics().active == 0
        assert await server.status(name_of(data, "u")) == (len(data), True)

    async def test_a_blob_may_end_in_a_message_of_its_own(self, server: Server) -> None:
        messages = [write(name_of(SMALL, "u"), 0, SMALL), write("", len(SMALL), b"", finish=True)]
        assert await server.write(*messages) == len(SMALL)
        assert list(server.store.blobs.values()) == [SMALL]

    async def test_later_messages_may_repeat_the_name(self, server: Server) -> None:
        name = name_of(SMALL, "u")
        messages = [write(name, 0, SMALL[:10]), write(name, 10, SMALL[10:], finish=True)]
        assert await server.write(*messages) == len(SMALL)

    async def test_what_is_there_already_is_not_read(self, server: Server) -> None:
        await write_bytes(server.store, SHA256.digest_of(LARGE), LARGE)
        source = FakeMessageSource(*requests(name_of(LARGE, "u"), LARGE))
        assert await server.write(source=source) == len(LARGE)
        assert source.reads == 1

    async def test_small_blobs_are_written_without_a_task(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(asyncio, "Task")
        for uuid, piece in (("u", 100), ("v", 10_000)):
            data = SMALL + uuid.encode()
            assert await server.write(*requests(name_of(data, uuid), data, piece=piece)) == len(
                data
            )

    async def test_bytes_that_were_received_already_are_skipped(self, server: Server) -> None:
        messages = [
            write(name_of(SMALL, "u"), 0, SMALL[:600]),
            write("", 0, SMALL[:300]),
            write("", 500, SMALL[500:700]),
            write("", 100, SMALL[100:], finish=True),
        ]
        assert await server.write(*messages) == len(SMALL)
        assert list(server.store.blobs.values()) == [SMALL]

    @pytest.mark.parametrize("data", [SMALL, LARGE])
    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (lambda m: m[1].MergeFrom(write("", m[1].write_offset + 1)), "leaves a gap"),
            (lambda m: m[1].MergeFrom(write("", -1)), "write_offset -1 is negative"),
            (lambda m: m.insert(-1, write("", 0, LARGE + b"x")), "bytes were sent for blob"),
            (lambda m: m[-1].ClearField("data"), "finish_write after"),
            (lambda m: m[1].MergeFrom(write("other")), "in a stream that started with"),
            (lambda m: m[-1].ClearField("finish_write"), "ended without finish_write"),
        ],
    )
    async def test_a_wrong_stream_is_refused_and_leaves_nothing(
        self, server: Server, data: bytes, change: Any, why: str
    ) -> None:
        messages = requests(name_of(data, "u"), data, piece=len(data) // 4)
        change(messages)
        with pytest.raises(NativeLinkError, match=why) as raised:
            await server.write(*messages)
        assert error_of(raised)[0] is Code.INVALID_ARGUMENT
        await settle()
        assert not server.store.blobs
        assert server.service.statistics().active == 0

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("", "malformed resource name"),
            (name_of(SMALL), "not one of an upload"),
            (name_of(SMALL, "u").replace("blobs", "compressed-blobs/zstd"), "zstd is not enabled"),
        ],
    )
    async def test_a_wrong_name_is_refused(self, server: Server, name: str, why: str) -> None:
        with pytest.raises(NativeLinkError, match=why) as raised:
            await server.write(write(name, 0, SMALL, finish=True))
        assert error_of(raised)[0] is Code.INVALID_ARGUMENT
        with pytest.raises(NativeLinkError, match=why):
            await server.status(name)

    async def test_a_stream_without_a_message_is_refused(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match="before its first request"):
            await server.write()

    async def test_bytes_that_are_no_request_are_refused(self, server: Server) -> None:
        source = FakeMessageSource(requests(name_of(SMALL, "u"), SMALL, piece=100)[0], b"\xff")
        with pytest.raises(NativeLinkError, match="malformed google"):
            await server.write(source=source)

    @pytest.mark.parametrize("data", [SMALL, LARGE])
    @pytest.mark.parametrize("piece", [PIECE, 10_000_000])
    async def test_the_stores_error_is_the_calls(self, data: bytes, piece: int) -> None:
        store = DictStore()
        async with serving(store, wrapped=FullStore(store)) as server:
            with pytest.raises(NativeLinkError, match="the disk is full"):
                await server.write(*requests(name_of(data, "u"), data, piece=piece))
            assert await server.status(name_of(data, "u")) == (0, False)

    async def test_the_names_digest_function_reaches_the_store(self) -> None:
        store = DictStore()
        slow = SlowStore(store)
        slow.gate.set()
        async with serving(store, wrapped=slow) as server:
            for data in (SMALL, LARGE):
                for function in ("", "sha256/", "blake3/"):
                    store.blobs.clear()
                    name = name_of(data, "u", function=function)
                    assert await server.write(*requests(name, data)) == len(data)
        assert slow.functions == [None, None, DigestFunction.BLAKE3] * 2


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


async def statistics_of(server: Server) -> Any:
    """What an idle service says."""
    await settle()
    async with serving(DictStore()) as idle:
        return idle.service.statistics()


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
