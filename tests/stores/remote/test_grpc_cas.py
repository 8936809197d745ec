"""The grpc store of blobs: what it calls, and what becomes of it when the upstream misbehaves.

That it is a store is tested in tests/contract.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable

import backports.zstd as zstd
import pytest

from nativelink.core.digest import Digest, DigestFunction, digest_function
from nativelink.core.eager import run_all
from nativelink.core.errors import (
    Code,
    MissingBlob,
    NativeLinkError,
    missing_blob,
    unavailable,
    unimplemented,
)
from nativelink.core.retry import Retry
from nativelink.core.rpc import CallContext, MessageSink, MessageSource, Method
from nativelink.core.streams import BytesSink, BytesSource, Chunk
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.bytestream import bytestream_pb2 as bs
from nativelink.stores.remote.call_metadata import CallMetadata
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import DictStore, PiecesSource, wait_until
from nativelink.testing.faults import FaultySource, Gate
from tests.stores.remote.upstream import INSTANCE, NO_BATCHES, cas_of, serving

REAPI = "/build.bazel.remote.execution.v2."
READ = "/google.bytestream.ByteStream/Read"
WRITE = "/google.bytestream.ByteStream/Write"
SHA = DigestFunction.SHA256


def blob(size: int, seed: int = 0) -> tuple[Digest, bytes]:
    data = random.Random(f"{size} {seed}").randbytes(size)
    return SHA.digest_of(data), data


SMALL, SMALL_DATA = blob(1000)
LARGE, LARGE_DATA = blob(3_000_000)


async def no_pause(_: float) -> None:
    return


def retrying(times: int = 3) -> Retry:
    return Retry(max_retries=times, sleep=no_pause)


async def error_of(work: Awaitable[object]) -> NativeLinkError:
    with pytest.raises(NativeLinkError) as caught:
        await work
    return caught.value


# What is called


async def test_small_blobs_read_at_once_share_a_call() -> None:
    blobs = dict(blob(500, seed) for seed in range(300))
    async with serving(DictStore()) as upstream, cas_of(upstream.address) as store:
        await run_all(write_bytes(store, digest, data) for digest, data in blobs.items())
        assert upstream.calls == ["GetCapabilities", "BatchUpdateBlobs"]
        upstream.calls.clear()
        assert await run_all(read_bytes(store, digest) for digest in blobs) == list(blobs.values())
        assert upstream.calls == ["BatchReadBlobs"]


async def test_the_same_blob_is_asked_for_once_and_each_reader_gets_it() -> None:
    async with serving(DictStore()) as upstream, cas_of(upstream.address) as store:
        await run_all(write_bytes(store, SMALL, SMALL_DATA) for _ in range(3))
        answers = await run_all(read_bytes(store, SMALL) for _ in range(3))
    assert answers == [SMALL_DATA] * 3


async def test_a_batch_is_split_at_the_limit_that_the_upstream_sets() -> None:
    async def capabilities(
        request: pb.GetCapabilitiesRequest, context: CallContext
    ) -> pb.ServerCapabilities:
        return pb.ServerCapabilities(
            cache_capabilities=pb.CacheCapabilities(max_batch_total_size_bytes=10_000)
        )

    instead = Method(
        REAPI + "Capabilities/GetCapabilities",
        capabilities,
        parse=pb.GetCapabilitiesRequest.FromString,
    )
    blobs = dict(blob(3000, seed) for seed in range(6))
    middling, middling_data = blob(20_000)
    async with (
        serving(DictStore(), instead=[instead]) as upstream,
        cas_of(upstream.address) as store,
    ):
        await run_all(write_bytes(store, digest, data) for digest, data in blobs.items())
        await write_bytes(store, middling, middling_data)
        assert upstream.calls == ["GetCapabilities", *["BatchUpdateBlobs"] * 2, "Write"]


async def test_absent_blobs_of_a_batch_do_not_harm_the_others() -> None:
    absent = blob(999, 7)[0]
    async with serving(DictStore()) as upstream, cas_of(upstream.address) as store:
        await write_bytes(store, SMALL, SMALL_DATA)
        async with asyncio.TaskGroup() as tasks:
            here = tasks.create_task(read_bytes(store, SMALL))
            gone = tasks.create_task(error_of(read_bytes(store, absent)))
    assert here.result() == SMALL_DATA
    assert (gone.result().code, gone.result().details) == (Code.NOT_FOUND, (MissingBlob(absent),))


async def test_an_upstream_without_batches_is_asked_one_by_one() -> None:
    async def refuse(request: bytes, context: CallContext) -> bytes:
        raise unimplemented("no batches here")

    instead = [
        Method(f"{REAPI}ContentAddressableStorage/Batch{kind}Blobs", refuse)
        for kind in ("Read", "Update")
    ]
    async with (
        serving(DictStore(), instead=instead) as upstream,
        cas_of(upstream.address) as store,
    ):
        for _ in range(2):
            await write_bytes(store, SMALL, SMALL_DATA)
            assert await read_bytes(store, SMALL) == SMALL_DATA
    assert upstream.calls == [
        "GetCapabilities",
        "BatchUpdateBlobs",
        "Write",
        "Read",
        "Write",
        "Read",
    ]


async def test_the_empty_blob_needs_no_call() -> None:
    empty = SHA.digest_of(b"")
    async with serving(DictStore()) as upstream, cas_of(upstream.address) as store:
        assert await store.has([empty]) == [0]
        assert await read_bytes(store, empty) == b""
        await write_bytes(store, empty, b"")
        assert upstream.calls == []


class Names:
    """An upstream's ByteStream that notes what it is asked."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sizes: list[int] = []

    async def write(self, source: MessageSource, context: CallContext) -> bs.WriteResponse:
        size = 0
        while (message := await source.read()) is not None:
            request = bs.WriteRequest.FromString(bytes(message))
            assert request.write_offset == size
            size += len(request.data)
            self.sizes.append(len(request.data))
            if request.resource_name:
                self.names.append(request.resource_name)
            if request.finish_write:
                break
        return bs.WriteResponse(committed_size=size)

    def methods(self) -> list[Method]:
        return [Method(WRITE, self.write, client_streaming=True)]


async def test_a_large_blob_is_written_in_messages_that_everybody_takes() -> None:
    names = Names()
    async with (
        serving(DictStore(), instead=names.methods()) as upstream,
        cas_of(upstream.address) as store,
    ):
        for source in (BytesSource(LARGE_DATA), PiecesSource.split(LARGE_DATA, 100_000)):
            assert await store.put(LARGE, source) == len(LARGE_DATA)
    assert max(names.sizes) <= 2 * 1024 * 1024
    assert len(names.sizes) == 6


@pytest.mark.parametrize(
    ("function", "legacy", "middle"),
    [
        (None, False, ""),
        (DigestFunction.SHA256, False, ""),
        (DigestFunction.BLAKE3, False, "blake3/"),
        (DigestFunction.BLAKE3, True, ""),
    ],
)
async def test_names_say_what_the_api_demands(
    function: DigestFunction | None, legacy: bool, middle: str
) -> None:
    names = Names()
    token = digest_function.set(function)
    try:
        async with (
            serving(DictStore(), instead=names.methods()) as upstream,
            cas_of(upstream.address, legacy_names=legacy) as store,
        ):
            await write_bytes(store, LARGE, LARGE_DATA)
    finally:
        digest_function.reset(token)
    (name,) = names.names
    assert name.startswith(f"{INSTANCE}/uploads/")
    assert name.endswith(f"/blobs/{middle}{LARGE.hash}/{LARGE.size_bytes}")


async def test_headers_reach_the_upstream() -> None:
    async with (
        serving(DictStore()) as upstream,
        cas_of(upstream.address, metadata=CallMetadata({"x-team": "blue"})) as store,
    ):
        await store.has([SMALL])
        await write_bytes(store, SMALL, SMALL_DATA)
        await read_bytes(store, SMALL)
        await write_bytes(store, LARGE, LARGE_DATA)
        await read_bytes(store, LARGE)
        assert [each.header(b"x-team") for each in upstream.contexts] == [b"blue"] * 6


# Writing


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

    backend.put = full  # type: ignore[method-assign]
    async with serving(backend) as upstream, cas_of(upstream.address) as store:
        error = await error_of(write_bytes(store, digest, data))
    assert (error.code, error.message) == (Code.RESOURCE_EXHAUSTED, "the disk is full")


# Failures of the upstream


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


# Compression


class Compressing:
    """An upstream that can zstd and keeps what it is sent."""

    def __init__(self) -> None:
        self.streams: dict[str, bytes] = {}
        self.reads: list[str] = []

    async def capabilities(
        self, request: pb.GetCapabilitiesRequest, context: CallContext
    ) -> pb.ServerCapabilities:
        return pb.ServerCapabilities(
            cache_capabilities=pb.CacheCapabilities(supported_compressors=[pb.Compressor.ZSTD])
        )

    async def write(self, source: MessageSource, context: CallContext) -> bs.WriteResponse:
        name, data = "", b""
        while (message := await source.read()) is not None:
            request = bs.WriteRequest.FromString(bytes(message))
            name = name or request.resource_name
            data += request.data
        self.streams[name.partition("compressed-")[2]] = data
        return bs.WriteResponse(committed_size=len(data))

    async def read(self, request: bs.ReadRequest, context: CallContext, sink: MessageSink) -> None:
        name = request.resource_name.removeprefix(f"{INSTANCE}/")
        self.reads.append(name)
        data = self.streams[name.removeprefix("compressed-").replace("blobs/zstd/", "blobs/")]
        if not name.startswith("compressed-"):
            data = zstd.decompress(data)[request.read_offset :]
        for start in range(0, len(data), 50_000):
            piece = data[start : start + 50_000]
            await sink.write(bs.ReadResponse(data=piece).SerializeToString())
            if start and name.startswith("compressed-"):
                raise unavailable("broken")

    def methods(self) -> list[Method]:
        return [
            Method(
                REAPI + "Capabilities/GetCapabilities",
                self.capabilities,
                parse=pb.GetCapabilitiesRequest.FromString,
            ),
            Method(WRITE, self.write, client_streaming=True),
            Method(READ, self.read, parse=bs.ReadRequest.FromString, server_streaming=True),
        ]


async def test_large_blobs_travel_compressed_where_both_sides_can() -> None:
    data = random.Random(3).randbytes(40_000) * 50
    digest = SHA.digest_of(data)
    peer = Compressing()
    async with (
        serving(DictStore(), instead=peer.methods()) as upstream,
        cas_of(upstream.address, compression=True, batching=NO_BATCHES) as store,
    ):
        await store.put(digest, PiecesSource.split(data, 300_000))
        (stream,) = peer.streams.values()
        assert len(stream) < 60_000
        assert zstd.decompress(stream) == data
        peer.streams[f"blobs/{digest.hash}/{digest.size_bytes}"] = stream
        assert await read_bytes(store, digest) == data
        assert peer.reads == [f"compressed-blobs/zstd/{digest.hash}/{digest.size_bytes}"]


@pytest.mark.parametrize("code", [Code.UNAUTHENTICATED, Code.PERMISSION_DENIED])
async def test_a_caller_who_is_refused_decides_nothing_for_the_others(code: Code) -> None:
    class Guarded(Compressing):
        refused = 1

        async def capabilities(
            self, request: pb.GetCapabilitiesRequest, context: CallContext
        ) -> pb.ServerCapabilities:
            if self.refused:
                self.refused -= 1
                raise NativeLinkError(code, "who are you?")
            return await super().capabilities(request, context)

    peer = Guarded()
    async with (
        serving(DictStore(), instead=peer.methods()) as upstream,
        cas_of(upstream.address, compression=True, batching=NO_BATCHES) as store,
    ):
        await write_bytes(store, LARGE, LARGE_DATA)
        for seed in range(3):
            await write_bytes(store, *blob(100_000, seed))
    assert upstream.calls.count("GetCapabilities") == 2
    # Only the first blob travelled plain: the upstream had not said yet what it can do.
    assert [name[:11] for name in peer.streams] == ["", *["blobs/zstd/"] * 3]


async def test_what_is_left_of_a_broken_compressed_read_is_read_plain() -> None:
    peer = Compressing()
    name = f"blobs/{LARGE.hash}/{LARGE.size_bytes}"
    peer.streams[name] = zstd.compress(LARGE_DATA)
    async with (
        serving(DictStore(), instead=peer.methods()) as upstream,
        cas_of(upstream.address, compression=True, retry=retrying()) as store,
    ):
        assert await read_bytes(store, LARGE) == LARGE_DATA
    assert peer.reads[0] == f"compressed-{name.replace('blobs/', 'blobs/zstd/')}"
    assert peer.reads[-1] == name


async def test_an_upstream_that_does_not_offer_it_gets_no_compressed_blobs() -> None:
    names = Names()
    async with (
        serving(DictStore(), instead=names.methods()) as upstream,
        cas_of(upstream.address, compression=True) as store,
    ):
        await write_bytes(store, LARGE, LARGE_DATA)
    assert "compressed" not in names.names[0]


async def test_a_whole_tree_comes_in_one_call() -> None:
    upstream_cas = DictStore()

    async def put(directory: pb.Directory) -> Digest:
        data = directory.SerializeToString(deterministic=True)
        await write_bytes(upstream_cas, SHA.digest_of(data), data)
        return SHA.digest_of(data)

    leaf = pb.Directory()
    leaf.symlinks.add(name="link", target="target")
    leaf_digest = await put(leaf)
    top = pb.Directory()
    for name in ("a", "b"):
        top.directories.add(
            name=name,
            digest=pb.Digest(hash=leaf_digest.hash, size_bytes=leaf_digest.size_bytes),
        )
    root = await put(top)
    async with serving(upstream_cas) as upstream, cas_of(upstream.address) as store:
        tree = await store.get_tree(root)
        assert {SHA.digest_of(data) for data in tree} == {root, leaf_digest}
        assert upstream.calls == ["GetTree"]
        error = await error_of(store.get_tree(SMALL))
        assert error.code is Code.NOT_FOUND
